//! Who is connected, and which socket gets which message.
//!
//! Deliberately knows no sockets: a connection is a line of frames that its own task empties (`ws.rs`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::ws::{Message as Frame, Utf8Bytes};
use serde_json::{Value as Json, json};

use super::events::{self, Audience, Message, note, plain_preview, preview_with_metadata, render};
use super::line::{Line, Waiting, line};
use crate::graph::PreviewFormat;
use crate::python_json;
use crate::queue::Notice;

/// All connections of a server.
#[derive(Default)]
pub(super) struct Hub(Mutex<Connections>);

#[derive(Default)]
struct Connections {
    /// By client id; of two sockets with one id, the newer.
    open: HashMap<String, Connection>,
    serial: u64,
}

struct Connection {
    serial: u64,
    line: Line,
    previews_with_metadata: bool,
    wants_logs: bool,
}

/// One end of a connection. The hub forgets the connection when its ticket is handed back.
pub(super) struct Ticket {
    pub client: String,
    serial: u64,
    pub frames: Waiting,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a connection that begins with a greeting. An older one of the same client falls silent.
    pub fn connect(&self, client: &str, remaining: usize, active: Option<&str>) -> Ticket {
        let (line, frames) = line();
        let greeting = json!({"status": events::queue_info(remaining), "sid": client});
        line.send(text("status", &greeting));
        if let Some(node) = active {
            line.send(text("executing", &json!({"node": node})));
        }
        let mut connections = self.lock();
        connections.serial += 1;
        let serial = connections.serial;
        let connection = Connection { serial, line, previews_with_metadata: false, wants_logs: false };
        connections.open.insert(client.to_owned(), connection);
        Ticket { client: client.to_owned(), serial, frames }
    }

    /// Forgets a connection, but not a newer one of the same client.
    pub fn disconnect(&self, ticket: &Ticket) {
        let mut connections = self.lock();
        if connections.open.get(&ticket.client).is_some_and(|open| open.serial == ticket.serial) {
            connections.open.remove(&ticket.client);
        }
    }

    /// Keeps what a client said it can do, and tells it what the server can.
    pub fn agree(&self, ticket: &Ticket, flags: &Json, features: &Json) {
        let mut connections = self.lock();
        if let Some(open) = connections.open.get_mut(&ticket.client)
            && open.serial == ticket.serial
        {
            open.previews_with_metadata = flags["supports_preview_metadata"] == Json::Bool(true);
            open.line.send(text("feature_flags", features));
        }
    }

    pub fn want_logs(&self, client: &str, wanted: bool) {
        if let Some(open) = self.lock().open.get_mut(client) {
            open.wants_logs = wanted;
        }
    }

    /// Sends new lines of the log to those who asked for them. Never logs.
    pub fn tell_logs(&self, lines: &Json) {
        let connections = self.lock();
        let wanting = connections.open.values().filter(|open| open.wants_logs);
        let frame = text("logs", lines);
        wanting.for_each(|open| open.line.send_if_short(&frame));
    }

    /// Passes on a notice of the queue.
    pub fn tell(&self, notice: Notice<'_>) {
        let mut connections = self.lock();
        if !connections.hear(&notice) {
            return;
        }
        let (audience, message) = render(notice);
        match message {
            Message::Json(kind, data) => {
                let lossy = matches!(kind, "progress_state" | "progress");
                connections.send(audience, &text(kind, &data), lossy);
            }
            Message::Note { node, text } => {
                connections.send(audience, &Frame::Binary(note(&node, &text)), true);
            }
            Message::Step { data, job, node, image } => {
                let progress = text("progress", &data);
                // Who understands metadata gets the picture first, others last, and all of them only one.
                let frames = if connections.wants_metadata(audience) {
                    [Frame::Binary(preview_with_metadata(&job, &node, &image)), progress]
                } else {
                    [progress, Frame::Binary(plain_preview(&image))]
                };
                // SaveImageWebsocket sends its results this way, as PNG; of those none may be lost.
                let lossy = image.format == PreviewFormat::Jpeg;
                for frame in &frames {
                    connections.send(audience, frame, lossy);
                }
            }
        }
    }
}

impl Connections {
    /// Whether anybody would get the notice. Rendering the state of a large graph is worth the question.
    fn hear(&self, notice: &Notice<'_>) -> bool {
        match notice {
            Notice::Run { job, .. } | Notice::Ended { job } => match &job.client {
                Some(client) => self.open.contains_key(client),
                None => !self.open.is_empty(),
            },
            Notice::Remaining(_) => !self.open.is_empty(),
        }
    }

    /// Whether previews for this audience carry metadata. What goes to everybody does not.
    fn wants_metadata(&self, audience: Audience<'_>) -> bool {
        let Audience::Client(client) = audience else { return false };
        self.open.get(client).is_some_and(|open| open.previews_with_metadata)
    }

    /// Puts a frame into the lines of its audience. `lossy` frames are dropped for clients that lag: a later
    /// one makes up for them.
    fn send(&mut self, audience: Audience<'_>, frame: &Frame, lossy: bool) {
        let deliver = |client: &str, open: &Connection| {
            if lossy {
                open.line.send_if_short(frame);
                return true;
            }
            let delivered = open.line.send(frame.clone());
            if !delivered {
                tracing::warn!(client, "let go a websocket that does not read");
            }
            delivered
        };
        match audience {
            Audience::Everybody => self.open.retain(|client, open| deliver(client, open)),
            Audience::Client(client) => {
                if self.open.get(client).is_some_and(|open| !deliver(client, open)) {
                    self.open.remove(client);
                }
            }
            Audience::Nobody => {}
        }
    }
}

/// A text frame.
fn text(kind: &str, data: &Json) -> Frame {
    Frame::Text(Utf8Bytes::from(python_json::write(&json!({"type": kind, "data": data}))))
}
