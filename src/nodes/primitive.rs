//! Plain values as nodes, and a look at any value.

use serde_json::{Map, Value as Json};

use super::Services;
use crate::graph::{
    AnyNode, Anything, Arg, Card, Input, Kind, Node, Result, Run, WithUi, int, python_text, socket, text,
};
use crate::{inputs, python_json};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &PrimitiveString,
    &PrimitiveStringMultiline,
    &PrimitiveInt,
    &PrimitiveFloat,
    &PrimitiveBoolean,
    &PreviewAny,
    &CustomCombo,
    &SeedNode,
];

/// The largest whole number of Python's `sys.maxsize`.
const LARGEST: i64 = i64::MAX;

/// A card of this family.
const fn card(class: &'static str, title: &'static str) -> Card {
    Card::new(class, title, "utils/primitive").module("comfy_extras.nodes_primitive").schema()
}

struct PrimitiveString;

inputs! {
    struct PrimitiveStringIn {
        value: String = text().with("multiline", false),
    }
}

impl Node<Services> for PrimitiveString {
    const CARD: Card = card("PrimitiveString", "String");
    type In = PrimitiveStringIn;
    type Out = (String,);

    fn run(&self, input: PrimitiveStringIn, _run: &mut Run<'_, Services>) -> Result<(String,)> {
        Ok((input.value,))
    }
}

struct PrimitiveStringMultiline;

inputs! {
    struct PrimitiveStringMultilineIn {
        value: String = text().multiline(),
    }
}

impl Node<Services> for PrimitiveStringMultiline {
    const CARD: Card = card("PrimitiveStringMultiline", "String (Multiline)");
    type In = PrimitiveStringMultilineIn;
    type Out = (String,);

    fn run(&self, input: PrimitiveStringMultilineIn, _run: &mut Run<'_, Services>) -> Result<(String,)> {
        Ok((input.value,))
    }
}

struct PrimitiveInt;

inputs! {
    struct PrimitiveIntIn {
        value: i64 = socket().range(-LARGEST, LARGEST).with("control_after_generate", true),
    }
}

impl Node<Services> for PrimitiveInt {
    const CARD: Card = card("PrimitiveInt", "Int");
    type In = PrimitiveIntIn;
    type Out = (i64,);

    fn run(&self, input: PrimitiveIntIn, _run: &mut Run<'_, Services>) -> Result<(i64,)> {
        Ok((input.value,))
    }
}

struct PrimitiveFloat;

inputs! {
    struct PrimitiveFloatIn {
        value: f64 = socket().with("min", -LARGEST).with("max", LARGEST),
    }
}

impl Node<Services> for PrimitiveFloat {
    const CARD: Card = card("PrimitiveFloat", "Float");
    type In = PrimitiveFloatIn;
    type Out = (f64,);

    fn run(&self, input: PrimitiveFloatIn, _run: &mut Run<'_, Services>) -> Result<(f64,)> {
        Ok((input.value,))
    }
}

struct PrimitiveBoolean;

inputs! {
    struct PrimitiveBooleanIn {
        value: bool = socket(),
    }
}

impl Node<Services> for PrimitiveBoolean {
    const CARD: Card = card("PrimitiveBoolean", "Boolean");
    type In = PrimitiveBooleanIn;
    type Out = (bool,);

    fn run(&self, input: PrimitiveBooleanIn, _run: &mut Run<'_, Services>) -> Result<(bool,)> {
        Ok((input.value,))
    }
}

struct PreviewAny;

inputs! {
    struct PreviewAnyIn {
        source: Anything = socket(),
    }
}

impl Node<Services> for PreviewAny {
    const CARD: Card = Card::new("PreviewAny", "Preview Any", "utils")
        .module("comfy_extras.nodes_preview_any")
        .output()
        .unlisted(1);
    type In = PreviewAnyIn;
    type Out = WithUi<(String,)>;

    fn run(&self, input: PreviewAnyIn, _run: &mut Run<'_, Services>) -> Result<WithUi<(String,)>> {
        let text = shown(&input.source.0);
        let ui = Map::from_iter([("text".to_owned(), Json::from(vec![text.clone()]))]);
        Ok(WithUi { ui, outputs: (text,) })
    }
}

/// Texts as they are, numbers and flags as Python prints them, all else as JSON.
fn shown(arg: &Arg) -> String {
    let value = match arg {
        Arg::Literal(literal) => literal.clone(),
        Arg::Value(value) => value.describe(),
        Arg::List(items) => items.iter().map(|item| Json::String(shown(item))).collect(),
    };
    match value {
        Json::Array(_) | Json::Object(_) => python_json::write(&value),
        plain => python_text(&plain),
    }
}

/// One of the words that the user of the editor wrote down; which those are, only the editor knows.
struct OwnWord(String);

impl Input for OwnWord {
    fn kind() -> Kind {
        Kind::Choice(Vec::new())
    }
    fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self> {
        String::read(name, arg).map(Self)
    }
}

/// It came after ComfyUI 0.3.64.
struct CustomCombo;

inputs! {
    struct CustomComboIn {
        choice: OwnWord = socket().with("multiselect", false),
        index: Option<i64> = int(0),
    }
}

impl Node<Services> for CustomCombo {
    const CARD: Card = Card::new("CustomCombo", "Custom Combo", "utils")
        .about("A list of words of your own; gives the one that is chosen, and its place.")
        .module("comfy_extras.nodes_logic")
        .outputs(&["STRING", "INDEX"])
        .experimental()
        .schema();
    type In = CustomComboIn;
    type Out = (String, i64);

    fn run(&self, input: CustomComboIn, _run: &mut Run<'_, Services>) -> Result<(String, i64)> {
        Ok((input.choice.0, input.index.unwrap_or(0)))
    }
}

/// It came after ComfyUI 0.3.64.
struct SeedNode;

inputs! {
    struct SeedNodeIn {
        seed: i64 = int(0).range(0, LARGEST).with("control_after_generate", "fixed"),
    }
}

impl Node<Services> for SeedNode {
    const CARD: Card = card("SeedNode", "Seed").about("One seed for several nodes.").outputs(&["seed"]);
    type In = SeedNodeIn;
    type Out = (i64,);

    fn run(&self, input: SeedNodeIn, _run: &mut Run<'_, Services>) -> Result<(i64,)> {
        Ok((input.seed,))
    }
}
