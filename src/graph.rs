//! What a workflow means and how it runs: prompt, validation, order of execution, caching, values,
//! progress.
//!
//! Deliberately knows no tensors, no HTTP and no queue: [`Value`] is erased, [`Event`] is plain data,
//! and a node reaches the world only through its host. Start at [`Node`], the declaration everything
//! else reads.
//!
//! The way of a prompt: [`check`] makes a [`Plan`] of it (`coerce` converts, `problem` names what is wrong),
//! and an [`Executor`] runs the plan: `dynamic` holds the nodes, `order` says whose turn it is, `key` and
//! `cache` what is reused, `call` makes the calls, `progress` and [`Event`] tell what happens.

mod cache;
mod call;
mod check;
mod coerce;
mod dynamic;
mod event;
mod execute;
mod guard;
mod inputs;
mod key;
mod node;
mod order;
mod problem;
mod progress;
mod prompt;
mod python;
mod registry;
mod run;
mod value;
pub mod workflow;

pub use cache::{CachePolicy, Meta};
pub use check::{Checked, Plan, check};
pub use event::{Event, Failure, NodeId, NodeState, Phase, Preview, PreviewFormat};
pub use execute::{End, Executor, Outcome};
pub use inputs::{
    Anything, Choice, FileName, Flag, Growth, Input, InputSpec, Inputs, Kind, Library, Numeric, Text, Widget,
    boolean, choice, files, float, input_name, int, numbered, socket, text,
};
pub use node::{
    AnyList, AnyNode, AnyValue, Card, Expanded, ExpandedSlot, Expansion, Fingerprint, ListOf, Literals,
    MaybeBlocked, Node, NodeError, OutputSpec, Outputs, PROMPT_AND_PNGINFO, Produced, Result, Same, Slot,
    WithUi,
};
pub use problem::{Declared, Fault, LONGEST_SHOWN_LIST, NodeProblems, Problem, Problems, Refusal};
pub use python::{repr as python_repr, text as python_text};
pub use registry::{Class, Registry};
pub use run::{Request, Run};
pub use value::{Arg, Args, Item, Socket, Value};
