//! Texts joined, cut, compared and replaced. Positions and lengths count characters.

use super::Services;
use crate::graph::{AnyNode, Card, Node, Result, Run, Text, Widget, boolean, choice, socket, text};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &StringConcatenate,
    &StringSubstring,
    &StringLength,
    &CaseConverter,
    &StringTrim,
    &StringReplace,
    &StringContains,
    &StringCompare,
];

/// A card of this family.
const fn card(class: &'static str, title: &'static str) -> Card {
    Card::new(class, title, "utils/string").module("comfy_extras.nodes_string").schema()
}

/// A field of several lines.
fn lines<T: crate::graph::Input + Text>() -> Widget<T> {
    text().multiline()
}

/// A closed set as ComfyUI's schema declares it.
fn mode<T: crate::graph::Input + crate::graph::Choice>() -> Widget<T> {
    choice().with("multiselect", false)
}

struct StringConcatenate;

inputs! {
    struct StringConcatenateIn {
        string_a: String = lines(),
        string_b: String = lines(),
        delimiter: String = text().default("").with("multiline", false),
    }
}

impl Node<Services> for StringConcatenate {
    const CARD: Card = card("StringConcatenate", "Concatenate");
    type In = StringConcatenateIn;
    type Out = (String,);

    fn run(&self, input: StringConcatenateIn, _run: &mut Run<'_, Services>) -> Result<(String,)> {
        Ok((input.string_a + &input.delimiter + &input.string_b,))
    }
}

struct StringSubstring;

inputs! {
    struct StringSubstringIn {
        string: String = lines(),
        start: i64 = socket(),
        end: i64 = socket(),
    }
}

impl Node<Services> for StringSubstring {
    const CARD: Card = card("StringSubstring", "Substring");
    type In = StringSubstringIn;
    type Out = (String,);

    /// Negative positions count from the end; positions beyond an end mean that end.
    fn run(&self, input: StringSubstringIn, _run: &mut Run<'_, Services>) -> Result<(String,)> {
        let length = input.string.chars().count();
        let place = |at: i64| match usize::try_from(at) {
            Ok(at) => at.min(length),
            Err(_) => length.saturating_sub(usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX)),
        };
        let (start, end) = (place(input.start), place(input.end));
        Ok((input.string.chars().skip(start).take(end.saturating_sub(start)).collect(),))
    }
}

struct StringLength;

inputs! {
    struct StringLengthIn {
        string: String = lines(),
    }
}

impl Node<Services> for StringLength {
    const CARD: Card = card("StringLength", "Length").outputs(&["length"]);
    type In = StringLengthIn;
    type Out = (i64,);

    fn run(&self, input: StringLengthIn, _run: &mut Run<'_, Services>) -> Result<(i64,)> {
        Ok((input.string.chars().count() as i64,))
    }
}

choices! {
    enum Case {
        Upper = "UPPERCASE",
        Lower = "lowercase",
        Capitalize = "Capitalize",
        Title = "Title Case",
    }
}

impl Case {
    fn apply(self, text: &str) -> String {
        match self {
            Self::Upper => text.to_uppercase(),
            Self::Lower => text.to_lowercase(),
            Self::Capitalize => {
                let mut letters = text.chars();
                let first = letters.next().into_iter().flat_map(char::to_uppercase);
                first.chain(letters.as_str().to_lowercase().chars()).collect()
            }
            Self::Title => title_case(text),
        }
    }
}

/// Every letter after something that is no letter becomes large, every other one small.
fn title_case(text: &str) -> String {
    let mut inside = false;
    let mut title = String::with_capacity(text.len());
    for letter in text.chars() {
        if inside {
            title.extend(letter.to_lowercase());
        } else {
            title.extend(letter.to_uppercase());
        }
        inside = letter.is_alphabetic();
    }
    title
}

struct CaseConverter;

inputs! {
    struct CaseConverterIn {
        string: String = lines(),
        mode: Case = mode(),
    }
}

impl Node<Services> for CaseConverter {
    const CARD: Card = card("CaseConverter", "Case Converter");
    type In = CaseConverterIn;
    type Out = (String,);

    fn run(&self, input: CaseConverterIn, _run: &mut Run<'_, Services>) -> Result<(String,)> {
        Ok((input.mode.apply(&input.string),))
    }
}

choices! {
    enum Side {
        Both = "Both",
        Left = "Left",
        Right = "Right",
    }
}

struct StringTrim;

inputs! {
    struct StringTrimIn {
        string: String = lines(),
        mode: Side = mode(),
    }
}

impl Node<Services> for StringTrim {
    const CARD: Card = card("StringTrim", "Trim");
    type In = StringTrimIn;
    type Out = (String,);

    fn run(&self, input: StringTrimIn, _run: &mut Run<'_, Services>) -> Result<(String,)> {
        let trimmed = match input.mode {
            Side::Both => input.string.trim(),
            Side::Left => input.string.trim_start(),
            Side::Right => input.string.trim_end(),
        };
        Ok((trimmed.to_owned(),))
    }
}

struct StringReplace;

inputs! {
    struct StringReplaceIn {
        string: String = lines(),
        find: String = lines(),
        replace: String = lines(),
    }
}

impl Node<Services> for StringReplace {
    const CARD: Card = card("StringReplace", "Replace");
    type In = StringReplaceIn;
    type Out = (String,);

    fn run(&self, input: StringReplaceIn, _run: &mut Run<'_, Services>) -> Result<(String,)> {
        Ok((input.string.replace(&input.find, &input.replace),))
    }
}

struct StringContains;

inputs! {
    struct StringContainsIn {
        string: String = lines(),
        substring: String = lines(),
        case_sensitive: bool = boolean(true),
    }
}

impl Node<Services> for StringContains {
    const CARD: Card = card("StringContains", "Contains").outputs(&["contains"]);
    type In = StringContainsIn;
    type Out = (bool,);

    fn run(&self, input: StringContainsIn, _run: &mut Run<'_, Services>) -> Result<(bool,)> {
        let [string, substring] = folded([input.string, input.substring], input.case_sensitive);
        Ok((string.contains(&substring),))
    }
}

choices! {
    enum Comparison {
        StartsWith = "Starts With",
        EndsWith = "Ends With",
        Equal = "Equal",
    }
}

struct StringCompare;

inputs! {
    struct StringCompareIn {
        string_a: String = lines(),
        string_b: String = lines(),
        mode: Comparison = mode(),
        case_sensitive: bool = boolean(true),
    }
}

impl Node<Services> for StringCompare {
    const CARD: Card = card("StringCompare", "Compare");
    type In = StringCompareIn;
    type Out = (bool,);

    fn run(&self, input: StringCompareIn, _run: &mut Run<'_, Services>) -> Result<(bool,)> {
        let [a, b] = folded([input.string_a, input.string_b], input.case_sensitive);
        Ok((match input.mode {
            Comparison::StartsWith => a.starts_with(&b),
            Comparison::EndsWith => a.ends_with(&b),
            Comparison::Equal => a == b,
        },))
    }
}

/// Both texts in small letters unless their case matters.
fn folded(texts: [String; 2], case_sensitive: bool) -> [String; 2] {
    if case_sensitive { texts } else { texts.map(|text| text.to_lowercase()) }
}
