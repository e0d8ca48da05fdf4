//! The prompt as it grows while it runs: its own nodes, and those that nodes expand into.
//!
//! Nodes are known by their place in one list; links are resolved to places once. Deliberately knows no
//! results and no order.

use std::collections::HashMap;

use serde_json::{Map, Value as Json};

use super::event::NodeId;
use super::inputs::Library;
use super::prompt;
use super::registry::{Class, Registry};

/// Where a node stands in the list.
pub(super) type Place = usize;

/// What an input was given.
#[derive(Clone, Debug)]
pub(super) enum Given {
    Constant(Json),
    /// `source` is `None` when the prompt has no such node.
    Link {
        source: Option<Place>,
        slot: usize,
    },
}

/// One input of a node. Links to inputs that the class does not declare are left out.
pub(super) struct GivenInput {
    pub(super) name: String,
    pub(super) given: Given,
    /// Undeclared constants count for the cache, as in ComfyUI, but never reach the node.
    pub(super) declared: bool,
    pub(super) lazy: bool,
}

pub(super) struct Member<'a, H: 'static> {
    pub(super) id: NodeId,
    pub(super) class: &'a Class<H>,
    pub(super) inputs: Vec<GivenInput>,
    /// The node that expanded into this one.
    pub(super) parent: Option<Place>,
    /// The node the user sees.
    pub(super) display: Place,
    /// The node of the prompt that all this came from.
    pub(super) real: Place,
}

impl<H> Member<'_, H> {
    /// The nodes this one is linked to, with the slot, and whether the link is lazy.
    pub(super) fn links(&self) -> impl Iterator<Item = (Place, bool)> {
        self.inputs.iter().filter_map(|input| match input.given {
            Given::Link { source: Some(source), .. } => Some((source, input.lazy)),
            _ => None,
        })
    }
}

/// Why nodes cannot join.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinError {
    #[error("node {node} is of class {class}, which does not exist here")]
    UnknownClass { node: NodeId, class: String },
    #[error("node {node} exists already; a subgraph needs ids of its own")]
    Duplicate { node: NodeId },
}

pub(super) struct DynamicPrompt<'a, H: 'static> {
    registry: &'a Registry<H>,
    pub(super) members: Vec<Member<'a, H>>,
    places: HashMap<NodeId, Place>,
}

impl<'a, H: Library> DynamicPrompt<'a, H> {
    /// The nodes of a prompt; those of an unknown class are left out.
    pub(super) fn new(prompt: &Map<String, Json>, registry: &'a Registry<H>) -> Self {
        let mut dynamic = Self { registry, members: Vec::new(), places: HashMap::new() };
        let known: Vec<_> = prompt.iter().filter(|(_, body)| dynamic.class(body).is_some()).collect();
        for (id, body) in &known {
            // The nodes of one object have different ids, and their classes were just seen to be known.
            let _ = dynamic.join(id, body, None);
        }
        for (place, (_, body)) in known.into_iter().enumerate() {
            dynamic.read_inputs(place, body);
        }
        dynamic
    }

    /// Adds the nodes of a subgraph; gives their places.
    pub(super) fn expand(
        &mut self,
        parent: Place,
        nodes: &Map<String, Json>,
    ) -> Result<Vec<Place>, JoinError> {
        let joined: Vec<_> =
            nodes.iter().map(|(id, body)| self.join(id, body, Some(parent))).collect::<Result<_, _>>()?;
        for (place, body) in joined.iter().zip(nodes.values()) {
            self.read_inputs(*place, body);
        }
        Ok(joined)
    }

    pub(super) fn place(&self, id: &str) -> Option<Place> {
        self.places.get(id).copied()
    }

    /// The ids of a node as the outside is told: `(node, display, parent, real)`.
    pub(super) fn names(&self, place: Place) -> (NodeId, NodeId, Option<NodeId>, NodeId) {
        let name = |place: Place| self.members[place].id.clone();
        let member = &self.members[place];
        (name(place), name(member.display), member.parent.map(name), name(member.real))
    }

    fn class(&self, body: &Json) -> Option<&'a Class<H>> {
        self.registry.class(prompt::class(body)?)
    }

    fn join(&mut self, id: &str, body: &Json, parent: Option<Place>) -> Result<Place, JoinError> {
        let node = || id.to_owned();
        let class = self.class(body).ok_or_else(|| JoinError::UnknownClass {
            node: node(),
            class: prompt::class(body).unwrap_or_default().to_owned(),
        })?;
        if self.places.contains_key(id) {
            return Err(JoinError::Duplicate { node: node() });
        }
        let place = self.members.len();
        // A subgraph may show one of its nodes as another one than its parent.
        let shown = body.get("override_display_id").and_then(Json::as_str).and_then(|id| self.place(id));
        let display = parent.map_or(place, |parent| self.members[shown.unwrap_or(parent)].display);
        let real = parent.map_or(place, |parent| self.members[parent].real);
        self.members.push(Member { id: node(), class, inputs: Vec::new(), parent, display, real });
        self.places.insert(node(), place);
        Ok(place)
    }

    /// Resolves the links of a node once all nodes they may lead to have joined.
    fn read_inputs(&mut self, place: Place, body: &Json) {
        let class = self.members[place].class;
        let read = |(name, value): (&String, &Json)| {
            let spec = class.input(name);
            let given = match prompt::link(value) {
                Some(_) if spec.is_none() => return None,
                Some(link) => {
                    let source = self.place(link.node);
                    let count = source.map_or(0, |source| self.members[source].class.outputs.len());
                    Given::Link { source, slot: link.slot(count).unwrap_or(usize::MAX) }
                }
                None => Given::Constant(value.clone()),
            };
            let lazy = spec.is_some_and(|spec| spec.lazy);
            Some(GivenInput { name: name.clone(), given, declared: spec.is_some(), lazy })
        };
        let inputs = prompt::inputs(body).into_iter().flatten().filter_map(read).collect();
        self.members[place].inputs = inputs;
    }
}
