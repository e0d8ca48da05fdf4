//! JSON as ComfyUI reads and writes it, which is as Python's `json` module does.
//!
//! Owns spelling only: separators, escapes, floats, and what is forgiven on the way in. Deliberately does
//! not know what any document means.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value as Json;
use serde_json::ser::{Formatter, Serializer};

/// A document that is no JSON even for a forgiving reader.
#[derive(Debug, thiserror::Error)]
#[error("expected a JSON document: {0}")]
pub struct Malformed(#[from] serde_json::Error);

/// Reads one document; a byte order mark is skipped.
///
/// Python also writes and reads the bare words `NaN`, `Infinity` and `-Infinity`. They are read as texts of
/// the same spelling, so that whatever judges the value can name the place. Nesting beyond 128 levels is
/// refused.
pub fn read(bytes: &[u8]) -> Result<Json, Malformed> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).or_else(|error| match quote_bare_words(bytes) {
        Some(quoted) => Ok(serde_json::from_slice(&quoted)?),
        None => Err(error.into()),
    })
}

/// Puts quotes around Python's words for floats that JSON lacks; `None` when there are none.
fn quote_bare_words(bytes: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
    let mut quoted = Vec::with_capacity(bytes.len() + 16);
    let mut found = false;
    let mut rest = bytes;
    while let Some(&byte) = rest.first() {
        let taken = if let Some(word) = WORDS.iter().find(|word| rest.starts_with(word)) {
            found = true;
            quoted.push(b'"');
            quoted.extend_from_slice(word);
            quoted.push(b'"');
            word.len()
        } else {
            let taken = if byte == b'"' { text_length(rest) } else { 1 };
            quoted.extend_from_slice(&rest[..taken]);
            taken
        };
        rest = &rest[taken..];
    }
    found.then_some(quoted)
}

/// Bytes of the quoted text that `bytes` starts with, both quotes included.
fn text_length(bytes: &[u8]) -> usize {
    let mut escaped = false;
    for (index, &byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    bytes.len()
}

/// The document on one line: `", "` and `": "` between items, everything beyond ASCII escaped.
pub fn write(value: &Json) -> String {
    write_any(value)
}

/// As [`write()`], of anything that serialises as a document; keys of maps have to be texts.
pub fn write_any<T: Serialize>(value: &T) -> String {
    let mut bytes = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, Python))
        .expect("writing into memory does not fail, and keys are texts");
    String::from_utf8(bytes).expect("only ASCII was written")
}

/// A float as Python spells it: `1.0`, `0.1`, `1e-07`, `1e+16`.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if value != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => {
            let plain = format!("{value}");
            if plain.contains('.') { plain } else { plain + ".0" }
        }
    }
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some(at) = rest.find(|letter: char| !letter.is_ascii() || letter == '\x7f') {
            let (plain, special) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let letter = special.chars().next().unwrap_or_default();
            for unit in letter.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &special[letter.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_spelled_as_python_spells_them() {
        let document = json!({"a": [1, 1.0, 1e-7, true, null], "é漢😀\u{7f}": "\n\"\u{1}"});
        assert_eq!(
            write(&document),
            r#"{"a": [1, 1.0, 1e-07, true, null], "\u00e9\u6f22\ud83d\ude00\u007f": "\n\"\u0001"}"#
        );
        assert_eq!(write(&json!([[], {}])), "[[], {}]");
    }

    #[test]
    fn floats_change_to_exponents_where_python_does() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (0.0001, "0.0001"),
            (0.000_012, "1.2e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn words_that_json_lacks_are_read_as_texts() {
        let document =
            read(b"\xef\xbb\xbf{\"cfg\": NaN, \"s\": \"a \\\" NaN\", \"l\": [-Infinity, Infinity]}");
        let expected = json!({"cfg": "NaN", "s": "a \" NaN", "l": ["-Infinity", "Infinity"]});
        assert_eq!(document.expect("readable"), expected);
    }

    #[test]
    fn broken_documents_are_refused_and_deep_ones_too() {
        assert!(read(b"").is_err());
        assert!(read(b"{\"a\": NaNa}").is_err());
        assert!(read(b"\"open").is_err());
        assert!(read(&vec![b'['; 100_000]).is_err());
    }
}
