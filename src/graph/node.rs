//! The declaration of a node: what `nodes` implements and everything else reads.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::inputs::{InputSpec, Inputs};
use super::run::Run;
use super::value::{Args, Item, Socket, Value};
use crate::stop::Stopped;

/// Why a node could not deliver.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("input `{name}` is missing")]
    Missing { name: &'static str },
    #[error("input `{name}` is not a {expected}")]
    WrongType { name: &'static str, expected: &'static str },
    #[error(transparent)]
    Interrupted(#[from] Stopped),
    /// What the user asked for cannot be done; the sentence says why and how to mend it.
    #[error("{0}")]
    Refused(String),
    /// A defect of the node itself.
    #[error("the node panicked, which is a defect of this server: {0}")]
    Panicked(String),
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl NodeError {
    /// A stable word for the kind of error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "MissingInput",
            Self::WrongType { .. } => "WrongType",
            Self::Interrupted(_) => "Interrupted",
            Self::Refused(_) => "Refused",
            Self::Panicked(_) => "Panicked",
            Self::Other(_) => "Failed",
        }
    }

    /// Wraps the error of a lower layer, its causes kept.
    pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }
}

pub type Result<T, E = NodeError> = std::result::Result<T, E>;

/// The literals of a node as the prompt gives them, links left out.
pub type Literals = Map<String, Json>;

/// Static facts about a node.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own in `/object_info`")]
pub struct Card {
    /// ComfyUI's class name.
    pub class: &'static str,
    pub title: &'static str,
    pub category: &'static str,
    pub about: &'static str,
    /// The module ComfyUI keeps the class in; clients group nodes by it.
    pub module: &'static str,
    /// Whether a prompt may end here.
    pub output: bool,
    /// Names of the output slots where they differ from their types.
    pub outputs: &'static [&'static str],
    /// How many of the last output slots came after the version of ComfyUI that `/object_info` describes: graphs may use
    /// them, and it does not tell of them.
    pub unlisted: usize,
    /// Hidden inputs, as `(name, what)` in `/object_info`.
    pub hidden: &'static [(&'static str, &'static str)],
    pub deprecated: bool,
    pub experimental: bool,
    /// Declared in ComfyUI's newer schema style: combos print as `"COMBO"` and are not checked.
    pub schema: bool,
    /// Two nodes of this class never share a cached result, however equal their inputs.
    pub distinct: bool,
}

impl Card {
    pub const fn new(class: &'static str, title: &'static str, category: &'static str) -> Self {
        Self {
            class,
            title,
            category,
            about: "",
            module: "nodes",
            output: false,
            outputs: &[],
            unlisted: 0,
            hidden: &[],
            deprecated: false,
            experimental: false,
            schema: false,
            distinct: false,
        }
    }
    /// How many of so many outputs `/object_info` tells of.
    pub const fn listed(&self, outputs: usize) -> usize {
        outputs.saturating_sub(self.unlisted)
    }
    /// What people are shown: the title, or the class where there is none.
    pub const fn shown_title(&self) -> &'static str {
        if self.title.is_empty() { self.class } else { self.title }
    }
    #[must_use]
    pub const fn about(mut self, about: &'static str) -> Self {
        self.about = about;
        self
    }
    #[must_use]
    pub const fn module(mut self, module: &'static str) -> Self {
        self.module = module;
        self
    }
    #[must_use]
    pub const fn output(mut self) -> Self {
        self.output = true;
        self
    }
    #[must_use]
    pub const fn outputs(mut self, names: &'static [&'static str]) -> Self {
        self.outputs = names;
        self
    }
    #[must_use]
    pub const fn unlisted(mut self, outputs: usize) -> Self {
        self.unlisted = outputs;
        self
    }
    #[must_use]
    pub const fn hidden(mut self, inputs: &'static [(&'static str, &'static str)]) -> Self {
        self.hidden = inputs;
        self
    }
    #[must_use]
    pub const fn deprecated(mut self) -> Self {
        self.deprecated = true;
        self
    }
    #[must_use]
    pub const fn experimental(mut self) -> Self {
        self.experimental = true;
        self
    }
    #[must_use]
    pub const fn schema(mut self) -> Self {
        self.schema = true;
        self
    }
    #[must_use]
    pub const fn distinct(mut self) -> Self {
        self.distinct = true;
        self
    }
}

/// The hidden inputs of every node that writes pictures.
pub const PROMPT_AND_PNGINFO: &[(&str, &str)] = &[("prompt", "PROMPT"), ("extra_pnginfo", "EXTRA_PNGINFO")];

/// What a node's result depends on besides its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fingerprint {
    /// Nothing.
    Constant,
    /// The world, in the state this text stands for (the digest of a file, say).
    Is(String),
    /// Never the same twice: never cached.
    Always,
}

/// One kind of node. A unit struct implements it and is listed in its family's `NODES`.
pub trait Node<H>: Sync + 'static {
    const CARD: Card;
    /// Called once with whole lists (fields are `Vec`s) instead of once per item.
    const TAKES_LISTS: bool = false;
    /// Inputs whose literals [`Node::check`] judges by itself; range and list are not tested for these.
    const CHECKS: &'static [&'static str] = &[];
    type In: Inputs;
    type Out: Outputs;

    fn run(&self, input: Self::In, run: &mut Run<'_, H>) -> Result<Self::Out>;

    /// Asked once per prompt, with the literals only.
    fn fingerprint(&self, _literals: &Literals, _host: &H) -> Fingerprint {
        Fingerprint::Constant
    }

    /// Judges the literals before the prompt is queued; the error is the reason, one sentence.
    fn check(&self, _literals: &Literals, _host: &H) -> Result<(), String> {
        Ok(())
    }

    /// Of the lazy inputs that are still missing in `known`, those this node needs.
    fn needs(&self, _known: &Args) -> Vec<&'static str> {
        Vec::new()
    }
}

/// The object-safe face of [`Node`], implemented once for all nodes.
pub trait AnyNode<H>: Sync {
    fn card(&self) -> Card;
    fn inputs(&self) -> Vec<InputSpec>;
    fn outputs(&self) -> Vec<OutputSpec>;
    fn takes_lists(&self) -> bool;
    fn checks(&self) -> &'static [&'static str];
    fn fingerprint(&self, literals: &Literals, host: &H) -> Fingerprint;
    fn check(&self, literals: &Literals, host: &H) -> Result<(), String>;
    fn needs(&self, known: &Args) -> Vec<&'static str>;
    fn run(&self, args: &Args, run: &mut Run<'_, H>) -> Result<Produced>;
}

impl<H, N: Node<H>> AnyNode<H> for N {
    fn card(&self) -> Card {
        N::CARD
    }
    fn inputs(&self) -> Vec<InputSpec> {
        N::In::specs()
    }
    fn outputs(&self) -> Vec<OutputSpec> {
        let mut specs = N::Out::specs();
        for (spec, name) in specs.iter_mut().zip(N::CARD.outputs) {
            spec.name = name;
        }
        specs
    }
    fn takes_lists(&self) -> bool {
        N::TAKES_LISTS
    }
    fn checks(&self) -> &'static [&'static str] {
        N::CHECKS
    }
    fn fingerprint(&self, literals: &Literals, host: &H) -> Fingerprint {
        Node::fingerprint(self, literals, host)
    }
    fn check(&self, literals: &Literals, host: &H) -> Result<(), String> {
        Node::check(self, literals, host)
    }
    fn needs(&self, known: &Args) -> Vec<&'static str> {
        Node::needs(self, known)
    }
    fn run(&self, args: &Args, run: &mut Run<'_, H>) -> Result<Produced> {
        let mut produced = Produced::default();
        Node::run(self, N::In::read(args)?, run)?.produce(&mut produced);
        Ok(produced)
    }
}

/// One output slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    pub name: &'static str,
    pub socket: &'static str,
    /// The slot carries a list whose items are mapped over by consumers.
    pub list: bool,
}

/// What one call of a node made.
#[derive(Debug, Default)]
pub struct Produced {
    /// One entry per slot; list slots hold any number of items.
    pub slots: Vec<Vec<Item>>,
    /// What the user is shown, for output nodes: key to list.
    pub ui: Option<Map<String, Json>>,
    /// Nodes to run in this one's place.
    pub expansion: Option<Expansion>,
}

/// A subgraph that a node returns to be run in its place.
#[derive(Clone, Debug)]
pub struct Expansion {
    /// API-format nodes under ids of their own, see [`Run::unique_id`].
    pub nodes: Map<String, Json>,
    /// One link or finished value per output slot of the expanding node.
    pub results: Vec<ExpandedSlot>,
}

#[derive(Clone, Debug)]
pub enum ExpandedSlot {
    Link { node: String, slot: usize },
    Value(Value),
}

/// What a node may return: a tuple of sockets, perhaps wrapped in [`WithUi`] or [`Expanded`].
pub trait Outputs {
    fn specs() -> Vec<OutputSpec>;
    fn produce(self, into: &mut Produced);
}

/// One output slot of a tuple.
pub trait Slot {
    const NAME: &'static str;
    const LIST: bool = false;
    fn items(self) -> Vec<Item>;
}

impl<T: Socket> Slot for T {
    const NAME: &'static str = T::NAME;
    fn items(self) -> Vec<Item> {
        vec![Item::Value(Value::new(self))]
    }
}

/// Passes a value on without a copy.
pub struct Same<T>(pub Arc<T>);
impl<T: Socket> Slot for Same<T> {
    const NAME: &'static str = T::NAME;
    fn items(self) -> Vec<Item> {
        vec![Item::Value(Value::shared(self.0))]
    }
}

/// A slot that carries a list.
pub struct ListOf<T>(pub Vec<T>);
impl<T: Socket> Slot for ListOf<T> {
    const NAME: &'static str = T::NAME;
    const LIST: bool = true;
    fn items(self) -> Vec<Item> {
        self.0.into_iter().map(|value| Item::Value(Value::new(value))).collect()
    }
}

/// A slot that may stop its consumers instead of feeding them.
pub enum MaybeBlocked<T> {
    Value(T),
    Blocked(Option<String>),
}
impl<T: Socket> Slot for MaybeBlocked<T> {
    const NAME: &'static str = T::NAME;
    fn items(self) -> Vec<Item> {
        vec![match self {
            Self::Value(value) => Item::Value(Value::new(value)),
            Self::Blocked(message) => Item::Blocked(message),
        }]
    }
}

/// A slot of any type, forwarded as it came.
pub struct AnyValue(pub Value);
impl Slot for AnyValue {
    const NAME: &'static str = "*";
    fn items(self) -> Vec<Item> {
        vec![Item::Value(self.0)]
    }
}

/// A slot that carries a list of any type.
pub struct AnyList(pub Vec<Value>);
impl Slot for AnyList {
    const NAME: &'static str = "*";
    const LIST: bool = true;
    fn items(self) -> Vec<Item> {
        self.0.into_iter().map(Item::Value).collect()
    }
}

macro_rules! tuple_outputs {
    ($($slot:ident),*) => {
        impl<$($slot: Slot),*> Outputs for ($($slot,)*) {
            fn specs() -> Vec<OutputSpec> {
                vec![$(OutputSpec { name: $slot::NAME, socket: $slot::NAME, list: $slot::LIST }),*]
            }
            #[allow(non_snake_case, unused_variables, reason = "the macro also makes the empty tuple")]
            fn produce(self, into: &mut Produced) {
                let ($($slot,)*) = self;
                into.slots = vec![$($slot.items()),*];
            }
        }
    };
}
tuple_outputs!();
tuple_outputs!(A);
tuple_outputs!(A, B);
tuple_outputs!(A, B, C);
tuple_outputs!(A, B, C, D);

/// Outputs together with what the user is shown.
pub struct WithUi<O> {
    pub ui: Map<String, Json>,
    pub outputs: O,
}
impl<O: Outputs> Outputs for WithUi<O> {
    fn specs() -> Vec<OutputSpec> {
        O::specs()
    }
    fn produce(self, into: &mut Produced) {
        self.outputs.produce(into);
        into.ui = Some(self.ui);
    }
}

/// Either the outputs, or nodes to run in this one's place.
pub enum Expanded<O> {
    Done(O),
    Into(Expansion),
}
impl<O: Outputs> Outputs for Expanded<O> {
    fn specs() -> Vec<OutputSpec> {
        O::specs()
    }
    fn produce(self, into: &mut Produced) {
        match self {
            Self::Done(outputs) => outputs.produce(into),
            Self::Into(expansion) => into.expansion = Some(expansion),
        }
    }
}
