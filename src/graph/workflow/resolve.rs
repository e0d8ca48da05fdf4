//! Where an input's value really comes from, once all that only the editor knows is taken away.

use std::cell::RefCell;
use std::collections::HashSet;

use serde_json::Value as Json;

use super::file::{Input, Link, Node};
use super::scope::{Placed, Scopes};
use super::widgets;

/// What feeds an input.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    /// Nothing; the widget keeps its value.
    Nothing,
    /// The value of a widget elsewhere: of a primitive, or of the node that places a subgraph.
    Value(Json),
    /// An output slot of a node in the prompt.
    Slot { node: String, slot: usize },
    /// A muted node: the input is left out, its widget's value with it.
    Removed,
}

pub(super) struct Resolver<'a> {
    scopes: &'a Scopes<'a>,
    /// Inputs on the way of the one that is being resolved; meeting one again is a circle.
    visited: RefCell<HashSet<(usize, *const Node, usize)>>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(scopes: &'a Scopes<'a>) -> Self {
        Self { scopes, visited: RefCell::default() }
    }

    /// What feeds input `slot` of a node.
    pub(super) fn input(&self, scope: usize, node: &Node, slot: usize) -> Source {
        self.visited.borrow_mut().clear();
        let wanted = node.inputs.get(slot).map_or(&Json::Null, |input| &input.socket);
        self.follow(scope, node, slot, wanted)
    }

    fn follow(&self, scope: usize, node: &Node, slot: usize, wanted: &Json) -> Source {
        if !self.visited.borrow_mut().insert((scope, std::ptr::from_ref(node), slot)) {
            return Source::Nothing;
        }
        let link = node.inputs.get(slot).and_then(|input| self.scopes.get(scope).link(input.link.as_ref()?));
        link.map_or(Source::Nothing, |link| self.origin(scope, link, wanted))
    }

    /// What a link carries.
    fn origin(&self, scope: usize, link: &Link, wanted: &Json) -> Source {
        let here = self.scopes.get(scope);
        match here.placed {
            Some(placed) if link.enters() => self.outside(placed, link.origin_slot, wanted),
            _ => match here.node(&link.origin) {
                Some(node) => self.output(scope, node, link.origin_slot, wanted),
                None => Source::Nothing,
            },
        }
    }

    /// What is put into an input of a subgraph where it is placed.
    fn outside(&self, placed: Placed<'_>, slot: usize, wanted: &Json) -> Source {
        let Some(boundary) = placed.subgraph.inputs.get(slot) else { return Source::Nothing };
        // The placing node may list its inputs in an older order than the subgraph.
        let own = placed.node.inputs.iter().position(|input| input.name == boundary.name);
        if let Some(own) = own.filter(|own| placed.node.inputs[*own].link.is_some()) {
            return self.follow(placed.outer, placed.node, own, wanted);
        }
        widgets::promoted(placed.node, placed.subgraph, slot).map_or(Source::Nothing, Source::Value)
    }

    /// What an output slot gives.
    fn output(&self, scope: usize, node: &Node, slot: usize, wanted: &Json) -> Source {
        if node.is_muted() {
            return Source::Removed;
        }
        if node.is_bypassed() {
            let through = detour(node, slot, wanted);
            return through.map_or(Source::Nothing, |input| self.follow(scope, node, input, wanted));
        }
        if let (Some(inner), Some(subgraph)) =
            (self.scopes.get(scope).inner(node), self.scopes.subgraph(node))
        {
            let link = subgraph.outputs.get(slot).and_then(|boundary| boundary.link_ids.first());
            let link = link.and_then(|id| self.scopes.get(inner).link(id));
            return link.map_or(Source::Nothing, |link| self.origin(inner, link, wanted));
        }
        match node.class.as_str() {
            "PrimitiveNode" => node.listed_values().first().cloned().map_or(Source::Nothing, Source::Value),
            _ if node.is_virtual() => self.follow(scope, node, slot, wanted),
            _ => Source::Slot { node: self.scopes.id(scope, node), slot },
        }
    }
}

/// The input that a bypassed node passes on as output `slot`, for an input that wants this type.
fn detour(node: &Node, slot: usize, wanted: &Json) -> Option<usize> {
    let is_any = wanted.as_str().is_none_or(|wanted| wanted.is_empty() || wanted == "*");
    if is_any {
        let same = if slot < node.inputs.len() { slot } else { 0 };
        return (!node.inputs.is_empty()).then_some(same);
    }
    let given = &node.outputs.get(slot)?.socket;
    let fits = |input: &Input| connects(&input.socket, given) && connects(&input.socket, wanted);
    if node.inputs.get(slot).is_some_and(fits) {
        return Some(slot);
    }
    let exact = node.inputs.iter().position(|input| input.socket == *wanted);
    exact.or_else(|| node.inputs.iter().position(fits))
}

/// Whether the editor lets two types be linked: one of them is any, or they share a word.
fn connects(one: &Json, other: &Json) -> bool {
    let (Some(one), Some(other)) = (one.as_str(), other.as_str()) else { return true };
    let words = |text: &str| text.to_lowercase().split(',').map(str::to_owned).collect::<Vec<_>>();
    let is_any = |text: &str| text.is_empty() || text == "*";
    is_any(one) || is_any(other) || words(one).iter().any(|word| words(other).contains(word))
}
