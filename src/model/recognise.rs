//! Names for files that were put in the wrong place.
//!
//! Only for messages: what a family accepts is decided by the family.

use crate::weights::Header;

/// What a file looks like, by a name (or part of one) that only such files have; the first match counts.
const KINDS: &[(&str, &str)] = &[
    (".lora_A.", "a LoRA (it belongs into models/loras)"),
    (".lora_down.", "a LoRA (it belongs into models/loras)"),
    ("_lora.down.", "a LoRA (it belongs into models/loras)"),
    ("txt_norm.weight", "a Qwen-Image diffusion model (it belongs into models/diffusion_models)"),
    ("decoder.middle.0.residual.0.gamma", "a Wan or Qwen-Image VAE (it belongs into models/vae)"),
    (
        "model.layers.0.self_attn.k_proj.",
        "a language model that may serve as text encoder (it belongs into models/text_encoders)",
    ),
    ("text_model.encoder.layers.0.", "a CLIP text encoder (it belongs into models/text_encoders)"),
    ("encoder.block.0.layer.0.SelfAttention.", "a T5 text encoder (it belongs into models/text_encoders)"),
    ("double_blocks.0.img_attn.", "a FLUX diffusion model"),
    ("joint_blocks.0.", "a Stable Diffusion 3 diffusion model"),
    ("double_layers.0.", "an AuraFlow diffusion model"),
    ("input_blocks.0.0.weight", "a Stable Diffusion 1, 2 or XL checkpoint"),
    ("blocks.0.self_attn.norm_q.weight", "a Wan video diffusion model"),
    ("decoder.conv_in.weight", "a VAE (it belongs into models/vae)"),
    ("transformer_blocks.0.", "a diffusion model in the diffusers layout"),
];

/// A few words for what a file holds.
pub fn kind(header: &Header) -> String {
    let matches = |part: &str| header.names("").any(|name| name.contains(part));
    match (KINDS.iter().find(|(part, _)| matches(part)), header.names("").next()) {
        (Some((_, kind)), _) => (*kind).to_owned(),
        (None, Some(first)) => format!("something unknown, with tensors like `{first}`"),
        (None, None) => "no tensors at all".to_owned(),
    }
}
