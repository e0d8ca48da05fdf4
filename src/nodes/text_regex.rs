//! Texts searched and replaced by patterns in Python's spelling.

use fancy_regex::{Captures, Regex, RegexBuilder};

use super::Services;
use crate::graph::{AnyNode, Card, Node, NodeError, Result, Run, boolean, choice, int, text};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&RegexMatch, &RegexExtract, &RegexReplace];

/// A card of this family.
const fn card(class: &'static str, title: &'static str) -> Card {
    Card::new(class, title, "utils/string").module("comfy_extras.nodes_string").schema()
}

/// How a pattern is read.
struct Flags {
    case_insensitive: bool,
    multiline: bool,
    dotall: bool,
}

impl Flags {
    fn compile(&self, pattern: &str) -> Result<Regex> {
        RegexBuilder::new(pattern)
            .case_insensitive(self.case_insensitive)
            .multi_line(self.multiline)
            .dot_matches_new_line(self.dotall)
            .build()
            .map_err(NodeError::other)
    }
}

/// The matches of a pattern, one after another; a pattern that takes too long to try is an error.
fn matches<'t>(pattern: &Regex, string: &'t str) -> Result<Vec<Captures<'t, str>>> {
    pattern.captures_iter(string).collect::<Result<_, _>>().map_err(NodeError::other)
}

struct RegexMatch;

inputs! {
    struct RegexMatchIn {
        string: String = text().multiline(),
        regex_pattern: String = text().multiline(),
        case_insensitive: bool = boolean(true),
        multiline: bool = boolean(false),
        dotall: bool = boolean(false),
    }
}

impl Node<Services> for RegexMatch {
    const CARD: Card = card("RegexMatch", "Regex Match").outputs(&["matches"]);
    type In = RegexMatchIn;
    type Out = (bool,);

    /// A pattern that cannot be read matches nothing.
    fn run(&self, input: RegexMatchIn, _run: &mut Run<'_, Services>) -> Result<(bool,)> {
        let RegexMatchIn { case_insensitive, multiline, dotall, .. } = input;
        let Ok(pattern) = (Flags { case_insensitive, multiline, dotall }).compile(&input.regex_pattern)
        else {
            return Ok((false,));
        };
        Ok((pattern.is_match(&input.string).map_err(NodeError::other)?,))
    }
}

choices! {
    enum Extract {
        FirstMatch = "First Match",
        AllMatches = "All Matches",
        FirstGroup = "First Group",
        AllGroups = "All Groups",
    }
}

struct RegexExtract;

inputs! {
    struct RegexExtractIn {
        string: String = text().multiline(),
        regex_pattern: String = text().multiline(),
        mode: Extract = choice().with("multiselect", false),
        case_insensitive: bool = boolean(true),
        multiline: bool = boolean(false),
        dotall: bool = boolean(false),
        group_index: usize = int(1).range(0, 100),
    }
}

impl Node<Services> for RegexExtract {
    const CARD: Card = card("RegexExtract", "Regex Extract");
    type In = RegexExtractIn;
    type Out = (String,);

    /// A pattern that cannot be read finds nothing. What is found stands on lines of its own.
    fn run(&self, input: RegexExtractIn, _run: &mut Run<'_, Services>) -> Result<(String,)> {
        let RegexExtractIn { case_insensitive, multiline, dotall, .. } = input;
        let Ok(pattern) = (Flags { case_insensitive, multiline, dotall }).compile(&input.regex_pattern)
        else {
            return Ok((String::new(),));
        };
        let groups = pattern.captures_len() - 1;
        let group = match input.mode {
            Extract::FirstMatch => 0,
            // As Python's findall: with groups it gives the first of them.
            Extract::AllMatches => groups.min(1),
            Extract::FirstGroup | Extract::AllGroups if groups < input.group_index => {
                return Ok((String::new(),));
            }
            Extract::FirstGroup | Extract::AllGroups => input.group_index,
        };
        let found = matches(&pattern, &input.string)?;
        let count = match input.mode {
            Extract::FirstMatch | Extract::FirstGroup => 1,
            Extract::AllMatches | Extract::AllGroups => found.len(),
        };
        let found = found.iter().take(count).map(|found| found.get(group).map_or("", |text| text.as_str()));
        Ok((found.collect::<Vec<_>>().join("\n"),))
    }
}

struct RegexReplace;

inputs! {
    struct RegexReplaceIn {
        string: String = text().multiline(),
        regex_pattern: String = text().multiline(),
        replace: String = text().multiline(),
        case_insensitive: Option<bool> = boolean(true),
        multiline: Option<bool> = boolean(false),
        dotall: Option<bool> = boolean(false).tooltip("Whether a dot also matches the end of a line."),
        count: Option<usize> = int(0).range(0, 100).tooltip("How many matches are replaced at most; 0 replaces all."),
    }
}

impl Node<Services> for RegexReplace {
    const CARD: Card =
        card("RegexReplace", "Regex Replace").about("Replaces what a pattern matches in a text.");
    type In = RegexReplaceIn;
    type Out = (String,);

    fn run(&self, input: RegexReplaceIn, _run: &mut Run<'_, Services>) -> Result<(String,)> {
        let flags = Flags {
            case_insensitive: input.case_insensitive.unwrap_or(true),
            multiline: input.multiline.unwrap_or(false),
            dotall: input.dotall.unwrap_or(false),
        };
        let pattern = flags.compile(&input.regex_pattern)?;
        let most = input.count.filter(|count| *count > 0).unwrap_or(usize::MAX);
        let mut replaced = String::new();
        let mut end = 0;
        for found in matches(&pattern, &input.string)?.iter().take(most) {
            let Some(whole) = found.get(0) else { continue };
            replaced.push_str(&input.string[end..whole.start()]);
            expand(&input.replace, found, &mut replaced)?;
            end = whole.end();
        }
        replaced.push_str(&input.string[end..]);
        Ok((replaced,))
    }
}

/// Fills a replacement in Python's spelling: `\1`, `\g<1>`, `\g<name>`, `\n`, `\\`.
fn expand(template: &str, found: &Captures<'_, str>, into: &mut String) -> Result<()> {
    let mut rest = template;
    while let Some((plain, escape)) = rest.split_once('\\') {
        into.push_str(plain);
        if let Some((name, after)) = escape.strip_prefix("g<").and_then(|name| name.split_once('>')) {
            let group = match name.parse() {
                Ok(number) => found.get(number),
                Err(_) => found.name(name),
            };
            into.push_str(group.map_or("", |text| text.as_str()));
            rest = after;
            continue;
        }
        let digits = escape.bytes().take(2).take_while(u8::is_ascii_digit).count();
        if let Ok(number) = escape[..digits].parse() {
            into.push_str(found.get(number).map_or("", |text| text.as_str()));
            rest = &escape[digits..];
            continue;
        }
        let mut letters = escape.chars();
        match letters.next() {
            Some('n') => into.push('\n'),
            Some('t') => into.push('\t'),
            Some('r') => into.push('\r'),
            Some('\\') => into.push('\\'),
            Some(letter) if !letter.is_ascii_alphabetic() => into.extend(['\\', letter]),
            other => {
                let letter = other.map(String::from).unwrap_or_default();
                return Err(NodeError::Refused(format!(
                    "the replacement holds \\{letter}, which means nothing; write \\\\ for a backslash"
                )));
            }
        }
        rest = letters.as_str();
    }
    into.push_str(rest);
    Ok(())
}
