//! Numbers calculated from numbers. These nodes came after ComfyUI 0.3.64.

mod expression;
mod function;
mod lexer;
mod value;

use serde_json::Value as Json;

use self::expression::Expression;
use self::value::Value;
use super::Services;
use crate::graph::{
    AnyNode, Arg, Args, Card, Growth, Input, InputSpec, Inputs, Kind, MaybeBlocked, Node, NodeError, Run,
    socket, text,
};
use crate::inputs;

pub const NODES: &[&dyn AnyNode<Services>] = &[&ComfyMathExpression, &ComfyNumberConvert];

/// The error is the reason, a sentence without its end.
type Result<T, E = String> = std::result::Result<T, E>;

const VALUES: Growth = Growth {
    group: "values",
    item: "value",
    numbered: false,
    least: 1,
    names: &[
        "values.a", "values.b", "values.c", "values.d", "values.e", "values.f", "values.g", "values.h",
        "values.i", "values.j", "values.k", "values.l", "values.m", "values.n", "values.o", "values.p",
        "values.q", "values.r", "values.s", "values.t", "values.u", "values.v", "values.w", "values.x",
        "values.y", "values.z",
    ],
};

/// A number or a flag, from a link or as a literal.
impl Input for Value {
    fn kind() -> Kind {
        Kind::Link("FLOAT,INT,BOOLEAN")
    }

    fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self, NodeError> {
        let number = |json: &Json| match json {
            Json::Bool(flag) => Some(Self::Flag(*flag)),
            Json::Number(number) if number.is_f64() => number.as_f64().map(Self::Float),
            Json::Number(number) => number.as_i128().map(Self::Whole),
            _ => None,
        };
        let found = match arg.ok_or(NodeError::Missing { name })? {
            Arg::Literal(json) => number(json),
            Arg::Value(value) => number(&value.describe()),
            Arg::List(_) => None,
        };
        found.ok_or(NodeError::WrongType { name, expected: "number or BOOLEAN" })
    }
}

struct ComfyMathExpressionIn {
    expression: String,
    values: Vec<(&'static str, Value)>,
}

impl Inputs for ComfyMathExpressionIn {
    fn specs() -> Vec<InputSpec> {
        let expression = text::<String>().default("a + b").multiline().spec("expression");
        std::iter::once(expression).chain(VALUES.specs::<Value>()).collect()
    }

    fn read(args: &Args) -> Result<Self, NodeError> {
        Ok(Self {
            expression: Input::read("expression", args.get("expression"))?,
            values: VALUES.read(args)?,
        })
    }
}

struct ComfyMathExpression;

impl Node<Services> for ComfyMathExpression {
    const CARD: Card = Card::new("ComfyMathExpression", "Math Expression", "utilities/math")
        .about("Calculates with numbers called a, b, c ... by Python's rules: `(a // 32) * 32`, `max(a, b)`, `a if b > 0 else 0`.")
        .module("comfy_extras.nodes_math")
        .outputs(&["FLOAT", "INT", "BOOL"])
        .schema();
    type In = ComfyMathExpressionIn;
    type Out = (f64, MaybeBlocked<i64>, bool);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out, NodeError> {
        let refused =
            |reason| NodeError::Refused(format!("the expression `{}`: {reason}", input.expression.trim()));
        if input.expression.trim().is_empty() {
            return Err(NodeError::Refused("the expression is empty; write one such as `a + b`".to_owned()));
        }
        let result = calculated(&input.expression, input.values).map_err(refused)?;
        let number = result.float().map_err(|_| refused("it comes to a list, not to a number".to_owned()))?;
        if !number.is_finite() {
            return Err(refused(format!("it comes to {number}, which is no finite number")));
        }
        Ok((number, on_a_link(result.whole().unwrap_or(number as i128)), result.is_true()))
    }
}

/// A whole number for those who can take it.
fn on_a_link(whole: i128) -> MaybeBlocked<i64> {
    match i64::try_from(whole) {
        Ok(whole) => MaybeBlocked::Value(whole),
        Err(_) => MaybeBlocked::Blocked(Some(format!("{whole} is too large for a whole number on a link"))),
    }
}

/// A number, a flag or a text that is a number.
struct Convertible(Value);

impl Input for Convertible {
    fn kind() -> Kind {
        Kind::Link("INT,FLOAT,STRING,BOOLEAN")
    }

    fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self, NodeError> {
        let text = match arg {
            Some(Arg::Literal(Json::String(text))) => Some(text.clone()),
            Some(Arg::Value(value)) => value.get::<String>().map(|text| text.as_ref().clone()),
            _ => None,
        };
        let Some(text) = text else { return Value::read(name, arg).map(Self) };
        let plain = text.trim();
        let float = || plain.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float);
        let number = plain.parse().ok().map(Value::Whole).or_else(float);
        number
            .map(Self)
            .ok_or_else(|| NodeError::Refused(format!("`{name}` is the text `{text}`, which is no number")))
    }
}

struct ComfyNumberConvert;

inputs! {
    struct ComfyNumberConvertIn {
        value: Convertible = socket(),
    }
}

impl Node<Services> for ComfyNumberConvert {
    const CARD: Card = Card::new("ComfyNumberConvert", "Convert Number", "utilities/math")
        .about("Makes a float and a whole number of a number, a flag or a text; fractions are cut off.")
        .module("comfy_extras.nodes_number_convert")
        .outputs(&["FLOAT", "INT"])
        .schema();
    type In = ComfyNumberConvertIn;
    type Out = (f64, MaybeBlocked<i64>);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out, NodeError> {
        let value = input.value.0;
        let number = value.float().map_err(NodeError::Refused)?;
        Ok((number, on_a_link(value.whole().unwrap_or(number as i128))))
    }
}

/// What an expression comes to, with all numbers also as the list `values`.
fn calculated(expression: &str, mut names: Vec<(&'static str, Value)>) -> Result<Value> {
    let all = names.iter().map(|(_, value)| value.clone()).collect();
    names.push(("values", Value::List(all)));
    Expression::read(expression)?.value(&names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[expression, values, result]` as Python's simpleeval 1.0.8 gives them: floats as texts, which are exact, and
    /// nothing where it refuses.
    #[test]
    fn expressions_come_to_what_they_come_to_in_python() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/values/expressions.json");
        let cases: Vec<(String, Vec<Json>, Json)> =
            serde_json::from_slice(&std::fs::read(file).expect("the cases")).expect("cases");
        assert!(cases.len() > 100);
        for (expression, values, expected) in cases {
            let values = values.into_iter().map(|value| Value::read("value", Some(&Arg::Literal(value))));
            let names = VALUES.own_names().zip(values.map(|value| value.expect("a number"))).collect();
            let found = match calculated(&expression, names) {
                Ok(Value::List(_)) | Err(_) => Json::Null,
                Ok(Value::Float(number)) => crate::python_json::float(number).into(),
                Ok(Value::Flag(flag)) => flag.into(),
                Ok(Value::Whole(number)) => i64::try_from(number).expect("a small number").into(),
            };
            assert_eq!(found, expected, "{expression}");
        }
    }

    #[test]
    fn nothing_that_is_written_overflows_the_stack_or_takes_long() {
        let names = || vec![("a", Value::Whole(2))];
        for (text, reason) in [
            ("(".repeat(100_000), "nested"),
            ("-".repeat(100_000) + "a", "nested"),
            ("not ".repeat(100_000) + "a", "nested"),
            ("a**".repeat(100_000) + "a", "nested"),
            ("a if a else ".repeat(100_000) + "a", "nested"),
            ("values".to_owned() + &"[0:1]".repeat(100_000), "nested"),
            ("9**9**9**9".to_owned(), "beyond"),
            ("1 << 10000".to_owned(), "128 bits"),
        ] {
            let refusal = calculated(&text, names()).expect_err("too much");
            assert!(refusal.contains(reason), "{refusal}");
        }
        assert_eq!(calculated(&("a + ".repeat(100_000) + "a"), names()), Ok(Value::Whole(200_002)));
    }

    #[test]
    fn mistakes_are_named() {
        let names = || vec![("a", Value::Whole(2)), ("b", Value::Float(0.5))];
        for (expression, reason) in [
            ("a +", "it ends where a number should stand"),
            ("(a + b", "`)` is missing before its end"),
            ("a b", "`b` stands where the expression should end"),
            ("a + c", "`c` is not given; there are a, b, values"),
            ("a & b", "`&` takes whole numbers; `int` or `floor` makes one"),
            ("a / 0", "a number is divided by zero"),
            ("sqrt(-a)", "`sqrt`: it is not defined for -2"),
            ("sqrt(a, b)", "`sqrt`: it takes 1 at most, and there are 2"),
            ("sqrt", "`sqrt` is a function; its arguments stand in brackets after it"),
            ("'a'", "texts cannot be calculated with"),
            ("a $ b", "`$` means nothing in an expression"),
            ("values[7]", "there is no item 7 in a list of 2"),
            ("a is b", "numbers are compared by `==`, not by `is`"),
        ] {
            assert_eq!(calculated(expression, names()), Err(reason.to_owned()));
        }
        let refusal = calculated("exp(a)", names()).expect_err("unknown");
        assert!(refusal.starts_with("there is no function `exp`; there are sum, min, max"), "{refusal}");
    }
}
