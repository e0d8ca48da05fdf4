//! The encoder as it was made to be used: it answers.

use candle_core::Tensor;

use super::language::Rows;
use super::tokenizer::{END_OF_TURN, PAD};
use super::{ENDS, Edition, Encoder, Reading};
use crate::model::parts::Linear;
use crate::model::text::Error;
use crate::model::text::generation::{Chooser, Choosing, Question, Written};
use crate::model::{Result, TextPrompt};
use crate::stop::Stop;

const PLACEHOLDER: &str = "<|image_pad|>";

/// The end of a prompt that has the answer begin with a thought.
const THOUGHT: &str = "<think>";

/// Tokens of the answer that memory is asked for in advance; the rest comes as it is needed.
const FORESEEN: usize = 1024;

/// The conversation that asks for an answer.
fn conversation<E: Edition>(question: &Question) -> String {
    let Question { text, images, system, thinking, templated } = question;
    let count = if text.contains(PLACEHOLDER) { 0 } else { images.len() };
    let pictures: String = (1..=count).map(E::picture).collect();
    if !templated {
        return pictures + text;
    }
    let system = if system.is_empty() { E::SYSTEM } else { system };
    let beginning = if *thinking { "" } else { E::UNTHOUGHT };
    format!(
        "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{pictures}{text}<|im_end|>\n\
         <|im_start|>assistant\n{beginning}"
    )
}

impl<E: Edition> Encoder<E> {
    /// What scores tokens: a matrix of its own, or the embeddings.
    fn head(&self) -> Result<Linear> {
        let width = self.language.width();
        let mut at = self.weights.at("lm_head");
        if !at.has("weight") {
            if width > E::WIDEST_TIED {
                return Err(Error::Headless { file: self.weights.file().name() }.into());
            }
            at = self.weights.at(self.places.language).at("embed_tokens");
        }
        Linear::without_bias(&at, width, at.side("weight", 0)?)
    }

    pub(super) fn answer(
        &self,
        question: &Question,
        how: &Choosing,
        stop: &Stop,
        told: &mut dyn FnMut(usize),
    ) -> Result<Written> {
        let text = conversation::<E>(question);
        let opened = question.text.trim_end().ends_with(THOUGHT);
        let prompt = TextPrompt { text, images: question.images.clone(), template: Some("{}") };
        let reading = self.read(&prompt, stop)?;
        let tokens = self.continued(reading, how, stop, told)?;
        Ok(Written::parted(&self.tokenizer.text(&tokens)?, opened))
    }

    /// The tokens that follow, up to the end of the turn.
    fn continued(
        &self,
        reading: Reading,
        how: &Choosing,
        stop: &Stop,
        told: &mut dyn FnMut(usize),
    ) -> Result<Vec<u32>> {
        let head = self.head()?;
        let (mut chooser, mut past) = (Chooser::new(how.sampling), self.language.nothing_past());
        let Reading { mut embeds, mut positions, pictures, mut counted, .. } = reading;
        let mut place = positions.iter().flatten().fold(0.0, |last: f32, place| last.max(*place));
        let bytes = self.language.working_bytes(counted.len())
            + self.language.past_bytes(counted.len() + how.most.min(FORESEEN));
        let stay = self.resident.visit(bytes)?;
        let _ends = stay.part(ENDS)?;
        let mut deep = &pictures[..];
        let mut tokens = Vec::new();
        while tokens.len() < how.most {
            let rows = Rows { embeds: &embeds, positions: &positions, counted: &counted, deep };
            let weights = stay.from(self.layers());
            let states = self.language.forward(&rows, None, Some(&mut past), weights, stop)?;
            let last = states.narrow(1, states.dim(1)? - 1, 1)?;
            let scores = head.forward(&last)?.flatten_all()?.to_vec1()?;
            let Some(token) = chooser.next(scores).filter(|token| ![END_OF_TURN, PAD].contains(token)) else {
                break;
            };
            tokens.push(token);
            told(tokens.len());
            embeds = Tensor::unsqueeze(&self.language.embed(&[token])?, 0)?;
            place += 1.0;
            positions = std::array::from_fn(|_| vec![place]);
            counted.push(true);
            deep = &[];
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::text::qwen2_5_vl::Qwen2_5Vl;
    use crate::model::text::qwen3_vl::Qwen3Vl;

    fn question(system: &str, thinking: bool, templated: bool) -> Question {
        Question {
            text: "A fox.".to_owned(),
            system: system.to_owned(),
            thinking,
            templated,
            ..Question::default()
        }
    }

    #[test]
    fn each_edition_has_its_own_conversation() {
        assert_eq!(
            conversation::<Qwen3Vl>(&question("", true, true)),
            "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n\
             <|im_start|>user\nA fox.<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(
            conversation::<Qwen2_5Vl>(&question("", false, true)),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n\
             <|im_start|>user\nA fox.<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(
            conversation::<Qwen3Vl>(&question("Rhyme.", false, true)),
            "<|im_start|>system\nRhyme.<|im_end|>\n<|im_start|>user\nA fox.<|im_end|>\n\
             <|im_start|>assistant\n<think>\n\n</think>\n\n"
        );
        assert_eq!(conversation::<Qwen3Vl>(&question("Rhyme.", true, false)), "A fox.");
    }
}
