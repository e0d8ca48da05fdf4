//! `NAME=value` lines, as notebooks and compose keep them in `.env`.

use std::borrow::Cow;
use std::path::Path;

use super::{Holds, MARK, Spot};
use crate::auth::Token;
use crate::auth::slip::Slip;

/// Names under which clients, notebooks and compose files look for the token; the first that is set counts.
pub const TOKEN_NAMES: [&str; 6] = [
    "COMFYD_TOKEN",
    "COMFYUI_API_TOKEN",
    "COMFYUI_AUTH_TOKEN",
    "COMFYUI_BEARER_TOKEN",
    "QWEN_API_TOKEN",
    "QWEN_API_USER_TOKEN",
];

/// Names under which they keep the password behind it.
const PASSWORD_NAMES: [&str; 2] = ["COMFYUI_RAW_TOKEN", "COMFYUI_PASSWORD"];

/// How a value is quoted.
#[derive(Clone, Copy, PartialEq)]
enum Quotes {
    None,
    Single,
    Double,
}

/// One line that sets something.
struct Line<'a> {
    name: &'a str,
    value: Cow<'a, str>,
    quotes: Quotes,
    /// Whether a shell would take something in the value for a variable.
    expands: bool,
    /// What stands before the value, the `=` included.
    before: &'a str,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (name, value) = line.split_once('=')?;
        let before = &line[..=name.len()];
        let name = name.trim();
        let name = name.strip_prefix("export ").unwrap_or(name).trim_start();
        let value = value.trim();
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        let within = |quote: char| {
            let inner = value.strip_prefix(quote)?;
            let end = inner.char_indices().find(|(at, c)| *c == quote && !inner[..*at].ends_with('\\'))?.0;
            Some(&inner[..end])
        };
        let (value, quotes) = if let Some(value) = within('\'') {
            (value.into(), Quotes::Single)
        } else if let Some(value) = within('"') {
            (value.into(), Quotes::Double)
        } else {
            (value.split_once(" #").map_or(value, |(value, _)| value.trim_end()).into(), Quotes::None)
        };
        let line = Self { name, value, quotes, expands: false, before };
        Some(line.unescaped())
    }

    fn unescaped(mut self) -> Self {
        if self.quotes == Quotes::Single {
            return self;
        }
        self.expands = self.value.replace("\\$", "").contains('$');
        if self.value.contains("\\$") || self.value.contains("\\\"") {
            self.value = self.value.replace("\\$", "$").replace("\\\"", "\"").into();
        }
        self
    }

    fn holds(&self) -> Option<Holds> {
        if TOKEN_NAMES.contains(&self.name) {
            return Some(Holds::Token);
        }
        PASSWORD_NAMES.contains(&self.name).then_some(Holds::Password)
    }
}

pub(super) fn spots(text: &str) -> Vec<Spot> {
    let spot = |raw: &str| {
        let line = Line::read(raw)?;
        let holds = line.holds().filter(|_| !line.value.is_empty())?;
        let slips = (line.expands && holds == Holds::Token).then_some(Slip::BareDollars);
        Some(Spot {
            at: line.name.to_owned(),
            value: line.value.into_owned(),
            holds,
            slips: slips.into_iter().collect(),
        })
    };
    text.lines().filter_map(spot).collect()
}

pub(super) fn rewritten(text: &str, token: &Token, password: Option<&str>) -> String {
    let line = |raw: &str| {
        let (bare, end) = raw.strip_suffix('\n').map_or((raw, ""), |bare| (bare, "\n"));
        let line = Line::read(bare).filter(|line| !line.value.is_empty());
        let value = line.as_ref().and_then(Line::holds).and_then(|holds| match holds {
            Holds::Password => password,
            Holds::Token | Holds::Hash => Some(token.reveal()),
        });
        match line.zip(value) {
            Some((line, value)) if line.value != value || line.expands => {
                format!("{}{}{end}", line.before, quoted(value))
            }
            _ => raw.to_owned(),
        }
    };
    text.split_inclusive('\n').map(line).collect()
}

/// In single quotes, between which nothing is taken for a variable.
fn quoted(value: &str) -> String {
    if value.contains('\'') { format!("\"{}\"", value.replace('$', "\\$")) } else { format!("'{value}'") }
}

/// The lines of one file.
pub struct Variables(Vec<(String, String)>);

impl Variables {
    /// The variables that a file sets; none where it cannot be read.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.trim_start_matches(MARK).lines().filter_map(Line::read);
        let set = lines.filter(|line| !line.value.is_empty());
        Self(set.map(|line| (line.name.to_owned(), line.value.into_owned())).collect())
    }

    /// The value of a variable; of one that is set twice, the last.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lose_their_quotes_and_comments_are_none() {
        for (line, expected) in [
            ("A=$2b$12$x", Some(("A", "$2b$12$x"))),
            (" export B = 'x y' ", Some(("B", "x y"))),
            ("C=\"$2b$12$x\"", Some(("C", "$2b$12$x"))),
            ("D=\"\\$2b\\$12\\$x\" # why", Some(("D", "$2b$12$x"))),
            ("E=x # why\r", Some(("E", "x"))),
            ("F='it''s'", Some(("F", "it"))),
            ("G=", Some(("G", ""))),
            ("# H=1", None),
            ("nothing", None),
        ] {
            let read = Line::read(line).map(|line| (line.name, line.value.into_owned()));
            assert_eq!(read, expected.map(|(name, value)| (name, value.to_owned())), "{line}");
        }
    }

    #[test]
    fn what_a_shell_would_eat_is_told() {
        for (line, bare) in [
            ("QWEN_API_TOKEN=$2b$12$x", true),
            ("QWEN_API_TOKEN=\"$2b$12$x\"", true),
            ("QWEN_API_TOKEN='$2b$12$x'", false),
            ("QWEN_API_TOKEN=\"\\$2b\\$12\\$x\"", false),
            ("QWEN_API_TOKEN=opaque", false),
        ] {
            assert_eq!(spots(line)[0].slips.contains(&Slip::BareDollars), bare, "{line}");
        }
    }

    #[test]
    fn only_the_values_change() {
        let token = Token::new("$2b$new").expect("a token");
        let before = "# notes\r\nexport COMFYUI_API_TOKEN = old\r\nOTHER=$x\nQWEN_API_TOKEN=\"$2b$new\"\nCOMFYUI_PASSWORD=raw\n\
                      COMFYUI_AUTH_TOKEN=\nCOMFYUI_BEARER_TOKEN='$2b$new'";
        let after = "# notes\r\nexport COMFYUI_API_TOKEN ='$2b$new'\nOTHER=$x\nQWEN_API_TOKEN='$2b$new'\nCOMFYUI_PASSWORD=raw\n\
                     COMFYUI_AUTH_TOKEN=\nCOMFYUI_BEARER_TOKEN='$2b$new'";
        assert_eq!(rewritten(before, &token, None), after);
        assert!(rewritten(before, &token, Some("it's")).contains("COMFYUI_PASSWORD=\"it's\"\n"));
    }
}
