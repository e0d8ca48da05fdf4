//! Names for files, also for those that were put in the wrong place or that no family here claims.
//!
//! Only for people to read: what a family accepts is decided by the family.

use std::sync::Arc;

use super::{diffusion, text, vae};
use crate::weights::{File, Header};

/// What a file looks like: a name (or part of one) that only such files have, and the folder for them; the first
/// match counts.
const KINDS: &[(&str, &str, Option<&str>)] = &[
    (".lora_A.", LORA, Some("loras")),
    (".lora_down.", LORA, Some("loras")),
    ("_lora.down.", LORA, Some("loras")),
    ("controlnet_blocks.0.y_rms.", "a model patch for Qwen-Image", Some("model_patches")),
    ("controlnet_x_embedder.", "a ControlNet", Some("controlnet")),
    ("control_blocks.0.after_proj.", "a ControlNet", Some("controlnet")),
    ("txt_norm.weight", "a Qwen-Image diffusion model", Some("diffusion_models")),
    ("txt_in.text_norm.weight", "a Qwen-Image 2.1 diffusion model", Some("diffusion_models")),
    ("decoder.middle.0.residual.0.gamma", "a Wan or Qwen-Image VAE", Some("vae")),
    (
        "model.layers.0.self_attn.k_proj.",
        "a language model that may serve as text encoder",
        Some("text_encoders"),
    ),
    ("text_model.encoder.layers.0.", "a CLIP text encoder", Some("text_encoders")),
    ("encoder.block.0.layer.0.SelfAttention.", "a T5 text encoder", Some("text_encoders")),
    ("double_blocks.0.img_attn.", "a FLUX diffusion model", None),
    ("joint_blocks.0.", "a Stable Diffusion 3 diffusion model", None),
    ("double_layers.0.", "an AuraFlow diffusion model", None),
    ("input_blocks.0.0.weight", "a Stable Diffusion 1, 2 or XL checkpoint", None),
    ("blocks.0.self_attn.norm_q.weight", "a Wan video diffusion model", None),
    ("decoder.mid_block.resnets.0.norm1.gamma", "a Wan or Qwen-Image VAE", Some("vae")),
    ("decoder.conv_in.weight", "a VAE", Some("vae")),
    ("transformer_blocks.0.", "a diffusion model in the diffusers layout", None),
];

const LORA: &str = "a LoRA";

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The families here that claim it, or `LoRA`; empty for a file that nothing here can use.
    pub families: Vec<&'static str>,
    /// The same for people, also for files of no family here.
    pub kind: String,
    /// The model folder for such files, where only one is right.
    pub folder: Option<&'static str>,
}

/// Asks every family about a file.
pub fn identify(file: &Arc<File>) -> Identity {
    let claims = [
        (diffusion::detect(file).ok().map(|(family, _)| family.name()), "diffusion_models"),
        (text::detect(file).ok().map(|(family, _)| family.name()), "text_encoders"),
        (vae::detect(file).ok().map(|(family, _)| family.name()), "vae"),
    ];
    let claims: Vec<_> = claims.into_iter().filter_map(|(name, folder)| Some((name?, folder))).collect();
    let families: Vec<_> = claims.iter().map(|(name, _)| *name).collect();
    match (&claims[..], find(file.header())) {
        ([(_, folder)], _) => Identity { kind: families.join(", "), folder: Some(folder), families },
        ([_, ..], _) => Identity { kind: families.join(" + "), folder: Some("checkpoints"), families },
        ([], Some((LORA, folder))) => Identity { families: vec!["LoRA"], kind: "LoRA".to_owned(), folder },
        ([], found) => Identity {
            families,
            kind: found.map_or_else(|| unknown(file.header()), |(kind, _)| kind.to_owned()),
            folder: found.and_then(|(_, folder)| folder),
        },
    }
}

fn find(header: &Header) -> Option<(&'static str, Option<&'static str>)> {
    let matches = |part: &str| header.names("").any(|name| name.contains(part));
    KINDS.iter().find(|(part, ..)| matches(part)).map(|(_, kind, folder)| (*kind, *folder))
}

fn unknown(header: &Header) -> String {
    match header.names("").next() {
        Some(first) => format!("something unknown, with tensors like `{first}`"),
        None => "no tensors at all".to_owned(),
    }
}

/// A few words for what a file holds, and where it belongs.
pub(super) fn kind(header: &Header) -> String {
    match find(header) {
        Some((kind, Some(folder))) => format!("{kind} (it belongs into models/{folder})"),
        Some((kind, None)) => kind.to_owned(),
        None => unknown(header),
    }
}
