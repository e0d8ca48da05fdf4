//! The wording around a prompt, and which rows of the result are kept.
//!
//! Deliberately knows no tensors. The wording of the templates is part of the trained model.

use super::super::Error;
use super::super::qwen_vl::prompt::{self, Entry};
use super::super::qwen_vl::tokenizer::{TURN, Tokenizer};

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

/// `user` and the line feed after it.
const USER: [u32; 2] = [872, 198];

/// The entries of `text` in a template, by default the one that suits the number of pictures.
pub fn entries(
    tokenizer: &Tokenizer,
    text: &str,
    template: Option<&str>,
    images: usize,
) -> Result<Vec<Entry>, Error> {
    prompt::entries(tokenizer, text, template.unwrap_or(if images > 0 { EDIT } else { TEXT }), images)
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
    fn rows_are_kept_from_the_second_turn() {
        let read = |ids: &[u32]| ids.iter().map(|id| Entry::Token(*id)).collect::<Vec<_>>();
        assert_eq!(first_kept(&read(&[TURN, 1, TURN, 872, 198, 5]), 6), 5);
        assert_eq!(first_kept(&read(&[TURN, 1, TURN, 7, 198, TURN]), 6), 2);
        assert_eq!(first_kept(&read(&[TURN, 872, 198]), 3), 0);
        assert_eq!(first_kept(&read(&[1, 2, 3]), 3), 2);
    }
}
