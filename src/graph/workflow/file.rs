//! The shape of the editor's files, version 0.4 and its neighbours. What nobody reads here is left out.

use serde::Deserialize;
use serde_json::{Map, Value as Json};

/// Ids are numbers, or words in files that other programs wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged)]
pub(super) enum Id {
    Number(i64),
    Word(String),
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Word(word) => word.fmt(f),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct File {
    #[serde(flatten)]
    pub(super) graph: Graph,
    #[serde(default)]
    definitions: Definitions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Definitions {
    subgraphs: Vec<Subgraph>,
}

impl File {
    pub(super) fn subgraphs(&self) -> &[Subgraph] {
        &self.definitions.subgraphs
    }
}

/// Nodes and what connects them.
#[derive(Debug, Deserialize)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    #[serde(default)]
    pub(super) links: Vec<Link>,
}

/// A graph with slots to the outside, placed by nodes whose class is its id.
#[derive(Debug, Deserialize)]
pub(super) struct Subgraph {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) inputs: Vec<Boundary>,
    #[serde(default)]
    pub(super) outputs: Vec<Boundary>,
    #[serde(flatten)]
    pub(super) graph: Graph,
}

/// A slot of a subgraph to the outside.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Boundary {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) link_ids: Vec<Id>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Node {
    pub(super) id: Id,
    #[serde(rename = "type")]
    pub(super) class: String,
    pub(super) title: Option<String>,
    #[serde(default)]
    mode: i64,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) inputs: Vec<Input>,
    #[serde(default, deserialize_with = "null_as_empty")]
    pub(super) outputs: Vec<Output>,
    #[serde(default)]
    pub(super) widgets_values: Json,
}

impl Node {
    pub(super) fn is_muted(&self) -> bool {
        self.mode == 2
    }

    pub(super) fn is_bypassed(&self) -> bool {
        self.mode == 4
    }

    pub(super) fn is_active(&self) -> bool {
        !self.is_muted() && !self.is_bypassed()
    }

    /// The values of the widgets where they are a plain list.
    pub(super) fn listed_values(&self) -> &[Json] {
        self.widgets_values.as_array().map_or(&[], Vec::as_slice)
    }

    /// The values of the widgets where the file names them.
    pub(super) fn named_values(&self) -> Option<&Map<String, Json>> {
        self.widgets_values.as_object()
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Input {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default, rename = "type")]
    pub(super) socket: Json,
    pub(super) link: Option<Id>,
    pub(super) widget: Option<WidgetName>,
}

/// The widget that an input may replace.
#[derive(Debug, Deserialize)]
pub(super) struct WidgetName {
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Output {
    #[serde(default, rename = "type")]
    pub(super) socket: Json,
}

/// From an output slot to an input slot.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "LinkShape")]
pub(super) struct Link {
    pub(super) id: Id,
    pub(super) origin: Id,
    pub(super) origin_slot: usize,
    pub(super) target: Id,
    pub(super) target_slot: usize,
}

impl Link {
    /// The node that stands for a subgraph's inputs.
    const INPUTS: Id = Id::Number(-10);

    /// Whether it comes from outside the subgraph.
    pub(super) fn enters(&self) -> bool {
        self.origin == Self::INPUTS
    }
}

/// Links are lists of six in the outermost graph, and objects in subgraphs and newer files.
#[derive(Deserialize)]
#[serde(untagged)]
enum LinkShape {
    List((Id, Id, i64, Id, i64, Json)),
    Object { id: Id, origin_id: Id, origin_slot: i64, target_id: Id, target_slot: i64 },
}

impl From<LinkShape> for Link {
    fn from(shape: LinkShape) -> Self {
        let (id, origin, origin_slot, target, target_slot) = match shape {
            LinkShape::List((id, origin, origin_slot, target, target_slot, _)) => {
                (id, origin, origin_slot, target, target_slot)
            }
            LinkShape::Object { id, origin_id, origin_slot, target_id, target_slot } => {
                (id, origin_id, origin_slot, target_id, target_slot)
            }
        };
        // A slot below zero belongs to no input; a slot that does not exist says the same.
        let slot = |slot: i64| usize::try_from(slot).unwrap_or(usize::MAX);
        Self { id, origin, origin_slot: slot(origin_slot), target, target_slot: slot(target_slot) }
    }
}

fn null_as_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
