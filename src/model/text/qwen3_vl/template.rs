//! The wording around a prompt, and which entries are kept.
//!
//! Deliberately knows no tensors. The wording of the template is part of the trained model.

use super::super::Error;
use super::super::qwen_vl::prompt::{self, Entry};
use super::super::qwen_vl::tokenizer::{TURN, Tokenizer};

/// What the model is told to do with a text.
pub const TASK: &str = "Comprehend and analyze the provided prompt.";

/// What ends a text; pictures stand before it.
const ENDING: &str = "{}<|im_end|>\n<|im_start|>assistant\n";

/// `system`, as a turn begins with it.
const SYSTEM: u32 = 8_948;

/// How the `number`th picture is introduced.
pub fn picture(number: usize) -> String {
    let space = if number > 1 { " " } else { "" };
    format!("{space}<image{number}><|vision_start|><|image_pad|><|vision_end|>")
}

/// The entries of `text` in a template, by default the one with a place for each picture. An empty text is read as a
/// space.
pub fn entries(
    tokenizer: &Tokenizer,
    text: &str,
    template: Option<&str>,
    images: usize,
) -> Result<Vec<Entry>, Error> {
    let text = if text.is_empty() { " " } else { text };
    let own = || {
        let pictures: String = (1..=images).map(picture).collect();
        format!("<|im_start|>system\n{TASK}<|im_end|>\n<|im_start|>user\n{pictures}{ENDING}")
    };
    let template = template.map_or_else(own, str::to_owned);
    prompt::entries(tokenizer, text, &template, images)
}

/// Index of the first entry that is kept: the turn after the system's, if there are both.
pub fn first_kept(entries: &[Entry]) -> usize {
    if !entries.starts_with(&[TURN, SYSTEM].map(Entry::Token)) {
        return 0;
    }
    let next = entries.iter().skip(1).position(|entry| *entry == Entry::Token(TURN));
    next.map_or(0, |next| next + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_part_goes_and_nothing_else() {
        let read = |ids: &[u32]| ids.iter().map(|id| Entry::Token(*id)).collect::<Vec<_>>();
        assert_eq!(first_kept(&read(&[TURN, SYSTEM, 1, 2, TURN, 872, 198, 5])), 4);
        assert_eq!(first_kept(&read(&[TURN, SYSTEM, 1, 2])), 0);
        assert_eq!(first_kept(&read(&[TURN, 872, 198, 5, TURN, 3])), 0);
        assert_eq!(first_kept(&read(&[])), 0);
    }
}
