//! How a prompt in API format is read: nodes, their classes, inputs and links. Knows no classes.

use serde_json::{Map, Value as Json};

/// What an input links to: an output slot of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link<'a> {
    pub(super) node: &'a str,
    slot: i64,
}

impl Link<'_> {
    /// The slot of a node that has `count` of them; below zero counts from the last one, as Python does.
    pub(super) fn slot(self, count: usize) -> Option<usize> {
        index(self.slot, count)
    }
}

/// See [`Link::slot`].
pub(super) fn index(slot: i64, count: usize) -> Option<usize> {
    let place = if slot < 0 { count.checked_sub(slot.unsigned_abs() as usize)? } else { slot as usize };
    (place < count).then_some(place)
}

/// `["4", 0]` is a link; anything else is a constant.
pub(super) fn link(value: &Json) -> Option<Link<'_>> {
    match value.as_array()?.as_slice() {
        [Json::String(node), slot] => Some(Link { node, slot: slot.as_i64()? }),
        _ => None,
    }
}

pub(super) fn class(node: &Json) -> Option<&str> {
    node.get("class_type")?.as_str()
}

pub(super) fn inputs(node: &Json) -> Option<&Map<String, Json>> {
    node.get("inputs")?.as_object()
}

/// The word for a JSON type in messages.
pub(super) fn type_word(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}
