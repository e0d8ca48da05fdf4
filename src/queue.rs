//! Which job runs when, and what is remembered: the queue, its worker thread, history, the event stream.
//!
//! One [`Queue`] per server. Handlers submit and ask; one worker thread ([`Queue::work`]) takes jobs in order of
//! their numbers; a [`Listener`] hears what clients are told, in the order it happens, an [`Observer`] what may be
//! counted; and a journal ([`Queue::keep`]) keeps the whole through the end of the process. Deliberately does not know
//! which nodes exist, what a tensor is, nor what any of this looks like on the wire.

mod history;
mod journal;
mod keeping;
mod order;
mod record;
mod stopwatch;
mod worker;

use std::borrow::Cow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value as Json};

use crate::graph::{End, Event, NodeId, Outcome, Plan};
use crate::stop::Stop;

pub use history::{Entry, Message, Page, now_ms};
pub use journal::Durability;
pub use keeping::Restored;
pub use worker::{Work, Worker};

use history::History;
use journal::Journal;
use order::Pending;
use record::Record;

/// A prompt that was accepted and waits, runs, or has run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub id: String,
    /// Jobs with smaller numbers run first.
    pub number: Number,
    pub plan: Plan,
    /// Whoever is told about the run; without one, everybody is told a little.
    pub client: Option<String>,
    /// The named token it was submitted with, whose bearer may stop it.
    pub owner: Option<String>,
    /// What the client attached, kept for queue and history.
    pub extra: Map<String, Json>,
    /// When it was accepted, in milliseconds since 1970.
    pub created_ms: u64,
    /// When its client can hear of the run at the earliest, on the same clock.
    #[serde(skip)]
    pub tell_from_ms: u64,
    /// How often the server ended without warning while it ran.
    #[serde(default)]
    pub crashes: u32,
}

#[cfg(test)]
impl Job {
    pub(crate) fn empty(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            number: Number::from(0),
            plan: Plan::default(),
            client: None,
            owner: None,
            extra: Map::new(),
            created_ms: 0,
            tell_from_ms: 0,
            crashes: 0,
        }
    }
}

/// Something that happened, told in order.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// The number of jobs that wait or run changed.
    Remaining(usize),
    /// A running job tells of itself. The time is in milliseconds since 1970.
    Run { job: &'a Arc<Job>, at_ms: u64, event: &'a Event },
    /// A job has ended, its history can be read, and the next may begin.
    Ended { job: &'a Arc<Job> },
}

/// Hears every notice, one at a time, while the queue waits: it must be quick and must not call back.
pub type Listener = Box<dyn Fn(Notice<'_>) + Send + Sync>;

/// Something that may be counted.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    Queued,
    /// A waiting job was taken out of the queue.
    Dropped,
    /// A job begins, after waiting so long.
    Began {
        waited: Duration,
    },
    /// So many results of nodes are used again.
    Reused {
        nodes: usize,
    },
    NodeEnded {
        class: &'a str,
        took: Duration,
    },
    /// A node reported a step. How long it took is not known of the first, before which a node prepares.
    Stepped {
        class: &'a str,
        took: Option<Duration>,
    },
    /// A job ended; its history can be read.
    Ended {
        end: End,
        took: Duration,
    },
}

/// Hears every change, perhaps while the queue waits: as a [`Listener`].
pub type Observer = Box<dyn Fn(Change<'_>) + Send + Sync>;

/// Whether jobs are taken and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// There is no worker yet.
    Starting,
    Ready,
    /// The server is about to end.
    Draining,
    /// The worker is gone, though nobody asked it to.
    Dead,
}

/// The server is about to end and takes no more jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server is about to end and takes no more prompts; send it again in a moment")]
pub struct Closed;

/// What somebody wants to have freed between jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// Models leave the device.
    pub models: bool,
    /// Results kept for the next prompts are dropped.
    pub results: bool,
}

/// See the module.
pub struct Queue {
    state: Mutex<State>,
    /// Signals the worker that there is something to do.
    wake: Condvar,
    /// Raised to interrupt the running job.
    stop: Stop,
    listener: Listener,
    observer: Observer,
    journal: OnceLock<Journal>,
}

#[derive(Default)]
struct State {
    pending: Pending,
    running: Option<Running>,
    history: History,
    /// Given to the next job that brings no number of its own.
    counter: u64,
    free: Free,
    closing: bool,
    worker: Shift,
    /// When a job last came or ended, unless memory was freed since.
    busy: Option<Instant>,
    /// After so long without a job, memory is freed.
    idle_unload: Option<Duration>,
    /// The journal may hold what is not on the disk.
    untidy: bool,
}

/// Where the worker thread is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Shift {
    #[default]
    Ahead,
    On,
    Over,
}

struct Running {
    job: Arc<Job>,
    /// It will run again after the next start.
    parked: bool,
    /// The node at work, under the id the user sees.
    active: Option<NodeId>,
    messages: Vec<Message>,
}

impl State {
    fn remaining(&self) -> usize {
        self.pending.len() + usize::from(self.running.is_some())
    }

    fn snapshot(&self) -> Snapshot {
        let running = self.running.as_ref().map(|running| running.job.clone());
        Snapshot { running, pending: self.pending.iter().cloned().collect() }
    }

    fn is_running(&self, id: &str) -> bool {
        self.running.as_ref().is_some_and(|running| running.job.id == id)
    }
}

/// The jobs that have not ended.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub running: Option<Arc<Job>>,
    /// In the order they will run.
    pub pending: Vec<Arc<Job>>,
}

impl Queue {
    pub fn new(listener: Listener, observer: Observer) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            stop: Stop::new(),
            listener,
            observer,
            journal: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_remaining(&self, state: &State) {
        (self.listener)(Notice::Remaining(state.remaining()));
    }

    /// The number of the next prompt that brings none. Negated for the front of the queue, so that of several
    /// such prompts the last one runs first.
    pub fn next_number(&self, front: bool) -> Number {
        let mut state = self.lock();
        let number = state.counter;
        state.counter += 1;
        if front { Number::from(-number.cast_signed()) } else { Number::from(number) }
    }

    /// Puts a job in its place. With a journal, it is safe when this returns; it may have begun before.
    pub fn submit(&self, job: Job) -> Result<(), Closed> {
        tracing::info!(job = job.id, number = %job.number, nodes = job.plan.prompt.len(), "queued");
        let next = self.lock().counter;
        let line = self.journal.get().map(|_| Record::Queued { next, job: Cow::Borrowed(&job) }.line());
        let position = {
            let mut state = self.lock();
            if state.closing {
                return Err(Closed);
            }
            state.pending.insert(Arc::new(job));
            state.busy = Some(Instant::now());
            self.tell_remaining(&state);
            (self.observer)(Change::Queued);
            self.wake.notify_all();
            self.journal.get().zip(line).map(|(journal, line)| journal.append(&line))
        };
        self.make_safe(position);
        Ok(())
    }

    /// Whether jobs are taken and run.
    pub fn readiness(&self) -> Readiness {
        let state = self.lock();
        match state.worker {
            _ if state.closing => Readiness::Draining,
            Shift::Ahead => Readiness::Starting,
            Shift::On => Readiness::Ready,
            Shift::Over => Readiness::Dead,
        }
    }

    /// How many jobs wait or run.
    pub fn remaining(&self) -> usize {
        self.lock().remaining()
    }

    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot()
    }

    /// Every job there is, those that have ended too, at one moment: none is missing and none is there twice
    /// because it moved on meanwhile.
    pub fn everything(&self) -> (Snapshot, Vec<Arc<Entry>>) {
        let state = self.lock();
        (state.snapshot(), state.history.page(Page::default()))
    }

    /// Calls `greet` with the number of jobs left and, if a job of `client` is running, its active node. No
    /// notice is told meanwhile, so whoever begins to listen in `greet` misses nothing and hears nothing twice.
    pub fn greet<T>(&self, client: &str, greet: impl FnOnce(usize, Option<&str>) -> T) -> T {
        let state = self.lock();
        let own = state.running.as_ref().filter(|running| running.job.client.as_deref() == Some(client));
        greet(state.remaining(), own.and_then(|running| running.active.as_deref()))
    }

    /// Notes that a waiting job left; told while the queue waits.
    fn dropped(&self, state: &mut State, job: &Job) {
        self.note(&Record::Dropped { id: Cow::from(&job.id) });
        (self.observer)(Change::Dropped);
        state.untidy = true;
    }

    /// Drops every waiting job.
    pub fn clear(&self) {
        let mut state = self.lock();
        for job in state.pending.clear() {
            self.dropped(&mut state, &job);
        }
        self.tell_remaining(&state);
        self.leave(state);
    }

    /// Drops a waiting job; running and unknown ones are left alone.
    pub fn delete(&self, id: &str) {
        self.drop_waiting(id);
    }

    /// Whether there was one.
    fn drop_waiting(&self, id: &str) -> bool {
        let mut state = self.lock();
        let Some(job) = state.pending.remove(id) else { return false };
        self.dropped(&mut state, &job);
        self.tell_remaining(&state);
        self.leave(state);
        true
    }

    /// Ends a change that was noted.
    fn leave(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.wake.notify_all();
        self.write_notes();
    }

    /// Stops a job whether it waits or runs; whether it did either.
    pub fn cancel(&self, id: &str) -> bool {
        // A job never goes back, so it cannot slip from one to the other meanwhile.
        if self.drop_waiting(id) {
            tracing::info!(job = id, "cancelled while waiting");
            return true;
        }
        let state = self.lock();
        let runs = state.is_running(id);
        if runs {
            tracing::info!(job = id, "cancelled while running");
            self.stop.request();
        }
        runs
    }

    /// Asks the running job to stop: any, or only the one named. A wish without a job is forgotten.
    pub fn interrupt(&self, only: Option<&str>) {
        let state = self.lock();
        let running = state.running.as_ref().map(|running| running.job.id.as_str());
        if running.is_some() && only.is_none_or(|only| running == Some(only)) {
            tracing::info!(job = running, "interrupted");
            self.stop.request();
        }
    }

    /// Frees memory before the next job begins, or at once if none runs.
    pub fn free(&self, wish: Free) {
        let mut state = self.lock();
        state.free.models |= wish.models;
        state.free.results |= wish.results;
        self.wake.notify_all();
    }

    /// From now on, frees memory when no job came or ended for so long.
    pub fn unload_when_idle(&self, limit: Duration) {
        self.lock().idle_unload = Some(limit);
        self.wake.notify_all();
    }

    /// What is remembered of one job.
    pub fn entry(&self, id: &str) -> Option<Arc<Entry>> {
        self.lock().history.get(id)
    }

    /// What is remembered, in the order the jobs ended.
    pub fn history(&self, page: Page) -> Vec<Arc<Entry>> {
        self.lock().history.page(page)
    }

    pub fn forget(&self, id: &str) {
        let mut state = self.lock();
        state.history.remove(id);
        self.note(&Record::Forgotten { id: Cow::from(id) });
        state.untidy = true;
        self.leave(state);
    }

    pub fn forget_all(&self) {
        let mut state = self.lock();
        state.history.clear();
        self.note(&Record::AllForgotten);
        state.untidy = true;
        self.leave(state);
    }

    /// Takes no more jobs, and begins none of those that wait. The worker thread ends when the running one has.
    pub fn drain(&self) {
        self.lock().closing = true;
        self.wake.notify_all();
    }

    /// As [`Queue::drain`], and interrupts the running job. With a journal it runs again at the next start, unless its
    /// user had stopped it.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        let journal = self.journal.get().filter(|_| self.stop.check().is_ok());
        if let (Some(running), Some(_)) = (&mut state.running, journal) {
            running.parked = true;
            tracing::info!(job = running.job.id, "runs again after the next start");
            self.note(&Record::Parked { id: Cow::from(&running.job.id) });
        }
        self.stop.request();
        self.leave(state);
    }
}

/// What the worker thread does next.
enum Task {
    Run(Arc<Job>),
    Free(Free),
    Tidy,
    End,
}

/// The worker's side.
impl Queue {
    /// Waits for something to do.
    fn take(&self) -> Task {
        let mut state = self.lock();
        loop {
            if state.closing {
                return Task::End;
            }
            if state.free != Free::default() {
                return Task::Free(std::mem::take(&mut state.free));
            }
            if let Some(job) = state.pending.take_first() {
                return Task::Run(self.begin(&mut state, job));
            }
            if std::mem::take(&mut state.untidy) {
                return Task::Tidy;
            }
            let Some((busy, limit)) = state.busy.zip(state.idle_unload) else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = limit.saturating_sub(busy.elapsed());
            if left.is_zero() {
                tracing::info!("no job for {} s: freeing memory", limit.as_secs_f64());
                state.busy = None;
                return Task::Free(Free { models: true, results: true });
            }
            (state, _) = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn begin(&self, state: &mut State, job: Arc<Job>) -> Arc<Job> {
        self.stop.clear();
        self.note(&Record::Started { id: Cow::from(&job.id) });
        let waited = Duration::from_millis(now_ms().saturating_sub(job.created_ms));
        (self.observer)(Change::Began { waited });
        let (active, messages) = (None, Vec::new());
        state.running = Some(Running { job: job.clone(), parked: false, active, messages });
        self.tell_remaining(state);
        job
    }

    /// Passes on what the running job tells, and keeps what history shows.
    fn record(&self, event: Event) {
        let mut state = self.lock();
        let Some(running) = &mut state.running else { return };
        if running.parked && matches!(event, Event::Interrupted { .. }) {
            return;
        }
        let at_ms = now_ms();
        match &event {
            Event::Executing { display, .. } => running.active = Some(display.clone()),
            Event::Succeeded | Event::Interrupted { .. } => running.active = None,
            _ => {}
        }
        (self.listener)(Notice::Run { job: &running.job, at_ms, event: &event });
        if history::is_kept(&event) {
            running.messages.push(Message { at_ms, event });
        }
    }

    /// Moves the running job into history, unless it will run again.
    fn finish(&self, outcome: Outcome, took: Duration) {
        let mut state = self.lock();
        let Some(Running { job, messages, parked, .. }) = state.running.take() else { return };
        if parked && outcome.end == End::Interrupted {
            return;
        }
        let (end, id) = (outcome.end, Cow::from(&job.id));
        let (told, left) = (Cow::Borrowed(&*messages), Cow::Borrowed(&outcome));
        self.note(&Record::Ended { id, outcome: left, messages: told });
        (self.observer)(Change::Ended { end, took });
        state.history.insert(Entry { job: job.clone(), outcome, messages });
        (state.busy, state.untidy) = (Some(Instant::now()), true);
        self.tell_remaining(&state);
        (self.listener)(Notice::Ended { job: &job });
        self.leave(state);
    }

    fn set_shift(&self, shift: Shift) {
        self.lock().worker = shift;
    }
}
