//! How a constant of a prompt becomes the value an input declares: Python's conversions, and the range.
//!
//! Clients send `"20"` for 20 and `1` for `true`; ComfyUI accepts what `int`, `float`, `str` and `bool`
//! accept, and so do we, except for the floats that are no numbers.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::inputs::{InputSpec, Kind};
use super::python;

/// Why a constant cannot be had as the declared type.
#[derive(Debug, PartialEq)]
pub(super) enum Mistake {
    /// The reason, in Python's words.
    Unreadable(String),
    /// A whole number below what 64 bits hold.
    TooSmall,
    /// A number above what 64 bits hold.
    TooBig,
}

/// The constant as `kind` wants it; choices and sockets take it as it is.
pub(super) fn coerce(kind: &Kind, value: &Json) -> Result<Json, Mistake> {
    match kind {
        Kind::Int => integer(value),
        Kind::Float => float(value),
        Kind::Text => Ok(python::text(value).into()),
        Kind::Boolean => Ok(truth(value).into()),
        Kind::Choice(_) | Kind::Files(_) | Kind::Link(_) => Ok(value.clone()),
    }
}

/// Where a number lies outside the declared range: `Less` below its minimum, `Greater` above its maximum.
pub(super) fn outside(spec: &InputSpec, value: &Json) -> Option<Ordering> {
    let beyond = |limit, side| compare(value, spec.options.get(limit)?).filter(|found| *found == side);
    beyond("min", Ordering::Less).or_else(|| beyond("max", Ordering::Greater))
}

fn compare(value: &Json, limit: &Json) -> Option<Ordering> {
    match (whole(value), whole(limit)) {
        (Some(value), Some(limit)) => Some(value.cmp(&limit)),
        _ => value.as_f64()?.partial_cmp(&limit.as_f64()?),
    }
}

fn whole(value: &Json) -> Option<i128> {
    value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
}

/// Python's `int(value)`: floats lose their fraction, texts are read, `true` is 1.
fn integer(value: &Json) -> Result<Json, Mistake> {
    let wide = match value {
        Json::Bool(flag) => i128::from(*flag),
        // Beyond 128 bits the cast saturates, which is still beyond 64.
        Json::Number(number) => whole(value).unwrap_or(number.as_f64().unwrap_or_default() as i128),
        Json::String(text) => read_integer(text).ok_or_else(|| {
            Mistake::Unreadable(format!("invalid literal for int() with base 10: {}", python::repr(value)))
        })?,
        _ => {
            return Err(Mistake::Unreadable(format!(
                "int() argument must be a string, a bytes-like object or a real number, not '{}'",
                type_name(value)
            )));
        }
    };
    if let Ok(narrow) = i64::try_from(wide) {
        Ok(narrow.into())
    } else if let Ok(narrow) = u64::try_from(wide) {
        Ok(narrow.into())
    } else {
        Err(if wide < 0 { Mistake::TooSmall } else { Mistake::TooBig })
    }
}

/// Python's `float(value)`, without infinities and NaN: no input has a use for them and JSON cannot hold
/// them.
fn float(value: &Json) -> Result<Json, Mistake> {
    let number = match value {
        Json::Bool(flag) => f64::from(u8::from(*flag)),
        Json::Number(number) => number.as_f64().unwrap_or_default(),
        Json::String(text) => {
            let unreadable =
                || Mistake::Unreadable(format!("could not convert string to float: {}", python::repr(value)));
            let digits = plain_digits(text).ok_or_else(unreadable)?;
            if !digits.contains(|letter: char| letter.is_ascii_digit()) {
                return Err(unreadable());
            }
            digits.parse::<f64>().map_err(|_| unreadable())?
        }
        _ => {
            return Err(Mistake::Unreadable(format!(
                "float() argument must be a string or a real number, not '{}'",
                type_name(value)
            )));
        }
    };
    if number.is_finite() {
        Ok(number.into())
    } else {
        Err(if number < 0.0 { Mistake::TooSmall } else { Mistake::TooBig })
    }
}

/// Python's `bool(value)`: everything is true but zero, null and what is empty.
fn truth(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(flag) => *flag,
        Json::Number(number) => number.as_f64() != Some(0.0),
        Json::String(text) => !text.is_empty(),
        Json::Array(items) => !items.is_empty(),
        Json::Object(entries) => !entries.is_empty(),
    }
}

fn read_integer(text: &str) -> Option<i128> {
    let text = plain_digits(text)?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    // More digits than 128 bits hold are still a number, and still too big.
    let size = digits.parse().unwrap_or(i128::MAX);
    Some(if negative { -size } else { size })
}

/// The text without blanks around it and without Python's `_` between digits; `None` when a `_` stands
/// anywhere else.
fn plain_digits(text: &str) -> Option<String> {
    let text = text.trim();
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let stray = bytes
        .iter()
        .enumerate()
        .any(|(at, letter)| *letter == b'_' && !(digit(at.checked_sub(1)) && digit(Some(at + 1))));
    (!stray).then(|| text.replace('_', ""))
}

/// Python's name for the type of a JSON value.
pub(super) fn type_name(value: &Json) -> &'static str {
    match value {
        Json::Null => "NoneType",
        Json::Bool(_) => "bool",
        Json::Number(number) if number.is_f64() => "float",
        Json::Number(_) => "int",
        Json::String(_) => "str",
        Json::Array(_) => "list",
        Json::Object(_) => "dict",
    }
}
