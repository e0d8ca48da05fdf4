//! What the queue's worker thread does: runs plans with the executor.

use std::sync::Arc;

use crate::graph::{CachePolicy, Event, Executor, Outcome, Registry, Request};
use crate::nodes::Services;
use crate::queue::{Free, Job, Work};
use crate::stop::Stop;

/// The executor of a server.
pub(super) struct Runner(Executor<Services>);

impl Runner {
    pub(super) fn new(
        services: Arc<Services>,
        registry: Arc<Registry<Services>>,
        policy: CachePolicy,
    ) -> Self {
        Self(Executor::new(services, registry, policy))
    }
}

impl Work for Runner {
    fn run(&mut self, job: &Job, stop: &Stop, tell: &mut dyn FnMut(Event)) -> Outcome {
        let request = Request { extra_pnginfo: job.extra.get("extra_pnginfo").cloned().map(Arc::new) };
        self.0.run(&job.plan, &request, stop, tell)
    }

    fn free(&mut self, wish: Free) {
        if wish.results {
            self.0.forget();
            tracing::info!("dropped all kept results");
        }
    }
}
