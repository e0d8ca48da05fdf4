//! What the queue's worker thread does: runs plans with the executor.

use std::sync::Arc;

use clap::ValueEnum as _;
use serde_json::Value as Json;

use super::args::PreviewMethod;
use crate::device;
use crate::graph::{CachePolicy, Event, Executor, Outcome, Registry, Request};
use crate::nodes::Services;
use crate::queue::{Free, Job, Work};
use crate::stop::Stop;
use crate::weights::Memory;

/// The executor of a server.
pub(super) struct Runner {
    executor: Executor<Services>,
    memory: Arc<Memory>,
}

impl Runner {
    pub(super) fn new(
        services: Arc<Services>,
        registry: Arc<Registry<Services>>,
        policy: CachePolicy,
    ) -> Self {
        let memory = services.memory.clone();
        Self { executor: Executor::new(services, registry, policy), memory }
    }
}

/// The sockets whose values hold a network, and with it the map of a file or the memory of a device.
const NETWORKS: [&str; 3] = ["MODEL", "CLIP", "VAE"];

impl Work for Runner {
    fn run(&mut self, job: &Job, stop: &Stop, tell: &mut dyn FnMut(Event)) -> Outcome {
        let attached = |key| job.extra.get(key);
        let request = Request {
            extra_pnginfo: attached("extra_pnginfo").cloned().map(Arc::new),
            previews: attached("preview_method").and_then(Json::as_str).and_then(wants_previews),
        };
        self.executor.run(&job.plan, &request, stop, tell)
    }

    fn free(&mut self, wish: Free) {
        if wish.results {
            self.executor.forget();
            tracing::info!("dropped all kept results");
        } else if wish.models {
            self.executor.forget_values(&|value| NETWORKS.contains(&value.name()));
            tracing::info!("let go of all models");
        }
        // Networks that others hold on to keep their files, and need no memory meanwhile.
        self.memory.clear();
        device::give_back();
    }
}

/// What `preview_method` of a prompt asks for, in the words of `--preview-method`; none for other words, by
/// which newer clients leave it to the server.
fn wants_previews(method: &str) -> Option<bool> {
    PreviewMethod::from_str(method, false).ok().map(|method| method != PreviewMethod::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_may_ask_for_previews_or_for_none() {
        for (word, wish) in
            [("none", Some(false)), ("auto", Some(true)), ("taesd", Some(true)), ("default", None)]
        {
            assert_eq!(wants_previews(word), wish, "{word}");
        }
    }
}
