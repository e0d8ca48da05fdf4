//! Who is connected, and which socket gets which message.
//!
//! Messages go where ComfyUI sends them. Besides, a connection may ask to hear of every job, whoever sent it:
//! comfyd's own page does, and may, since the same can be read from the queue and the history.
//!
//! Deliberately knows no sockets: a connection is a line of frames that its own task empties (`ws.rs`).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::{Message as Frame, Utf8Bytes};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::absent::{Absent, Missed};
use super::events::{self, Audience, Message, note, plain_preview, preview_with_metadata, render};
use super::line::{Line, Waiting, line};
use crate::graph::PreviewFormat;
use crate::python_json;
use crate::queue::{Notice, now_ms};

/// The feature flag by which a client asks to hear of every job.
const WATCH: &str = "comfyd_watch";

/// All connections of a server.
#[derive(Default)]
pub(super) struct Hub(Mutex<Connections>);

#[derive(Default)]
struct Connections {
    /// By client id; of two sockets with one id, the newer.
    open: HashMap<String, Connection>,
    /// Clients that hear of every job. Some may have left.
    watchers: BTreeSet<String>,
    absent: Absent,
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

    /// Opens a connection that begins with a greeting, and with what the client missed of jobs that began before
    /// it first came. An older connection of the same client falls silent.
    pub fn connect(&self, client: &str, remaining: usize, active: Option<&str>) -> Ticket {
        let (line, frames) = line();
        let greeting = json!({"status": events::queue_info(remaining), "sid": client});
        line.send(text("status", &greeting), None);
        if let Some(node) = active {
            line.send(text("executing", &json!({"node": node})), None);
        }
        let mut connections = self.lock();
        for frame in replay(&connections.absent.take(client), remaining) {
            line.send(frame, None);
        }
        connections.watchers.remove(client);
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
            open.line.send(text("feature_flags", features), None);
            if flags[WATCH] == Json::Bool(true) {
                connections.watchers.insert(ticket.client.clone());
            }
        }
    }

    /// Notes that a client has learned of a job's end in another way.
    pub fn is_known(&self, job: &str) {
        self.lock().absent.forget(job);
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
        wanting.for_each(|open| open.line.send_if_short(&frame, None));
    }

    /// Passes on a notice of the queue.
    pub fn tell(&self, notice: Notice<'_>) {
        let mut connections = self.lock();
        if let Notice::Run { job, .. } | Notice::Ended { job } = notice
            && job.client.as_ref().is_some_and(|client| !connections.open.contains_key(client))
        {
            connections.absent.keep(&notice);
        }
        if !connections.hear(&notice) {
            return;
        }
        let (audience, message) = render(notice);
        let with_metadata = connections.wants_metadata(audience);
        let not_before = not_before(&notice);
        for (frame, lossy) in in_frames(message, with_metadata) {
            connections.send(audience, &frame, lossy, not_before);
        }
    }
}

/// When a notice may be told at the earliest, if not at once.
fn not_before(notice: &Notice<'_>) -> Option<Instant> {
    let (Notice::Run { job, .. } | Notice::Ended { job }) = notice else { return None };
    let wait = job.tell_from_ms.checked_sub(now_ms()).filter(|wait| *wait > 0)?;
    // The clock may have been set back meanwhile.
    Some(Instant::now() + Duration::from_millis(wait.min(job.tell_from_ms - job.created_ms)))
}

/// What a late client is told of its jobs. Before the end of each comes the number of jobs left, as if they ended
/// now: some clients take the first end with none left for the end of all.
fn replay(missed: &[Missed], remaining: usize) -> Vec<Frame> {
    let mut over = missed.iter().filter(|job| job.is_over()).count();
    let mut frames = Vec::new();
    for notice in missed.iter().flat_map(Missed::notices) {
        if matches!(notice, Notice::Ended { .. }) {
            over -= 1;
            frames.push(text("status", &json!({"status": events::queue_info(remaining + over)})));
        }
        let (_, message) = render(notice);
        frames.extend(in_frames(message, false).into_iter().map(|(frame, _)| frame));
    }
    frames
}

/// A message as it goes over the wire, and whether clients that lag may miss it.
fn in_frames(message: Message, with_metadata: bool) -> Vec<(Frame, bool)> {
    match message {
        Message::Json(kind, data) => {
            vec![(text(kind, &data), matches!(kind, "progress_state" | "progress"))]
        }
        Message::Note { node, text } => vec![(Frame::Binary(note(&node, &text)), true)],
        Message::Step { data, job, node, image } => {
            // SaveImageWebsocket sends its results this way, as PNG; of those none may be lost.
            let lossy = image.format == PreviewFormat::Jpeg;
            let progress = text("progress", &data);
            // Who understands metadata gets the picture first, others last, and all of them only one.
            let frames = if with_metadata {
                [Frame::Binary(preview_with_metadata(&job, &node, &image)), progress]
            } else {
                [progress, Frame::Binary(plain_preview(&image))]
            };
            frames.into_iter().map(|frame| (frame, lossy)).collect()
        }
    }
}

impl Connections {
    /// Whether anybody would get the notice. Rendering the state of a large graph is worth the question.
    fn hear(&self, notice: &Notice<'_>) -> bool {
        match notice {
            Notice::Run { job, .. } | Notice::Ended { job } => match &job.client {
                Some(client) => !self.watchers.is_empty() || self.open.contains_key(client),
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
    fn send(&mut self, audience: Audience<'_>, frame: &Frame, lossy: bool, not_before: Option<Instant>) {
        let deliver = |client: &str, open: &Connection| {
            if lossy {
                open.line.send_if_short(frame, not_before);
                return true;
            }
            let delivered = open.line.send(frame.clone(), not_before);
            if !delivered {
                tracing::warn!(client, "let go a websocket that does not read");
            }
            delivered
        };
        let only = match audience {
            Audience::Everybody => {
                self.open.retain(|client, open| deliver(client, open));
                return;
            }
            Audience::Client(client) => Some(client),
            Audience::Nobody => None,
        };
        if let Some(client) = only
            && self.open.get(client).is_some_and(|open| !deliver(client, open))
        {
            self.open.remove(client);
        }
        let open = &mut self.open;
        self.watchers.retain(|watcher| {
            let told = only == Some(watcher) || open.get(watcher).is_some_and(|open| deliver(watcher, open));
            if !told {
                open.remove(watcher);
            }
            told
        });
    }
}

/// A text frame.
fn text(kind: &str, data: &Json) -> Frame {
    Frame::Text(Utf8Bytes::from(python_json::write(&json!({"type": kind, "data": data}))))
}
