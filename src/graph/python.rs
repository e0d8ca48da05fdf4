//! Plain values as Python spells them, because ComfyUI's clients see `str` and `repr` of constants.
//!
//! Owns those two spellings. Deliberately knows no prompts and no inputs.

use serde_json::Value as Json;

use crate::python_json;

/// `str(value)`: a text as it is, `True`, `None`, `12.5`, `1e-07`, lists and objects as [`repr`].
pub fn text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => repr(other),
    }
}

/// `repr(value)`: as [`text`], but a text stands in quotes.
pub fn repr(value: &Json) -> String {
    let mut into = String::new();
    write(value, &mut into);
    into
}

/// Recurses no deeper than the JSON reader let the document be.
fn write(value: &Json, into: &mut String) {
    match value {
        Json::Null => into.push_str("None"),
        Json::Bool(true) => into.push_str("True"),
        Json::Bool(false) => into.push_str("False"),
        Json::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => into.push_str(&python_json::float(float)),
            _ => into.push_str(&number.to_string()),
        },
        Json::String(text) => quote(text, into),
        Json::Array(items) => {
            into.push('[');
            for (index, item) in items.iter().enumerate() {
                into.push_str(if index == 0 { "" } else { ", " });
                write(item, into);
            }
            into.push(']');
        }
        Json::Object(entries) => {
            into.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                into.push_str(if index == 0 { "" } else { ", " });
                quote(key, into);
                into.push_str(": ");
                write(item, into);
            }
            into.push('}');
        }
    }
}

fn quote(text: &str, into: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    into.push(mark);
    for letter in text.chars() {
        match letter {
            '\\' => into.push_str("\\\\"),
            '\n' => into.push_str("\\n"),
            '\r' => into.push_str("\\r"),
            '\t' => into.push_str("\\t"),
            _ if letter == mark => into.extend(['\\', mark]),
            _ if letter.is_control() => into.extend(['\\', 'x'].into_iter().chain(hex(letter))),
            _ => into.push(letter),
        }
    }
    into.push(mark);
}

/// The two digits of a control character.
fn hex(letter: char) -> [char; 2] {
    let code = u32::from(letter);
    [code >> 4, code & 15].map(|digit| char::from_digit(digit, 16).unwrap_or('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_spelled_as_python_spells_them() {
        for (value, expected) in [
            (json!(null), "None"),
            (json!(true), "True"),
            (json!(12.5), "12.5"),
            (json!(1.0), "1.0"),
            (json!(u64::MAX), "18446744073709551615"),
            (json!("it's"), "it's"),
            (json!(["a", 1, {"k": false}]), "['a', 1, {'k': False}]"),
            (json!(["it's", "a \"b\" 'c'", "\n\u{1}é"]), r#"["it's", 'a "b" \'c\'', '\n\x01é']"#),
        ] {
            assert_eq!(text(&value), expected);
        }
    }
}
