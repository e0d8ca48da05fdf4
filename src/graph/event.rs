//! Everything a run can tell whoever watches it. Plain data; the wire shapes are `api`'s business.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// The name of a node in a prompt.
pub type NodeId = String;

/// What one run tells, in the order it happens. What is for the moment only cannot be written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    Started,
    /// Nodes whose results are reused, in prompt order.
    Cached {
        nodes: Vec<NodeId>,
    },
    /// The state of every node that has begun, after each change of one of them.
    #[serde(skip)]
    State(Arc<[Arc<NodeState>]>),
    #[serde(skip)]
    Executing {
        node: NodeId,
        display: NodeId,
    },
    /// One reported step of a node, perhaps with a picture for whoever watches; always preceded by an
    /// [`Event::State`]. They are one event because clients differ in which of the two they get first.
    #[serde(skip)]
    Progress {
        node: Arc<NodeState>,
        preview: Option<Preview>,
    },
    /// A short note a node shows beside its progress.
    #[serde(skip)]
    Text {
        node: NodeId,
        text: String,
    },
    /// An output node finished, or was answered from the cache. `output` is its `ui` result.
    #[serde(skip)]
    Executed {
        node: NodeId,
        display: NodeId,
        output: Option<Map<String, Json>>,
    },
    Succeeded,
    Interrupted {
        node: NodeId,
        class: String,
        executed: Vec<NodeId>,
    },
    /// A node failed, and the run with it unless [`Failure::ends_run`] says otherwise.
    Failed(Failure),
}

/// One node's progress as ComfyUI's `progress_state` tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeState {
    pub node: NodeId,
    /// The node the user sees: differs from `node` inside an expanded subgraph.
    pub display: NodeId,
    pub parent: Option<NodeId>,
    pub real: NodeId,
    pub phase: Phase,
    pub value: u32,
    pub max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Running,
    Finished,
    Error,
}

/// Why a run ended early.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub node: NodeId,
    pub class: String,
    pub message: String,
    /// A stable word for the kind of error.
    pub kind: String,
    /// The chain of causes, outermost first.
    pub causes: Vec<String>,
    /// The arguments of the failing node: a list per input, one entry per mapped call.
    pub inputs: Map<String, Json>,
    /// Nodes that finished in this run before the failure.
    pub executed: Vec<NodeId>,
    /// Every node the run knew about.
    pub known: Vec<NodeId>,
}

impl Failure {
    /// The [`kind`](Failure::kind) of a message that blocked a node without ending the run.
    pub const BLOCKED: &str = "ExecutionBlocked";
    /// The kind of a circle that expanding nodes have made.
    pub const CYCLE: &str = "graph.DependencyCycleError";

    /// Whether nothing of the run follows.
    pub fn ends_run(&self) -> bool {
        self.kind != Self::BLOCKED
    }
}

/// An encoded picture on its way to a client.
#[derive(Clone, Debug)]
pub struct Preview {
    pub format: PreviewFormat,
    pub bytes: Arc<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreviewFormat {
    Jpeg,
    Png,
}
