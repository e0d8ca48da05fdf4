//! What a workflow means and how it runs: prompt, validation, order of execution, caching, values,
//! progress.
//!
//! Deliberately knows no tensors, no HTTP and no queue: [`Value`] is erased, [`Event`] is plain data,
//! and a node reaches the world only through its host. Start at [`Node`], the declaration everything
//! else reads.

mod event;
mod inputs;
mod node;
mod run;
mod value;

pub use event::{Event, Failure, NodeId, NodeState, Phase, Preview, PreviewFormat};
pub use inputs::{
    Anything, Choice, FileName, Flag, Input, InputSpec, Inputs, Kind, Library, Numeric, Text, Widget,
    boolean, choice, files, float, int, socket, text,
};
pub use node::{
    AnyNode, AnyValue, Card, Expanded, ExpandedSlot, Expansion, Fingerprint, ListOf, Literals, MaybeBlocked,
    Node, NodeError, OutputSpec, Outputs, PROMPT_AND_PNGINFO, Produced, Registry, Result, Same, Slot, WithUi,
};
pub use run::{Request, Run};
pub use value::{Arg, Args, Item, Socket, Value};
