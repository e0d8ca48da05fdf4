//! Where the two halves of an encoder lie in its file: trainers' files and those made for ComfyUI differ.

use crate::weights::Weights;

/// The places of both halves.
#[derive(Clone, Copy)]
pub struct Places {
    pub language: &'static str,
    pub vision: &'static str,
}

/// As the files made for ComfyUI have them.
const SHORT: Places = Places { language: "model", vision: "visual" };
/// As newer files of the model's makers have them.
const LONG: Places = Places { language: "model.language_model", vision: "model.visual" };

impl Places {
    /// Some files have one half the long way and the other the short one.
    pub fn of(weights: &Weights) -> Self {
        let has = |place: &str, tensor: &str| weights.has(&format!("{place}.{tensor}"));
        let named = |long: bool| if long { LONG } else { SHORT };
        let language = named(has(LONG.language, "embed_tokens.weight")).language;
        Self { language, vision: named(has(LONG.vision, "patch_embed.proj.weight")).vision }
    }

    /// What a tensor of the language model is called inside it.
    pub fn in_language<'a>(&self, tensor: &'a str) -> Option<&'a str> {
        tensor.strip_prefix(self.language)?.strip_prefix('.')
    }

    /// What a tensor of the vision tower is called inside it.
    pub fn in_vision<'a>(&self, tensor: &'a str) -> Option<&'a str> {
        tensor.strip_prefix(self.vision)?.strip_prefix('.')
    }
}

/// The module of a tensor as ComfyUI calls it.
pub fn short(module: &str) -> String {
    for (long, short) in [(LONG.language, SHORT.language), (LONG.vision, SHORT.vision)] {
        if let Some(inside) = module.strip_prefix(long).filter(|inside| inside.starts_with('.')) {
            return format!("{short}{inside}");
        }
    }
    module.to_owned()
}
