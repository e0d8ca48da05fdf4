//! The thread that runs jobs, one at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use serde_json::Map;

use super::stopwatch::Stopwatch;
use super::{Free, Job, Queue, Shift, Task};
use crate::graph::{End, Event, Failure, Outcome};
use crate::stop::Stop;

/// What the worker thread does with its tasks; handed in by whoever assembles the server.
pub trait Work: Send + 'static {
    /// Runs a job to its end, telling what happens.
    fn run(&mut self, job: &Job, stop: &Stop, tell: &mut dyn FnMut(Event)) -> Outcome;

    /// Frees memory; called between jobs.
    fn free(&mut self, wish: Free);
}

/// The running thread.
#[derive(Debug)]
pub struct Worker(JoinHandle<()>);

impl Worker {
    /// Waits until the thread has ended, which [`Queue::close`] brings about.
    pub fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the worker thread ended with a panic");
        }
    }

    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Queue {
    /// Starts the thread that does the work of this queue.
    pub fn work(self: &Arc<Self>, mut work: impl Work) -> std::io::Result<Worker> {
        let queue = self.clone();
        queue.set_shift(Shift::On);
        let run = move || {
            let shift = Over(&queue);
            loop {
                match shift.0.take() {
                    Task::Run(job) => shift.0.run(&job, &mut work),
                    Task::Free(wish) => free(&mut work, wish),
                    Task::Tidy => shift.0.tidy(),
                    Task::End => break,
                }
            }
            shift.0.tidy();
        };
        Builder::new().name("worker".to_owned()).spawn(run).map(Worker)
    }

    fn run(&self, job: &Job, work: &mut impl Work) {
        let _span = tracing::info_span!("job", id = job.id).entered();
        // That it began has to be known after a crash, or a job could crash the server for ever.
        self.write_notes();
        let begun = Instant::now();
        let mut watch = Stopwatch::new(job);
        let mut tell = |event| {
            watch.hear(&event, &self.observer);
            self.record(event);
        };
        // A panic is our mistake, but one job's mistake must not end the server.
        let outcome = catch_unwind(AssertUnwindSafe(|| work.run(job, &self.stop, &mut tell)));
        let outcome = outcome.unwrap_or_else(|panic| {
            self.record(Event::Failed(crashed(job, panic.as_ref())));
            free(work, Free { models: true, results: true });
            Outcome { end: End::Failed, outputs: Map::new(), meta: Vec::new() }
        });
        watch.end(Instant::now(), &self.observer);
        let took = begun.elapsed();
        let seconds = took.as_secs_f64();
        match outcome.end {
            End::Succeeded => tracing::info!(seconds, "succeeded in {seconds:.2} s"),
            End::Interrupted => tracing::info!(seconds, "interrupted after {seconds:.2} s"),
            End::Failed => tracing::warn!(seconds, "failed after {seconds:.2} s"),
        }
        self.finish(outcome, took);
        self.shorten_journal();
    }
}

/// Says that the thread has ended, however it did.
struct Over<'q>(&'q Queue);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.set_shift(Shift::Over);
    }
}

fn free(work: &mut impl Work, wish: Free) {
    if catch_unwind(AssertUnwindSafe(|| work.free(wish))).is_err() {
        tracing::error!("freeing memory ended with a panic");
    }
}

/// Tells a panic the way any other failure is told.
fn crashed(job: &Job, panic: &(dyn std::any::Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    Failure {
        node: String::new(),
        class: String::new(),
        message: format!("the server made a mistake while running this prompt: {text}"),
        kind: "Panic".to_owned(),
        causes: vec![text.to_owned()],
        inputs: Map::new(),
        executed: Vec::new(),
        known: job.plan.prompt.keys().cloned().collect(),
    }
}
