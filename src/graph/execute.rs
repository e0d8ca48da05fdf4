//! Running a plan: which node next, from the cache or by calling it, and telling what happens.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::check::Plan;
use super::event::{Event, NodeId};
use super::inputs::Library;
use super::registry::Registry;
use super::run::Request;
use crate::stop::Stop;

/// What is kept of a run for the next ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachePolicy {
    /// The results that the next prompt needs again.
    #[default]
    Classic,
    /// This many results, whichever prompt they come from; the least recently used leave first.
    Lru(usize),
    /// Nothing; a result even leaves when its last consumer has run.
    None,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Succeeded,
    Failed,
    Interrupted,
}

/// Where an output belongs, for history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub node: NodeId,
    /// The node the user sees: differs from `node` inside an expanded subgraph.
    pub display: NodeId,
    pub parent: Option<NodeId>,
    pub real: NodeId,
}

/// What a run leaves behind.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub end: End,
    /// The `ui` result of each node that has one, reused results included, in prompt order.
    pub outputs: Map<String, Json>,
    /// One entry per entry of `outputs`, in the same order.
    pub meta: Vec<(NodeId, Meta)>,
}

/// Runs plans one after another and keeps results between them.
pub struct Executor<H: 'static> {
    host: Arc<H>,
    nodes: Arc<Registry<H>>,
    policy: CachePolicy,
}

impl<H: Library> Executor<H> {
    pub fn new(host: Arc<H>, nodes: Arc<Registry<H>>, policy: CachePolicy) -> Self {
        Self { host, nodes, policy }
    }

    /// Runs a plan to its end. The flag of `stop` is only read: whoever took the job lowers it before.
    pub fn run(
        &mut self,
        plan: &Plan,
        request: &Request,
        stop: &Stop,
        events: &mut dyn FnMut(Event),
    ) -> Outcome {
        let _ = (plan, request, stop, events, &self.host, &self.nodes, self.policy);
        unimplemented!("lands with the order and the cache")
    }

    /// Drops every kept result.
    pub fn forget(&mut self) {}
}
