//! How a queue survives the end of its server: what it writes down, when, and what becomes of it at the next start.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde_json::Map;

use super::history::{Entry, Message, now_ms};
use super::journal::{Durability, Journal};
use super::record::{Record, Replay, entry_lines};
use super::{Job, Queue, State};
use crate::graph::{End, Event, Failure, Outcome};

/// How often a job may take the server down with it before it is given up.
const MOST_CRASHES: u32 = 2;

/// The most bytes of history that are written down; the oldest entries leave first.
const MOST_HISTORY: usize = 32 << 20;

/// What was found of an earlier server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Jobs that will run, those among them that were running included.
    pub waiting: usize,
    /// Jobs given up because the server crashed whenever they ran.
    pub given_up: usize,
    /// Entries of history.
    pub remembered: usize,
}

impl Queue {
    /// Begins to keep the queue in a folder, and goes on where an earlier server ended. To be called before the
    /// first job comes, and once.
    pub fn keep(&self, folder: &Path, durability: Durability) -> io::Result<Restored> {
        let (journal, there) = Journal::open(folder, durability)?;
        let replay = Replay::of(&there);
        if replay.damaged > 0 {
            let aside = journal.path().with_extension("damaged");
            std::fs::write(&aside, &there)?;
            tracing::warn!(
                "{} unreadable lines of {} were skipped; the whole is kept as {}",
                replay.damaged,
                journal.path().display(),
                aside.display()
            );
        }
        let (spoilt, restored) = (replay.damaged > 0, self.restore(replay));
        let journal = self.journal.get_or_init(|| journal);
        if spoilt || journal.is_due() || restored.given_up > 0 {
            self.rewrite(journal);
        }
        Ok(restored)
    }

    fn restore(&self, replay: Replay) -> Restored {
        let mut state = self.lock();
        state.history = replay.history;
        state.counter = replay.next;
        let mut given_up = 0;
        for job in replay.open {
            if job.crashes >= MOST_CRASHES {
                tracing::error!(
                    job = job.id,
                    "given up: the server crashed {} times while it ran",
                    job.crashes
                );
                state.history.insert(give_up(job));
                given_up += 1;
                continue;
            }
            if job.crashes > 0 {
                tracing::warn!(job = job.id, "the server crashed while this job ran; it runs again");
            }
            state.pending.insert(Arc::new(job));
        }
        Restored { waiting: state.pending.len(), given_up, remembered: state.history.len() }
    }

    /// The position in the journal behind a change, which is to be noted where the change is made.
    pub(super) fn note(&self, record: &Record<'_>) -> Option<u64> {
        self.journal.get().map(|journal| journal.append(&record.line()))
    }

    /// Hands what was noted to the operating system. Slow enough to be done where nobody waits for the queue.
    pub(super) fn write_notes(&self) {
        if let Some(journal) = self.journal.get() {
            journal.write();
        }
    }

    /// Waits until a noted change is safe.
    pub(super) fn make_safe(&self, position: Option<u64>) {
        if let (Some(journal), Some(position)) = (self.journal.get(), position) {
            journal.commit(position);
        }
    }

    /// What the journal needs when nothing else is to be done.
    pub(super) fn tidy(&self) {
        self.shorten_journal();
        if let Some(journal) = self.journal.get() {
            journal.sync_all();
        }
    }

    /// Keeps the journal from growing for ever.
    pub(super) fn shorten_journal(&self) {
        if let Some(journal) = self.journal.get().filter(|journal| journal.is_due()) {
            self.rewrite(journal);
        }
    }

    fn rewrite(&self, journal: &Journal) {
        let (mark, next, history, open) = {
            let state = self.lock();
            (journal.mark(), state.counter, state.history.newest(), open(&state))
        };
        let mut size = 0;
        let mut entries: Vec<_> = (history.iter())
            .map(|entry| entry_lines(entry, next))
            .take_while(|lines| {
                size += lines.len();
                size <= MOST_HISTORY
            })
            .collect();
        entries.reverse();
        let open = open.into_iter().map(|(job, runs)| {
            let mut lines = Record::Queued { next, job: Cow::Borrowed(&job) }.line();
            if runs {
                lines.extend(Record::Started { id: Cow::from(&job.id) }.line());
            }
            lines
        });
        journal.replace(&mark, entries.into_iter().chain(open));
    }
}

/// The jobs that have not ended, and whether they run.
fn open(state: &State) -> Vec<(Arc<Job>, bool)> {
    let running = state.running.as_ref().map(|running| (running.job.clone(), !running.parked));
    running.into_iter().chain(state.pending.iter().map(|job| (job.clone(), false))).collect()
}

/// The end of a job that will not be tried again.
fn give_up(job: Job) -> Entry {
    let failure = Failure {
        node: String::new(),
        class: String::new(),
        message: format!(
            "the server ended without warning {} times while it ran this prompt, which is not tried again; too \
             little memory is the usual reason",
            job.crashes
        ),
        kind: "ServerCrashed".to_owned(),
        causes: Vec::new(),
        inputs: Map::new(),
        executed: Vec::new(),
        known: job.plan.prompt.keys().cloned().collect(),
    };
    let messages = vec![Message { at_ms: now_ms(), event: Event::Failed(failure) }];
    let outcome = Outcome { end: End::Failed, outputs: Map::new(), meta: Vec::new() };
    Entry { job: Arc::new(job), outcome, messages }
}
