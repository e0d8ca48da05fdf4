//! Which value of a node's list belongs to which widget.
//!
//! Files hold the values of widgets in order and without names. The order is that of the inputs which the class
//! declares, required ones first; a combo brings the inputs of its word along, and a few widgets another one that is no
//! input at all.

use serde_json::{Map, Value as Json, json};

use super::file::{Node, Subgraph};
use super::text;
use crate::graph::inputs::{InputSpec, Kind, Library};
use crate::graph::registry::Class;

/// What the editor does with a seed after each run; these words stand in the list after the seed.
const AFTER_GENERATE: [&str; 5] = ["fixed", "increment", "decrement", "randomize", "increment-wrap"];

/// The values of a node's widgets by input name, those that the file lacks at their defaults.
pub(super) fn values<H: Library>(node: &Node, class: Option<&Class<H>>, library: &H) -> Map<String, Json> {
    let mut values = match (node.named_values(), class) {
        (Some(named), _) => named.clone(),
        (None, Some(class)) => declared(node, class),
        (None, None) => named_by_slots(node),
    };
    let Some(class) = class else { return wrapped_all(values) };
    let mut complete = Map::new();
    for spec in in_editor_order(class) {
        let given = values.shift_remove(spec.name);
        if !spec.shown_by.is_empty() && !spec.is_shown(&complete) {
            continue;
        }
        if let Some(value) = given.or_else(|| default(spec, library)) {
            complete.insert(spec.name.to_owned(), as_sent(spec, value));
        }
    }
    // What is left belongs to inputs that a newer version of the class declares.
    complete.extend(values);
    wrapped_all(complete)
}

/// Lists would be taken for links.
pub(super) fn wrapped(value: Json) -> Json {
    if value.is_array() { json!({"__value__": value}) } else { value }
}

fn wrapped_all(values: Map<String, Json>) -> Map<String, Json> {
    values.into_iter().map(|(name, value)| (name, wrapped(value))).collect()
}

/// The value of a widget that a subgraph shows on the node that places it, for input `slot` of the subgraph.
///
/// The placing node keeps one value per input that leads to a widget, or none at all: then the first widget that
/// the input leads to says what all of them get.
pub(super) fn promoted(placing: &Node, subgraph: &Subgraph, slot: usize) -> Option<Json> {
    let widget = |slot: usize| {
        let links = subgraph.inputs.get(slot)?.link_ids.iter();
        let mut targets = links.filter_map(|id| {
            let link = subgraph.graph.links.iter().find(|link| link.id == *id)?;
            let node = subgraph.graph.nodes.iter().find(|node| node.id == link.target)?;
            let input = node.inputs.get(link.target_slot)?;
            input.widget.as_ref().map(|widget| (node, widget.name.as_str()))
        });
        targets.next()
    };
    widget(slot)?;
    let place = (0..slot).filter(|before| widget(*before).is_some()).count();
    if let Some(named) = placing.named_values() {
        return named.get(&subgraph.inputs[slot].name).cloned();
    }
    placing.listed_values().get(place).cloned()
}

fn is_widget(spec: &InputSpec) -> bool {
    !matches!(spec.kind, Kind::Link(_)) && spec.options.get("forceInput") != Some(&Json::Bool(true))
}

/// The widgets of a class in the order of the list.
fn in_editor_order<H>(class: &Class<H>) -> impl Iterator<Item = &InputSpec> {
    let required = |spec: &InputSpec| spec.required || !spec.shown_by.is_empty();
    let part = move |wanted| class.inputs.iter().filter(move |spec| required(spec) == wanted);
    part(true).chain(part(false)).map(AsRef::as_ref).filter(|spec| is_widget(spec))
}

/// Reads the list by what the class declares.
fn declared<H>(node: &Node, class: &Class<H>) -> Map<String, Json> {
    let mut values = Map::new();
    let mut list = node.listed_values().iter().peekable();
    for spec in in_editor_order(class) {
        if !spec.shown_by.is_empty() && !spec.is_shown(&values) {
            continue;
        }
        // A text where a number belongs is the next widget's: the file is older than this one.
        let Some(value) = list.next_if(|value| !is_foreign(spec, value)) else { continue };
        values.insert(spec.name.to_owned(), value.clone());
        if spec.options.contains_key("control_after_generate") || matches!(spec.name, "seed" | "noise_seed") {
            list.next_if(|value| is_control(value));
        }
        // The button that opens a file dialogue.
        if spec.options.contains_key("image_upload") {
            list.next_if(|value| value.as_str() == Some("image"));
        }
    }
    values
}

/// Reads the list of an unknown class by the slots that name their widget, where these are all there are.
fn named_by_slots(node: &Node) -> Map<String, Json> {
    let names: Vec<_> = node.inputs.iter().filter_map(|input| input.widget.as_ref()).collect();
    let controls = node.listed_values().iter().filter(|value| is_control(value)).count();
    let list = node.listed_values();
    if names.len() == list.len() {
        return names.iter().map(|widget| widget.name.clone()).zip(list.iter().cloned()).collect();
    }
    let inputs = list.iter().filter(|value| !is_control(value));
    if names.len() + controls != list.len() {
        return Map::new();
    }
    names.iter().map(|widget| widget.name.clone()).zip(inputs.cloned()).collect()
}

fn is_foreign(spec: &InputSpec, value: &Json) -> bool {
    let is_number = matches!(spec.kind, Kind::Int | Kind::Float);
    is_number && value.as_str().is_some_and(|text| text.trim().parse::<f64>().is_err())
}

fn is_control(value: &Json) -> bool {
    value.as_str().is_some_and(|word| AFTER_GENERATE.contains(&word))
}

/// The value a new node starts with.
fn default<H: Library>(spec: &InputSpec, library: &H) -> Option<Json> {
    let declared = spec.options.get("default").cloned();
    declared.or_else(|| match &spec.kind {
        Kind::Int | Kind::Float => Some(json!(0)),
        Kind::Text => Some(json!("")),
        Kind::Boolean => Some(json!(false)),
        Kind::Choice(words) => words.first().map(|word| json!(word)),
        Kind::Files(folder) => library.names(folder).first().map(|name| json!(name)),
        Kind::Link(_) => None,
    })
}

fn as_sent(spec: &InputSpec, value: Json) -> Json {
    match value {
        Json::String(text) if spec.options.contains_key("dynamicPrompts") => text::plain(&text).into(),
        value => value,
    }
}
