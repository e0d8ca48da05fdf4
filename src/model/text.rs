//! Text encoders: the families there are, and which of them a file belongs to.
//!
//! Deliberately knows nothing of what happens inside one. Adding a family is a file of its own and a
//! line in [`ENCODERS`].

use std::sync::Arc;

use crate::model::{self, Compute, Result, TextEncoder, recognise};
use crate::weights::{File, Weights};

pub mod generation;
pub mod qwen2_5_vl;
pub mod qwen3_vl;
pub mod qwen_vl;

/// Every kind of text encoder, in the order they are asked.
pub const ENCODERS: &[&dyn TextFamily] = &[&qwen2_5_vl::Qwen2_5Vl, &qwen3_vl::Qwen3Vl];

/// One architecture of text encoders.
pub trait TextFamily: Sync {
    /// What people call it.
    fn name(&self) -> &'static str;

    /// Whether an encoder of this family lies at `weights`.
    fn claims(&self, weights: &Weights) -> bool;

    /// The `type` words of CLIPLoader under which its files are read in a way that is not its own.
    fn foreign_types(&self) -> &'static [&'static str] {
        &[]
    }

    /// Builds the encoder; tensors stay in their file until they are used.
    fn load(&self, weights: Weights) -> Result<Arc<dyn TextEncoder>>;
}

/// Why a text could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the built-in tokenizer failed: {0}")]
    Tokenizer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "this text encoder cannot look at pictures: its file has no `visual.` tensors; expected \
         qwen_2.5_vl_7b_fp8_scaled.safetensors or another file with the vision tower"
    )]
    Blind,
    #[error(
        "{file} cannot write text: it has no `lm_head.weight`, and a model of this size does not score words by its \
         embeddings; use a file that has it"
    )]
    Headless { file: String },
    #[error(
        "{file} is a {family} file, and the type `{asked}` reads it for another model than Qwen-Image, \
         which is not supported; choose the type `qwen_image`"
    )]
    ForeignType { file: String, family: &'static str, asked: String },
}

/// Where text encoders lie in files of various origins.
const PLACES: &[&str] = &[
    "",
    "text_encoders.qwen25_7b.transformer",
    "qwen25_7b.transformer",
    "text_encoders.qwen3vl_8b.transformer",
    "qwen3vl_8b.transformer",
];

/// Loads the text encoder of a file. `asked` is the `type` of CLIPLoader; like in ComfyUI it is the file's
/// tensors that decide, but for types that would read them differently. Between products everything is `f32`.
pub fn load(file: Arc<File>, asked: &str, compute: Compute) -> Result<Arc<dyn TextEncoder>> {
    let (family, weights) = detect(&file)?;
    if family.foreign_types().contains(&asked) {
        let (file, asked) = (file.name(), asked.to_owned());
        return Err(Error::ForeignType { file, family: family.name(), asked }.into());
    }
    family.load(weights.multiplied_with(compute.numbers()))
}

/// The family that claims the file, and the place its network lies at.
pub fn detect(file: &Arc<File>) -> Result<(&'static dyn TextFamily, Weights)> {
    let claimed = PLACES.iter().map(|place| Weights::new(file.clone(), place)).find_map(|weights| {
        let family = ENCODERS.iter().find(|family| family.claims(&weights))?;
        Some((*family, weights))
    });
    claimed.ok_or_else(|| model::Error::OtherKind {
        file: file.name(),
        expected: "a text encoder",
        supported: ENCODERS.iter().map(|family| family.name()).collect(),
        found: recognise::kind(file.header()),
    })
}
