//! Conditioning: text turned into what a sampler is steered by, and operations on the result.

use std::sync::Arc;

use super::Services;
use super::values::{Clip, Conditioning};
use crate::graph::{AnyNode, Card, Node, Result, Run, socket, text};
use crate::inputs;
use crate::model::TextPrompt;

pub const NODES: &[&dyn AnyNode<Services>] = &[&CLIPTextEncode, &ConditioningZeroOut];

struct CLIPTextEncode;

inputs! {
    struct CLIPTextEncodeIn {
        text: String = text().prompt().tooltip("The text to be encoded."),
        clip: Arc<Clip> = socket().tooltip("The text encoder to read it with."),
    }
}

impl Node<Services> for CLIPTextEncode {
    const CARD: Card = Card::new("CLIPTextEncode", "CLIP Text Encode (Prompt)", "conditioning")
        .about("Encodes a text with a text encoder, to steer a diffusion model towards it.");
    type In = CLIPTextEncodeIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let prompt = TextPrompt { text: input.text, ..TextPrompt::default() };
        Ok((Conditioning::encode(&input.clip, &prompt, run.stop())?,))
    }
}

struct ConditioningZeroOut;

inputs! {
    struct ConditioningZeroOutIn {
        conditioning: Arc<Conditioning> = socket(),
    }
}

impl Node<Services> for ConditioningZeroOut {
    const CARD: Card = Card::new("ConditioningZeroOut", "ConditioningZeroOut", "advanced/conditioning");
    type In = ConditioningZeroOutIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let mut zeroed = input.conditioning.as_ref().clone();
        for entry in &mut zeroed.0 {
            entry.text = entry.text.zeros_like()?;
        }
        Ok((zeroed,))
    }
}
