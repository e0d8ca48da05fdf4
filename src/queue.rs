//! Which job runs when, and what is remembered: the queue, its worker thread, history, the event stream.
//!
//! One [`Queue`] per server. Handlers submit and ask; one worker thread ([`Queue::work`]) takes jobs in order of
//! their numbers; a [`Listener`] hears every change in the order it happens. Deliberately does not know which
//! nodes exist, what a tensor is, nor what any of this looks like on the wire.

mod history;
mod order;
mod worker;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Number, Value as Json};

use crate::graph::{Event, NodeId, Outcome, Plan};
use crate::stop::Stop;

pub use history::{Entry, Message, Page, now_ms};
pub use worker::{Work, Worker};

use history::History;
use order::Pending;

/// A prompt that was accepted and waits, runs, or has run.
#[derive(Clone, Debug)]
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
    pub tell_from_ms: u64,
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
}

struct Running {
    job: Arc<Job>,
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
    pub fn new(listener: Listener) -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), stop: Stop::new(), listener }
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

    /// Puts a job in its place.
    pub fn submit(&self, job: Job) {
        let mut state = self.lock();
        tracing::info!(job = job.id, number = %job.number, nodes = job.plan.prompt.len(), "queued");
        state.pending.insert(Arc::new(job));
        self.tell_remaining(&state);
        self.wake.notify_all();
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

    /// Drops every waiting job.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.pending.clear();
        self.tell_remaining(&state);
    }

    /// Drops a waiting job; running and unknown ones are left alone.
    pub fn delete(&self, id: &str) {
        let mut state = self.lock();
        if state.pending.remove(id) {
            self.tell_remaining(&state);
        }
    }

    /// Stops a job whether it waits or runs; whether it did either. It cannot slip from one to the other
    /// meanwhile.
    pub fn cancel(&self, id: &str) -> bool {
        let mut state = self.lock();
        if state.is_running(id) {
            tracing::info!(job = id, "cancelled while running");
            self.stop.request();
            return true;
        }
        let waited = state.pending.remove(id);
        if waited {
            tracing::info!(job = id, "cancelled while waiting");
            self.tell_remaining(&state);
        }
        waited
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

    /// What is remembered of one job.
    pub fn entry(&self, id: &str) -> Option<Arc<Entry>> {
        self.lock().history.get(id)
    }

    /// What is remembered, in the order the jobs ended.
    pub fn history(&self, page: Page) -> Vec<Arc<Entry>> {
        self.lock().history.page(page)
    }

    pub fn forget(&self, id: &str) {
        self.lock().history.remove(id);
    }

    pub fn forget_all(&self) {
        self.lock().history.clear();
    }

    /// Interrupts the running job and lets the worker thread end. Waiting jobs do not run any more.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        self.stop.request();
        self.wake.notify_all();
    }
}

/// What the worker thread does next.
enum Task {
    Run(Arc<Job>),
    Free(Free),
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
                self.stop.clear();
                state.running = Some(Running { job: job.clone(), active: None, messages: Vec::new() });
                self.tell_remaining(&state);
                return Task::Run(job);
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Passes on what the running job tells, and keeps what history shows.
    fn record(&self, event: Event) {
        let mut state = self.lock();
        let Some(running) = &mut state.running else { return };
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

    /// Moves the running job into history.
    fn finish(&self, outcome: Outcome) {
        let mut state = self.lock();
        let Some(Running { job, messages, .. }) = state.running.take() else { return };
        state.history.insert(Entry { job: job.clone(), outcome, messages });
        self.tell_remaining(&state);
        (self.listener)(Notice::Ended { job: &job });
    }
}
