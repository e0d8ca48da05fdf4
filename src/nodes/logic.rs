//! Nodes that decide which way a value goes. They came after ComfyUI 0.3.64.

use serde_json::Value as Json;

use super::Services;
use crate::graph::{
    AnyNode, AnyValue, Anything, Arg, Args, Card, Node, NodeError, Result, Run, Value, boolean, socket,
};
use crate::inputs;

pub const NODES: &[&dyn AnyNode<Services>] = &[&ComfySwitchNode];

/// Computes only the side that is chosen.
struct ComfySwitchNode;

inputs! {
    struct ComfySwitchNodeIn {
        switch: bool = boolean(false),
        on_false: Option<Anything> = socket().lazy(),
        on_true: Option<Anything> = socket().lazy(),
    }
}

impl Node<Services> for ComfySwitchNode {
    const CARD: Card = Card::new("ComfySwitchNode", "If/Else Switch", "utilities/logic")
        .about("Passes on one of two values; the other one is not computed.")
        .module("comfy_extras.nodes_logic")
        .outputs(&["output"])
        .experimental()
        .schema();
    type In = ComfySwitchNodeIn;
    type Out = (AnyValue,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (name, chosen) =
            if input.switch { ("on_true", input.on_true) } else { ("on_false", input.on_false) };
        let chosen = chosen.and_then(|chosen| passed_on(chosen.0));
        chosen.map(|value| (AnyValue(value),)).ok_or_else(|| {
            NodeError::Refused(format!("`switch` is {}, and nothing is linked to `{name}`", input.switch))
        })
    }

    fn needs(&self, known: &Args) -> Vec<&'static str> {
        let switched = match known.get("switch") {
            Some(Arg::Literal(flag)) => flag.as_bool().unwrap_or_default(),
            Some(Arg::Value(value)) => value.get::<bool>().is_some_and(|flag| *flag),
            _ => false,
        };
        let name = if switched { "on_true" } else { "on_false" };
        if known.contains_key(name) { Vec::new() } else { vec![name] }
    }
}

/// What an argument is on a link; `None` for what no link carries.
pub(super) fn passed_on(arg: Arg) -> Option<Value> {
    match arg {
        Arg::Value(value) => Some(value),
        Arg::Literal(Json::Bool(flag)) => Some(Value::new(flag)),
        Arg::Literal(Json::String(text)) => Some(Value::new(text)),
        Arg::Literal(Json::Number(number)) => {
            number.as_i64().map(Value::new).or_else(|| number.as_f64().map(Value::new))
        }
        Arg::Literal(_) | Arg::List(_) => None,
    }
}
