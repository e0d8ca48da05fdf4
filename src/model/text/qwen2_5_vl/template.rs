//! From what the user typed to what the encoder reads: templates, placeholders, and which rows of the
//! result are kept.
//!
//! Deliberately knows no tensors. The wording of the templates is part of the trained model.

use super::super::Error;
use super::tokenizer::{IMAGE, TURN, Tokenizer};

/// Around a text without pictures.
pub const TEXT: &str = "<|im_start|>system\nDescribe the image by detailing the color, shape, size, \
    texture, quantity, text, spatial relationships of the objects and background:<|im_end|>\n\
    <|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n";

/// Around an instruction that edits one picture.
pub const EDIT: &str = "<|im_start|>system\nDescribe the key features of the input image (color, shape, \
    size, texture, objects, background), then explain how the user's text instruction should alter or \
    modify the image. Generate a new image that meets the user's requirements while maintaining \
    consistency with the original input where appropriate.<|im_end|>\n\
    <|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n";

/// Around an instruction that names its pictures itself, each as in [`picture`].
pub const EDIT_PLUS: &str = "<|im_start|>system\nDescribe the key features of the input image (color, \
    shape, size, texture, objects, background), then explain how the user's text instruction should alter \
    or modify the image. Generate a new image that meets the user's requirements while maintaining \
    consistency with the original input where appropriate.<|im_end|>\n\
    <|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n";

/// How an [`EDIT_PLUS`] text introduces its `number`th picture.
pub fn picture(number: usize) -> String {
    format!("Picture {number}: <|vision_start|><|image_pad|><|vision_end|>")
}

/// A text that opens like this is complete and gets no template.
const COMPLETE: [&str; 2] = ["<|im_start|>", "<|start_header_id|>"];

/// `user` and the line feed after it.
const USER: [u32; 2] = [872, 198];

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

/// Puts `text` into a template (by default the one that suits the number of pictures) and tokenises it.
/// Placeholders become pictures, in order, while pictures last, those typed by the user as well.
pub fn entries(
    tokenizer: &Tokenizer,
    text: &str,
    template: Option<&str>,
    images: usize,
) -> Result<Vec<Entry>, Error> {
    let template = template.unwrap_or(if images > 0 { EDIT } else { TEXT });
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

/// What is tokenised on its own. Two habits of ComfyUI's CLIP tokenizer reach this encoder although it
/// has neither prompt weights nor embeddings: escaped parentheses lose their backslash, and text is cut
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

/// Index of the first row that is kept of `length` rows; the template's own words before it are dropped.
///
/// Kept from ComfyUI: the index counts entries, not rows, so a picture ahead of the second turn moves
/// it; with one turn it is the turn's own; without any only the last row stays.
pub fn first_kept(entries: &[Entry], length: usize) -> usize {
    let turns = entries.iter().enumerate().filter(|(_, entry)| **entry == Entry::Token(TURN));
    let Some((turn, _)) = turns.take(2).last() else { return length.saturating_sub(1) };
    let follows = entries.get(turn + 1..turn + 3);
    let user = follows == Some(&USER.map(Entry::Token)) && length > turn + 3;
    if user { turn + 3 } else { turn }
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

    #[test]
    fn rows_are_kept_from_the_second_turn() {
        let read = |ids: &[u32]| ids.iter().map(|id| Entry::Token(*id)).collect::<Vec<_>>();
        assert_eq!(first_kept(&read(&[TURN, 1, TURN, 872, 198, 5]), 6), 5);
        assert_eq!(first_kept(&read(&[TURN, 1, TURN, 7, 198, TURN]), 6), 2);
        assert_eq!(first_kept(&read(&[TURN, 872, 198]), 3), 0);
        assert_eq!(first_kept(&read(&[1, 2, 3]), 3), 2);
    }
}
