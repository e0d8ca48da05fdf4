//! From what the user typed to what the encoder reads: placeholders, and what is tokenised on its own.
//!
//! Deliberately knows no tensors, and no wording: templates belong to the generations.

use super::super::Error;
use super::picture::Grid;
use super::tokenizer::{IMAGE, Tokenizer};

/// A text that opens like this is complete and gets no template.
const COMPLETE: [&str; 2] = ["<|im_start|>", "<|start_header_id|>"];

/// One entry of a tokenised text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Token(u32),
    /// The place of the picture with this index.
    Image(usize),
}

impl Entry {
    pub fn token(self) -> Option<u32> {
        match self {
            Self::Token(id) => Some(id),
            Self::Image(_) => None,
        }
    }
}

/// How many rows entries take up. `grids`: the sizes of the pictures.
pub fn rows(entries: &[Entry], grids: &[Grid]) -> usize {
    let rows = entries.iter().map(|entry| match entry {
        Entry::Image(index) => grids[*index].cells(),
        Entry::Token(_) => 1,
    });
    rows.sum()
}

/// Puts `text` into a template, whose `{}` is where it goes, and tokenises it. Placeholders become pictures, in
/// order, while pictures last, those typed by the user as well.
pub fn entries(
    tokenizer: &Tokenizer,
    text: &str,
    template: &str,
    images: usize,
) -> Result<Vec<Entry>, Error> {
    let complete = COMPLETE.iter().any(|opening| text.starts_with(opening));
    let full = if complete { text.to_owned() } else { template.replacen("{}", text, 1) };
    let mut places = 0..images;
    let mut entries = Vec::new();
    for piece in pieces(&full) {
        entries.extend(tokenizer.ids(&piece)?.into_iter().map(|id| match id {
            IMAGE => places.next().map_or(Entry::Token(id), Entry::Image),
            _ => Entry::Token(id),
        }));
    }
    Ok(entries)
}

/// What is tokenised on its own. Two habits of ComfyUI's CLIP tokenizer reach these encoders although they
/// have neither prompt weights nor embeddings: escaped parentheses lose their backslash, and text is cut
/// before `embedding:`, losing the space or line feed in front of it.
fn pieces(text: &str) -> Vec<String> {
    const EMBEDDING: &str = "embedding:";
    let text = text.replace(r"\)", ")").replace(r"\(", "(");
    let mut pieces = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices(EMBEDDING) {
        if at > start && matches!(text.as_bytes()[at - 1], b' ' | b'\n') {
            pieces.push(text[start..at - 1].to_owned());
            start = at;
        }
    }
    pieces.push(text[start..].to_owned());
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_before_each_embedding() {
        assert_eq!(pieces("a embedding:b\nembedding:c"), ["a", "embedding:b", "embedding:c"]);
        assert_eq!(pieces(" embedding:a embedding: embedding:"), ["embedding:a", "embedding:", "embedding:"]);
        assert_eq!(pieces("anembedding:x"), ["anembedding:x"]);
        assert!(pieces("").is_empty());
    }

    #[test]
    fn parentheses_lose_one_backslash() {
        assert_eq!(pieces(r"\(a\) \\(b\\)"), [r"(a) \(b\)"]);
    }
}
