//! Every node a server knows, by class name, with the declarations asked once.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::inputs::{InputSpec, Library};
use super::node::{AnyNode, Card, Literals, OutputSpec};
use super::prompt;

/// What a class declares.
pub struct Class<H: 'static> {
    pub node: &'static dyn AnyNode<H>,
    pub card: Card,
    pub inputs: Vec<Arc<InputSpec>>,
    pub outputs: Vec<OutputSpec>,
}

impl<H> Class<H> {
    fn of(node: &'static dyn AnyNode<H>) -> Self {
        Self {
            node,
            card: node.card(),
            inputs: node.inputs().into_iter().map(Arc::new).collect(),
            outputs: node.outputs(),
        }
    }

    /// How many outputs `/object_info` tells of.
    pub(super) fn listed(&self) -> usize {
        self.card.listed(self.outputs.len())
    }

    /// The declaration of input `name`.
    pub fn input(&self, name: &str) -> Option<&Arc<InputSpec>> {
        self.inputs.iter().find(|spec| spec.name == name)
    }
}

impl<H> Class<H> {
    /// The constants that a node of this class has at its declared inputs.
    pub(super) fn literals(&self, body: &Json) -> Literals {
        let inputs = prompt::inputs(body).into_iter().flatten();
        inputs
            .filter(|(name, value)| self.input(name).is_some() && prompt::link(value).is_none())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

/// Every node a server knows, by class name.
pub struct Registry<H: 'static> {
    classes: Vec<Class<H>>,
    places: HashMap<&'static str, usize>,
}

impl<H: Library> Registry<H> {
    /// Collects nodes in the order `/object_info` shows them.
    pub fn new(nodes: impl IntoIterator<Item = &'static dyn AnyNode<H>>) -> Self {
        let classes: Vec<_> = nodes.into_iter().map(Class::of).collect();
        let places: HashMap<_, _> =
            classes.iter().enumerate().map(|(place, class)| (class.card.class, place)).collect();
        assert_eq!(places.len(), classes.len(), "two nodes share a class name");
        Self { classes, places }
    }

    pub fn get(&self, class: &str) -> Option<&'static dyn AnyNode<H>> {
        self.class(class).map(|class| class.node)
    }

    /// As [`Registry::get`], with the declarations at hand.
    pub fn class(&self, class: &str) -> Option<&Class<H>> {
        self.places.get(class).map(|place| &self.classes[*place])
    }

    pub fn iter(&self) -> impl Iterator<Item = &'static dyn AnyNode<H>> {
        self.classes.iter().map(|class| class.node)
    }
}
