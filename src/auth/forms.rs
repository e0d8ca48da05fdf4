//! The kinds of files that hold a token: where it stands in each, and how another one is put there.
//!
//! Deliberately knows neither which file counts nor how files are written.

mod document;
mod variables;

use std::path::Path;

use super::Token;
use super::slip::Slip;

pub(super) use document::{Location, locations};
pub use variables::{TOKEN_NAMES, Variables};

/// How a file holds the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The token on the first line; what follows is ignored.
    FirstLine,
    /// The same, with the user's name on the second.
    Password,
    /// JSON, with the token as `bcrypt_hash`.
    Document,
    /// `NAME=value` lines, as in `.env`.
    Variables,
}

/// Why a file holds no token that could be used.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("the first line is empty; it must be the token")]
    Empty,
    #[error("it holds a JSON document; the token must stand alone on its first line")]
    Document,
    #[error("it is no JSON document: {0}")]
    NoDocument(#[from] serde_json::Error),
    #[error("it has no `bcrypt_hash`, which is the token that clients send")]
    NoHash,
}

/// What a value is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Token,
    /// The token, under a name that promises a bcrypt hash.
    Hash,
    /// The password behind it.
    Password,
}

/// One value in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// Where, in words; empty for a file with one value.
    pub at: String,
    pub value: String,
    pub holds: Holds,
    /// What is wrong with how it is written, whatever it is.
    pub slips: Vec<Slip>,
}

const MARK: char = '\u{feff}';

impl Form {
    /// The form that a file of this name has, if names of its kind are known to hold tokens.
    pub fn by_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
        Some(match (name, suffix) {
            ("PASSWORD", _) => Self::Password,
            (_, "env") => Self::Variables,
            _ if name.starts_with(".env") => Self::Variables,
            (_, "conf" | "json") => Self::Document,
            (_, "token") => Self::FirstLine,
            _ => return None,
        })
    }

    /// Every value in the text that should be the token or its password.
    pub fn spots(self, text: &str) -> Result<Vec<Spot>, Malformed> {
        let marked = text.starts_with(MARK);
        let bare = text.trim_start_matches(MARK);
        let mut spots = match self {
            Self::FirstLine | Self::Password => vec![first_line(bare)?],
            Self::Document => document::spots(&serde_json::from_str(bare)?)?,
            Self::Variables => variables::spots(bare),
        };
        if let Some(first) = spots.first_mut().filter(|_| marked) {
            first.slips.push(Slip::ByteOrderMark);
        }
        Ok(spots)
    }

    /// The user that the text names.
    pub fn user(self, text: &str) -> Option<String> {
        let second = text.lines().nth(1).map(str::trim).filter(|second| !second.is_empty())?;
        (self == Self::Password && !text.trim_start_matches(MARK).starts_with('{')).then(|| second.to_owned())
    }

    /// The text with another token in it, and its password wherever one is kept, where that is known. Everything else
    /// stays.
    pub fn rewritten(self, text: &str, token: &Token, password: Option<&str>) -> Result<String, Malformed> {
        let bare = text.trim_start_matches(MARK);
        Ok(match self {
            Self::Password => match self.user(text) {
                Some(user) => token.with_user(&user),
                None => token.reveal().to_owned(),
            },
            Self::FirstLine => {
                let rest = bare.split_once('\n').map_or("", |(_, rest)| rest);
                let rest = if bare.starts_with('{') { "" } else { rest };
                format!("{}\n{rest}", token.reveal())
            }
            Self::Document if bare.trim().is_empty() => document::new(token, password),
            Self::Document => document::rewritten(serde_json::from_str(bare)?, token, password),
            Self::Variables => variables::rewritten(bare, token, password),
        })
    }
}

fn first_line(text: &str) -> Result<Spot, Malformed> {
    let line = text.split('\n').next().unwrap_or_default();
    if line.trim_start().starts_with('{') {
        return Err(Malformed::Document);
    }
    if line.trim().is_empty() {
        return Err(Malformed::Empty);
    }
    let value = line.strip_suffix('\r').unwrap_or(line);
    let slips = (value.len() < line.len()).then_some(Slip::CarriageReturn).into_iter().collect();
    Ok(Spot { at: String::new(), value: value.to_owned(), holds: Holds::Token, slips })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2b$12$abcdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";

    #[test]
    fn a_first_line_tells_how_it_is_written() {
        for (text, slips) in [
            (format!("{HASH}\nalice"), vec![]),
            (format!("{HASH}\r\nalice"), vec![Slip::CarriageReturn]),
            (format!("\u{feff}{HASH}"), vec![Slip::ByteOrderMark]),
        ] {
            let spots = Form::FirstLine.spots(&text).expect("spots");
            assert_eq!((spots[0].value.as_str(), &spots[0].slips), (HASH, &slips), "{text:?}");
        }
    }

    #[test]
    fn another_token_leaves_the_rest_alone() {
        let token = Token::new(HASH).expect("a token");
        for (form, before, after) in [
            (Form::FirstLine, "old".to_owned(), format!("{HASH}\n")),
            (Form::FirstLine, "\u{feff}old\r\nnotes\n".to_owned(), format!("{HASH}\nnotes\n")),
            (Form::FirstLine, "{\"a\": 1}\nb".to_owned(), format!("{HASH}\n")),
            (Form::Password, "old\r\nalice\r\n".to_owned(), format!("{HASH}\nalice")),
            (Form::Password, String::new(), HASH.to_owned()),
        ] {
            assert_eq!(form.rewritten(&before, &token, None).expect("a text"), after, "{before:?}");
        }
    }

    #[test]
    fn names_tell_the_form() {
        for (name, form) in [
            ("login/PASSWORD", Some(Form::Password)),
            ("a/.env.generated", Some(Form::Variables)),
            ("notebooks.env", Some(Form::Variables)),
            ("x.token", Some(Form::FirstLine)),
            ("x.conf", Some(Form::Document)),
            ("/etc/passwd", None),
        ] {
            assert_eq!(Form::by_name(Path::new(name)), form, "{name}");
        }
    }
}
