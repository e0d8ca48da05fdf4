//! How a prompt in API format is read: nodes, their classes, inputs and links. Knows no classes.

use serde_json::{Map, Value as Json};

/// What an input links to: an output slot of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link<'a> {
    pub(super) node: &'a str,
    pub(super) slot: usize,
}

/// `["4", 0]` is a link; anything else is a constant.
pub(super) fn link(value: &Json) -> Option<Link<'_>> {
    match value.as_array()?.as_slice() {
        [Json::String(node), slot] => Some(Link { node, slot: usize::try_from(slot.as_u64()?).ok()? }),
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
