//! What clients missed of their own jobs because no websocket of theirs was open yet.
//!
//! Many clients submit first and connect then. On a fast server the job may be over by that time; the original
//! tells them nothing any more, and those that wait for the end wait for ever. Here such a client is told, once and
//! right after the greeting, what it would have heard had it been quicker: everything but progress bars and
//! unfinished pictures, in the original order.
//!
//! This is for clients that were not there when their job began. Whoever reconnects hears nothing older, as in
//! ComfyUI; nor does a client that has read the job's history meanwhile, or comes after [`PATIENCE`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::graph::{Event, PreviewFormat};
use crate::queue::{Job, Notice};

/// How long after its end a job waits for its client.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most jobs that wait, and the most events of one; outputs and ends are kept beyond that.
const MOST_JOBS: usize = 256;
const MOST_EVENTS: usize = 1024;

/// The most bytes of pictures that wait.
const MOST_BYTES: usize = 32 << 20;

/// Jobs whose clients were not there, in the order they began.
#[derive(Default)]
pub(super) struct Absent(VecDeque<Missed>);

/// One such job.
pub(super) struct Missed {
    job: Arc<Job>,
    events: Vec<(u64, Event)>,
    ended: Option<Instant>,
}

impl Missed {
    pub fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// What happened, as the queue told it.
    pub fn notices(&self) -> impl Iterator<Item = Notice<'_>> {
        let run =
            self.events.iter().map(|(at_ms, event)| Notice::Run { job: &self.job, at_ms: *at_ms, event });
        run.chain(self.ended.map(|_| Notice::Ended { job: &self.job }))
    }
}

impl Absent {
    /// Keeps a notice for a client that is not there.
    pub fn keep(&mut self, notice: &Notice<'_>) {
        match notice {
            Notice::Run { job, event: Event::Started, at_ms } => self.begin(job, *at_ms),
            Notice::Run { job, event, at_ms } => self.go_on(job, *at_ms, event),
            Notice::Ended { job } => {
                if let Some(missed) = self.current(job) {
                    missed.ended = Some(Instant::now());
                }
            }
            Notice::Remaining(_) => {}
        }
    }

    fn begin(&mut self, job: &Arc<Job>, at_ms: u64) {
        self.expire();
        if self.0.len() == MOST_JOBS {
            self.0.pop_front();
        }
        let events = vec![(at_ms, Event::Started)];
        self.0.push_back(Missed { job: job.clone(), events, ended: None });
    }

    fn go_on(&mut self, job: &Job, at_ms: u64, event: &Event) {
        let wanted = match event {
            Event::State(_) => false,
            // Previews are sent as JPEG, results as PNG.
            Event::Progress { preview, .. } => preview.as_ref().is_some_and(|picture| {
                picture.format == PreviewFormat::Png && self.bytes() + picture.bytes.len() <= MOST_BYTES
            }),
            _ => true,
        };
        let ends_something =
            !matches!(event, Event::Executing { .. } | Event::Progress { .. } | Event::Text { .. });
        if let Some(missed) = self.current(job)
            && wanted
            && (ends_something || missed.events.len() < MOST_EVENTS)
        {
            missed.events.push((at_ms, event.clone()));
        }
    }

    /// The job at work, if all of it was missed so far.
    fn current(&mut self, job: &Job) -> Option<&mut Missed> {
        self.0.back_mut().filter(|missed| missed.job.id == job.id && missed.ended.is_none())
    }

    fn bytes(&self) -> usize {
        let events = self.0.iter().flat_map(|missed| &missed.events);
        let sizes = events.map(|(_, event)| match event {
            Event::Progress { preview: Some(picture), .. } => picture.bytes.len(),
            _ => 0,
        });
        sizes.sum()
    }

    /// Hands out what a client has missed, oldest first.
    pub fn take(&mut self, client: &str) -> Vec<Missed> {
        self.expire();
        let of_client = |missed: &Missed| missed.job.client.as_deref() == Some(client);
        if !self.0.iter().any(of_client) {
            return Vec::new();
        }
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(of_client);
        self.0 = left;
        Vec::from(taken)
    }

    /// Forgets a job whose end its client knows already.
    pub fn forget(&mut self, job: &str) {
        self.0.retain(|missed| missed.job.id != job);
    }

    fn expire(&mut self) {
        let is_late = |missed: &Missed| missed.ended.is_some_and(|ended| ended.elapsed() > PATIENCE);
        while self.0.front().is_some_and(is_late) {
            self.0.pop_front();
        }
    }
}
