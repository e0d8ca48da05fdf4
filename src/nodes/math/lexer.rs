//! The words of an expression.

use super::Result;
use super::value::Value;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Number(Value),
    Name(String),
    Sign(&'static str),
    /// Outside brackets, where it ends what it follows.
    LineEnd,
}

impl Token {
    /// As people wrote it, for messages.
    pub fn shown(&self) -> String {
        match self {
            Self::Number(Value::Float(number)) => format!("`{number}`"),
            Self::Number(number) => format!("`{}`", number.whole().unwrap_or_default()),
            Self::Name(name) => format!("`{name}`"),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::LineEnd => "the end of a line".to_owned(),
        }
    }
}

/// Longer ones first.
const SIGNS: [&str; 27] = [
    "**", "//", "<<", ">>", "<=", ">=", "==", "!=", "+", "-", "*", "/", "%", "(", ")", "[", "]", ",", ":",
    "<", ">", "&", "|", "^", "~", "=", ";",
];

pub fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut brackets = 0_usize;
    let mut rest = text.trim();
    while let Some(letter) = rest.chars().next() {
        let taken = if letter == '#' {
            rest.find('\n').unwrap_or(rest.len())
        } else if letter == '\n' || letter == '\r' {
            if brackets == 0 {
                tokens.push(Token::LineEnd);
            }
            1
        } else if letter.is_whitespace() {
            letter.len_utf8()
        } else if letter == '_' || letter.is_alphabetic() {
            let word = word(rest);
            tokens.push(Token::Name(word.to_owned()));
            word.len()
        } else if let Some(length) = number_length(rest) {
            tokens.push(Token::Number(number(&rest[..length])?));
            length
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            match *sign {
                "(" | "[" => brackets += 1,
                ")" | "]" => brackets = brackets.saturating_sub(1),
                _ => {}
            }
            tokens.push(Token::Sign(sign));
            sign.len()
        } else if letter == '"' || letter == '\'' {
            return Err("texts cannot be calculated with".to_owned());
        } else {
            return Err(format!("`{letter}` means nothing in an expression"));
        };
        rest = &rest[taken..];
    }
    Ok(tokens)
}

fn word(text: &str) -> &str {
    let end = text.find(|letter: char| letter != '_' && !letter.is_alphanumeric());
    &text[..end.unwrap_or(text.len())]
}

/// The length of the number at the start, with whatever letters hang on to it.
fn number_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let begins = digit(0) || bytes.first() == Some(&b'.') && digit(1);
    if !begins {
        return None;
    }
    let is_other_base = bytes[0] == b'0' && bytes.get(1).is_some_and(|letter| b"xXoObB".contains(letter));
    let mut length = 1;
    while let Some(byte) = bytes.get(length) {
        let after_exponent = !is_other_base && b"eE".contains(&bytes[length - 1]);
        let belongs =
            byte.is_ascii_alphanumeric() || b"._".contains(byte) || after_exponent && b"+-".contains(byte);
        if !belongs {
            break;
        }
        length += 1;
    }
    Some(length)
}

fn number(text: &str) -> Result<Value> {
    let unreadable = || format!("`{text}` is no number");
    let bytes = text.as_bytes();
    // Between digits of any base, or after the letter of a base.
    let stray = bytes.iter().enumerate().any(|(at, byte)| {
        *byte == b'_'
            && !(at > 0
                && bytes[at - 1].is_ascii_alphanumeric()
                && bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric))
    });
    if stray {
        return Err(unreadable());
    }
    let plain = text.replace('_', "").to_ascii_lowercase();
    for (start, base) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = plain.strip_prefix(start) {
            return i128::from_str_radix(digits, base).map(Value::Whole).map_err(|_| unreadable());
        }
    }
    if !plain.bytes().all(|byte| byte.is_ascii_digit()) {
        return plain.parse().map(Value::Float).map_err(|_| unreadable());
    }
    if plain.starts_with('0') && plain.bytes().any(|byte| byte != b'0') {
        return Err(format!("`{text}` begins with a zero"));
    }
    plain.parse().map(Value::Whole).map_err(|_| super::value::too_large())
}
