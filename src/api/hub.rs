//! Who is connected, and which socket gets which message.
//!
//! Messages go where ComfyUI sends them. Besides, a connection may ask to hear of every job, whoever sent it:
//! comfyd's own page does, and may, since the same can be read from the queue and the history.
//!
//! What is told to one goes at once. What is told to everybody may wait some milliseconds, until the connections of a
//! crowd get their turn, a few at a time: otherwise whoever waits for a job would wait for everybody else to hear of it.
//! The order on each connection stays.
//!
//! Deliberately knows no sockets: a connection is a line of frames that its own task empties (`ws.rs`).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::{Message as Frame, Utf8Bytes};
use serde_json::{Value as Json, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::absent::{Absent, Missed};
use super::events::{self, Audience, Message, note, plain_preview, preview_with_metadata, render};
use super::line::{Line, Waiting, line};
use crate::graph::PreviewFormat;
use crate::python_json;
use crate::queue::{Job, Notice, now_ms};

/// The feature flag by which a client asks to hear of every job.
const WATCH: &str = "comfyd_watch";

/// The fewest connections that get their turn together, and the most turns until everybody had one.
const TOGETHER: usize = 8;
const TURNS: usize = 16;

/// How long after its prompt was accepted a job's very last message is told at the earliest, in milliseconds.
///
/// Some clients read the answer to their prompt in one thread and messages in another, and wait for ever when they
/// hear of the end of a job whose number they have not read yet. ComfyUI takes that long for the smallest job. Who sends
/// another prompt has read the number.
const KNOWN_MS: u64 = 15;

/// From one turn to the next.
const PAUSE: Duration = Duration::from_millis(2);

/// All connections of a server.
#[derive(Default)]
pub(super) struct Hub {
    connections: Mutex<Connections>,
    /// Signals that somebody in the crowd is to be told something.
    crowd: Notify,
}

#[derive(Default)]
struct Connections {
    /// By client id; of two sockets with one id, the newer.
    open: HashMap<String, Connection>,
    /// Who is to be told something later, in the order of their turns. Some may have left or heard it.
    crowd: VecDeque<(String, u64)>,
    /// Clients that hear of every job. Some may have left.
    watchers: BTreeSet<String>,
    absent: Absent,
    serial: u64,
}

struct Connection {
    serial: u64,
    line: Line,
    /// What waits for this connection's turn.
    later: Vec<Parcel>,
    previews_with_metadata: bool,
    wants_logs: bool,
    /// When the client last sent a prompt.
    prompted_ms: u64,
}

/// A frame, whether clients that lag may miss it because a later one makes up for it, and when it may leave at the
/// earliest.
#[derive(Clone)]
struct Parcel {
    frame: Frame,
    lossy: bool,
    not_before: Option<Instant>,
}

impl Connection {
    /// Puts what waits, and then `parcels`, into the line; `false` when the line is cut.
    fn tell(&mut self, parcels: &[Parcel]) -> bool {
        let later = std::mem::take(&mut self.later);
        later.iter().chain(parcels).all(|parcel| {
            if parcel.lossy {
                self.line.send_if_short(&parcel.frame, parcel.not_before);
                return true;
            }
            self.line.send(parcel.frame.clone(), parcel.not_before)
        })
    }
}

/// One end of a connection. The hub forgets the connection when its ticket is handed back.
pub(super) struct Ticket {
    pub client: String,
    serial: u64,
    pub frames: Waiting,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives everybody their turn, for ever.
    pub async fn attend(&self) {
        loop {
            self.crowd.notified().await;
            let mut waiting = true;
            while waiting {
                waiting = self.lock().take_turns();
                sleep(PAUSE).await;
            }
        }
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
        let later = Vec::new();
        let connection = Connection {
            serial,
            line,
            later,
            previews_with_metadata: false,
            wants_logs: false,
            prompted_ms: 0,
        };
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

    /// How many connections are open.
    pub fn count(&self) -> usize {
        self.lock().open.len()
    }

    /// Keeps what a client said it can do, and tells it what the server can.
    pub fn agree(&self, ticket: &Ticket, flags: &Json, features: &Json) {
        let mut connections = self.lock();
        if let Some(open) = connections.open.get_mut(&ticket.client)
            && open.serial == ticket.serial
        {
            open.previews_with_metadata = flags["supports_preview_metadata"] == Json::Bool(true);
            let frame = text("feature_flags", features);
            open.tell(&[Parcel { frame, lossy: false, not_before: None }]);
            if flags[WATCH] == Json::Bool(true) {
                connections.watchers.insert(ticket.client.clone());
            }
        }
    }

    /// Notes that a client has learned of a job's end in another way.
    pub fn is_known(&self, job: &str) {
        self.lock().absent.forget(job);
    }

    /// Notes that a client sends a prompt, so that it needs no more time for what it is told of those before.
    pub fn prompts(&self, client: &str) {
        if let Some(open) = self.lock().open.get_mut(client) {
            open.prompted_ms = now_ms();
            open.line.release();
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
        let not_before = connections.not_before(&notice);
        let frames = in_frames(message, with_metadata).into_iter();
        let parcels: Vec<_> = frames.map(|(frame, lossy)| Parcel { frame, lossy, not_before }).collect();
        if audience == Audience::Everybody {
            connections.send_later(&parcels);
            self.crowd.notify_one();
        } else {
            connections.send(audience, &parcels);
        }
    }
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

    /// When a notice may be told at the earliest, if not at once.
    fn not_before(&self, notice: &Notice<'_>) -> Option<Instant> {
        let (job, from_ms) = match notice {
            Notice::Run { job, .. } => (job, job.tell_from_ms),
            Notice::Ended { job } if self.is_known(job) => (job, job.tell_from_ms),
            Notice::Ended { job } => (job, job.tell_from_ms.max(job.created_ms + KNOWN_MS)),
            Notice::Remaining(_) => return None,
        };
        let wait = from_ms.checked_sub(now_ms()).filter(|wait| *wait > 0)?;
        // The clock may have been set back meanwhile.
        Some(Instant::now() + Duration::from_millis(wait.min(from_ms - job.created_ms)))
    }

    /// Whether a job's client has sent another prompt since.
    fn is_known(&self, job: &Job) -> bool {
        let open = job.client.as_ref().and_then(|client| self.open.get(client));
        open.is_some_and(|open| open.prompted_ms > job.created_ms)
    }

    /// Whether previews for this audience carry metadata. What goes to everybody does not.
    fn wants_metadata(&self, audience: Audience<'_>) -> bool {
        let Audience::Client(client) = audience else { return false };
        self.open.get(client).is_some_and(|open| open.previews_with_metadata)
    }

    /// Keeps something for everybody's turn.
    fn send_later(&mut self, parcels: &[Parcel]) {
        for (client, open) in &mut self.open {
            if open.later.is_empty() {
                self.crowd.push_back((client.clone(), open.serial));
            }
            open.later.extend_from_slice(parcels);
        }
    }

    /// Gives the next few their turn; whether others wait for theirs.
    fn take_turns(&mut self) -> bool {
        let count = TOGETHER.max(self.open.len().div_ceil(TURNS)).min(self.crowd.len());
        let turns: Vec<_> = self.crowd.drain(..count).collect();
        for (client, serial) in turns {
            if self.open.get(&client).is_some_and(|open| open.serial == serial) {
                self.deliver(&client, &[]);
            }
        }
        !self.crowd.is_empty()
    }

    /// Puts something into the lines of one client and of those who watch.
    fn send(&mut self, audience: Audience<'_>, parcels: &[Parcel]) {
        let only = if let Audience::Client(client) = audience { Some(client) } else { None };
        if let Some(client) = only {
            self.deliver(client, parcels);
        }
        for watcher in self.watchers.clone() {
            if only != Some(&watcher) && !self.deliver(&watcher, parcels) {
                self.watchers.remove(&watcher);
            }
        }
    }

    /// Whether the client is there and still takes something.
    fn deliver(&mut self, client: &str, parcels: &[Parcel]) -> bool {
        let Some(open) = self.open.get_mut(client) else { return false };
        let takes = open.tell(parcels);
        if !takes {
            tracing::warn!(client, "let go a websocket that does not read");
            self.open.remove(client);
        }
        takes
    }
}

/// A text frame.
fn text(kind: &str, data: &Json) -> Frame {
    Frame::Text(Utf8Bytes::from(python_json::write(&json!({"type": kind, "data": data}))))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::graph::Event;

    /// The kinds of the messages that may leave by now.
    fn heard(ticket: &mut Ticket) -> Vec<String> {
        let frames = std::iter::from_fn(|| ticket.frames.try_next());
        frames.map(|frame| kind(frame.to_text().expect("text"))).collect()
    }

    fn kind(text: &str) -> String {
        let message = python_json::read(text.as_bytes()).expect("a document");
        message["type"].as_str().expect("a type").to_owned()
    }

    #[test]
    fn what_is_told_to_one_takes_along_what_waits_and_the_crowd_hears_it_in_its_turn() {
        let hub = Hub::default();
        let [mut own, mut other] = ["own", "other"].map(|client| hub.connect(client, 0, None));
        assert_eq!((heard(&mut own), heard(&mut other)), (vec!["status".into()], vec!["status".into()]));
        hub.tell(Notice::Remaining(1));
        assert!(heard(&mut own).is_empty());
        let client = Some("own".to_owned());
        let job = Job { client, ..Job::empty("1") };
        hub.tell(Notice::Run { job: &Arc::new(job), at_ms: 0, event: &Event::Started });
        assert_eq!(heard(&mut own), ["status", "execution_start"]);
        hub.tell(Notice::Remaining(0));
        assert!(heard(&mut other).is_empty());
        while hub.lock().take_turns() {}
        assert_eq!(heard(&mut own), ["status"]);
        assert_eq!(heard(&mut other), ["status", "status"]);
    }

    #[test]
    fn the_last_word_on_a_job_waits_unless_its_client_has_sent_another_prompt_since() {
        let hub = Hub::default();
        let mut ticket = hub.connect("own", 0, None);
        let job = |created_ms| {
            let client = Some("own".to_owned());
            Arc::new(Job { client, created_ms, tell_from_ms: created_ms, ..Job::empty("1") })
        };
        let before = now_ms();
        hub.prompts("own");
        hub.tell(Notice::Ended { job: &job(before.saturating_sub(1)) });
        assert_eq!(heard(&mut ticket), ["status", "executing"]);
        hub.tell(Notice::Ended { job: &job(now_ms()) });
        assert!(heard(&mut ticket).is_empty());
        hub.prompts("own");
        assert_eq!(heard(&mut ticket), ["executing"]);
    }

    #[test]
    fn a_large_crowd_has_heard_everything_after_a_known_number_of_turns() {
        let hub = Hub::default();
        let mut crowd: Vec<_> = (0..1000).map(|number| hub.connect(&number.to_string(), 0, None)).collect();
        hub.tell(Notice::Remaining(1));
        hub.disconnect(&crowd[0]);
        let turns = std::iter::from_fn(|| hub.lock().take_turns().then_some(())).count() + 1;
        assert!((2..=TURNS).contains(&turns), "{turns} turns");
        assert!(crowd.iter_mut().skip(1).all(|ticket| heard(ticket).len() == 2));
    }
}
