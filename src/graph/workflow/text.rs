//! Prompt texts as the editor sends them: comments gone, one of several alternatives taken.

/// Takes `// ...` and `/* ... */` out, and of each `{a|b}` all but the first; `\{`, `\|` and `\}` are plain signs.
pub(super) fn plain(text: &str) -> String {
    let mut signs = Signs { rest: &without_comments(text), depth: 0 };
    signs.read()
}

fn without_comments(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('/') {
        let (before, comment) = rest.split_at(start);
        kept.push_str(before);
        rest = if let Some(line) = comment.strip_prefix("//") {
            line.find(['\n', '\r', '\u{2028}', '\u{2029}']).map_or("", |end| &line[end..])
        } else if let Some(end) = comment.strip_prefix("/*").and_then(|block| block.find("*/")) {
            &comment[end + 4..]
        } else {
            kept.push('/');
            &comment[1..]
        };
    }
    kept + rest
}

/// A reader of alternatives.
struct Signs<'a> {
    rest: &'a str,
    depth: usize,
}

impl Signs<'_> {
    /// Reads to the end of the text, or of the alternatives that were opened.
    fn read(&mut self) -> String {
        let mut kept = String::new();
        let mut chosen = true;
        while let Some(sign) = self.next() {
            match sign {
                '\\' => match self.rest.chars().next() {
                    Some(escaped @ ('{' | '|' | '}')) => {
                        self.next();
                        push_if(chosen, &mut kept, escaped);
                    }
                    _ => push_if(chosen, &mut kept, '\\'),
                },
                '{' if self.rest.contains('}') && self.depth < 64 => {
                    self.depth += 1;
                    let inner = self.read();
                    self.depth -= 1;
                    if chosen {
                        kept.push_str(&inner);
                    }
                }
                '}' if self.depth > 0 => return kept,
                '|' if self.depth > 0 => chosen = false,
                other => push_if(chosen, &mut kept, other),
            }
        }
        kept
    }

    fn next(&mut self) -> Option<char> {
        let sign = self.rest.chars().next()?;
        self.rest = &self.rest[sign.len_utf8()..];
        Some(sign)
    }
}

fn push_if(wanted: bool, kept: &mut String, sign: char) {
    if wanted {
        kept.push(sign);
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn comments_go_and_first_alternatives_stay() {
        let cases = [
            ("a red house", "a red house"),
            ("a {red|blue} house", "a red house"),
            ("{a {red|blue}|no} house", "a red house"),
            (r"curly \{red\|blue\}", "curly {red|blue}"),
            ("first // not this\nsecond", "first \nsecond"),
            ("one /* two\nthree */four", "one four"),
            ("1/2 and 3 / 4", "1/2 and 3 / 4"),
            ("open { end", "open { end"),
            ("close } end", "close } end"),
            ("back\\slash", "back\\slash"),
        ];
        for (given, wanted) in cases {
            assert_eq!(plain(given), wanted, "{given}");
        }
    }
}
