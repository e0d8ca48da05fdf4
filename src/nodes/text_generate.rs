//! Text that a text encoder writes. The node came after ComfyUI 0.3.64.

use std::sync::Arc;

use super::Services;
use super::values::Clip;
use crate::graph::{
    AnyNode, Card, Node, NodeError, Result, Run, Socket, boolean, choice, float, int, socket, text,
};
use crate::image::Image;
use crate::model::text::generation::{Choosing, Question, Sampling, Written};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&TextGenerate];

choices! {
    enum SamplingMode { On = "on", Off = "off" }
}

choices! {
    /// How many tokens are guessed ahead by a part of the network that no encoder here has: nothing follows from it.
    enum Guessing {
        Auto = "auto",
        Off = "off",
        Two = "2",
        Three = "3",
        Four = "4",
        Five = "5",
        Tree21 = "tree2s1",
        Tree22 = "tree2s2",
        Tree31 = "tree3s1",
        Tree418 = "tree4s1m8",
    }
}

/// Sound, which nothing here can make.
enum Audio {}

impl Socket for Audio {
    const NAME: &'static str = "AUDIO";
}

struct TextGenerate;

inputs! {
    #[expect(dead_code, reason = "no encoder here guesses ahead")]
    struct TextGenerateIn {
        clip: Arc<Clip> = socket(),
        prompt: String = text().default("").prompt(),
        image: Option<Arc<Image>> = socket().tooltip("Pictures that the prompt is about."),
        video: Option<Arc<Image>> = socket(),
        audio: Option<Arc<Audio>> = socket(),
        max_length: usize = int(512).range(1, 32_768).tooltip("Tokens at most."),
        sampling_mode: SamplingMode = choice(),
        temperature as "sampling_mode.temperature": Option<f64> =
            float(0.7).range(0.01, 2.0).step(0.000_001).shown_by(&["on"]),
        top_k as "sampling_mode.top_k": Option<usize> = int(64).range(0, 1000).shown_by(&["on"]),
        top_p as "sampling_mode.top_p": Option<f64> = float(0.95).range(0.0, 1.0).step(0.01).shown_by(&["on"]),
        min_p as "sampling_mode.min_p": Option<f64> = float(0.05).range(0.0, 1.0).step(0.01).shown_by(&["on"]),
        repetition_penalty as "sampling_mode.repetition_penalty": Option<f64> =
            float(1.05).range(0.0, 5.0).step(0.01).shown_by(&["on"]),
        seed as "sampling_mode.seed": Option<u64> = int(0).range(0, u64::MAX).shown_by(&["on"]),
        presence_penalty as "sampling_mode.presence_penalty": Option<f64> =
            float(0.0).range(0.0, 5.0).step(0.01).shown_by(&["on"]),
        thinking: Option<bool> = boolean(false).tooltip("Lets a model that can think do so before it answers."),
        use_default_template: Option<bool> = boolean(true).with("advanced", true)
            .tooltip("Whether the prompt is put into the model's own template."),
        mtp: Option<Guessing> = choice().default("auto").with("advanced", true),
        system_prompt: Option<String> = text().default("").with("forceInput", true)
            .tooltip("What the model is told about its part."),
    }
}

impl TextGenerateIn {
    fn choosing(&self) -> Choosing {
        let number = |value: Option<f64>, otherwise: f64| value.unwrap_or(otherwise) as f32;
        let sampling = Sampling {
            repetition_penalty: number(self.repetition_penalty, 1.0),
            presence_penalty: number(self.presence_penalty, 0.0),
            temperature: number(self.temperature, 1.0),
            top_k: self.top_k.unwrap_or(0),
            min_p: number(self.min_p, 0.0),
            top_p: number(self.top_p, 1.0),
            seed: self.seed.unwrap_or(0),
        };
        let by_chance = matches!(self.sampling_mode, SamplingMode::On);
        Choosing { most: self.max_length, sampling: by_chance.then_some(sampling) }
    }

    fn question(&self) -> Result<Question> {
        let mut images = Vec::new();
        if let Some(batch) = &self.image {
            for index in 0..batch.batch() {
                images.push(batch.batch_range(index, 1).to_tensor()?.narrow(3, 0, 3)?);
            }
        }
        Ok(Question {
            text: self.prompt.clone(),
            images,
            system: self.system_prompt.clone().unwrap_or_default(),
            thinking: self.thinking.unwrap_or(false),
            templated: self.use_default_template.unwrap_or(true),
        })
    }
}

impl Node<Services> for TextGenerate {
    const CARD: Card = Card::new("TextGenerate", "Generate Text", "textgen")
        .about("Lets a text encoder that is a whole language model write: an answer, a longer prompt, words on a picture.")
        .module("comfy_extras.nodes_textgen")
        .outputs(&["generated_text", "thinking"])
        .schema();
    type In = TextGenerateIn;
    type Out = (String, String);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        for (given, name) in [(input.video.is_some(), "video"), (input.audio.is_some(), "audio")] {
            if given {
                return Err(NodeError::Refused(format!(
                    "no text encoder of this server takes {name} in; disconnect the input `{name}`"
                )));
            }
        }
        let Clip(encoder, hooks) = &*input.clip;
        let loras = hooks.encoder.on_text();
        let encoder = if loras.is_empty() { encoder.clone() } else { encoder.with_loras(&loras)?.network };
        let (stop, most) = (run.stop(), input.max_length as u32);
        // The encoder itself learns of a stop.
        let mut told = |tokens: usize| drop(run.step(tokens as u32, most));
        let Written { text, thinking } =
            encoder.generate(&input.question()?, &input.choosing(), stop, &mut told)?;
        Ok((text, thinking))
    }
}
