//! Text encoders: the families there are, and which of them a file belongs to.
//!
//! Deliberately knows nothing of what happens inside one. Adding a family is a file of its own and a
//! line in [`ENCODERS`].

use std::sync::Arc;

use crate::model::{Result, TextEncoder};
use crate::weights::{File, Header, Weights};

pub mod qwen2_5_vl;

/// Every kind of text encoder, in the order they are asked.
pub const ENCODERS: &[&dyn TextFamily] = &[&qwen2_5_vl::Qwen2_5Vl];

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
    #[error("{file} is not a text encoder this server knows: expected {}, found {found}", known())]
    Unknown { file: String, found: String },
    #[error(
        "{file} is a {family} file, and the type `{asked}` reads it for another model than Qwen-Image, \
         which is not supported; choose the type `qwen_image`"
    )]
    ForeignType { file: String, family: &'static str, asked: String },
}

fn known() -> String {
    ENCODERS.iter().map(|family| family.name()).collect::<Vec<_>>().join(" or ")
}

/// Loads the text encoder of a file. `asked` is the `type` of CLIPLoader; like in ComfyUI it is the file's
/// tensors that decide, but for types that would read them differently.
pub fn load(file: Arc<File>, asked: &str) -> Result<Arc<dyn TextEncoder>> {
    let name = file.name();
    let weights = Weights::new(file, "");
    let Some(family) = ENCODERS.iter().find(|family| family.claims(&weights)) else {
        return Err(Error::Unknown { file: name, found: describe(weights.header()) }.into());
    };
    if family.foreign_types().contains(&asked) {
        let asked = asked.to_owned();
        return Err(Error::ForeignType { file: name, family: family.name(), asked }.into());
    }
    family.load(weights)
}

/// What files of other kinds have in the names of their tensors.
const SIGNS: &[(&str, &str)] = &[
    ("lora", "a LoRA; choose it in LoraLoaderModelOnly"),
    ("transformer_blocks.", "a diffusion model; choose it in UNETLoader"),
    ("double_blocks.", "a diffusion model; choose it in UNETLoader"),
    ("decoder.middle.", "a VAE; choose it in VAELoader"),
    ("decoder.mid.", "a VAE; choose it in VAELoader"),
    ("SelfAttention.", "a T5 text encoder"),
    ("text_model.encoder.", "a CLIP text encoder"),
    ("self_attn.k_proj.bias", "a Qwen2.5 of another size"),
    ("self_attn.k_proj", "a language model of another family"),
];

fn describe(header: &Header) -> String {
    let sign = SIGNS.iter().find(|(part, _)| header.names("").any(|name| name.contains(part)));
    sign.map_or_else(
        || match header.names("").next() {
            Some(name) => format!("tensors such as `{name}`"),
            None => "no tensors".to_owned(),
        },
        |(_, meaning)| (*meaning).to_owned(),
    )
}
