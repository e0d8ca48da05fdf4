//! The thread that runs jobs, one at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use serde_json::Map;

use super::{Free, Job, Queue, Task};
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
        let run = move || {
            loop {
                match queue.take() {
                    Task::Run(job) => queue.run(&job, &mut work),
                    Task::Free(wish) => free(&mut work, wish),
                    Task::End => break,
                }
            }
        };
        Builder::new().name("worker".to_owned()).spawn(run).map(Worker)
    }

    fn run(&self, job: &Job, work: &mut impl Work) {
        let _span = tracing::info_span!("job", id = job.id).entered();
        let begun = Instant::now();
        let mut tell = |event| self.record(event);
        // A panic is our mistake, but one job's mistake must not end the server.
        let outcome = catch_unwind(AssertUnwindSafe(|| work.run(job, &self.stop, &mut tell)));
        let outcome = outcome.unwrap_or_else(|panic| {
            self.record(Event::Failed(crashed(job, panic.as_ref())));
            free(work, Free { models: true, results: true });
            Outcome { end: End::Failed, outputs: Map::new(), meta: Vec::new() }
        });
        let seconds = begun.elapsed().as_secs_f64();
        match outcome.end {
            End::Succeeded => tracing::info!("succeeded in {seconds:.2} s"),
            End::Interrupted => tracing::info!("interrupted after {seconds:.2} s"),
            End::Failed => tracing::warn!("failed after {seconds:.2} s"),
        }
        self.finish(outcome);
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
