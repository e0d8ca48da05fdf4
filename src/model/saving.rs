//! Networks as files: their tensors under the names that ComfyUI gives them, patches included.

use super::{Diffusion, Result, TextEncoder, Vae, lora};
use crate::weights::{self, Dtype, Held};

/// What stands before the names of a diffusion model.
pub const DIFFUSION: &str = "model.diffusion_model.";
/// What stands before those of the other two, where one file has them all.
pub const TEXT: &str = "text_encoders.";
pub const VAE: &str = "vae.";

/// A parameter that ComfyUI gives every text encoder, and no text encoder of these days reads.
const LOGIT_SCALE: (&str, f32) = ("logit_scale", 4.6055);

/// The tensors of a diffusion model by their own names. `plain`: what it holds parameters in that were not loaded as
/// fp8; what its file has, where that is not said.
pub fn diffusion(network: &dyn Diffusion, plain: Option<Dtype>) -> Result<Vec<Held>> {
    let weights = network.weights();
    // A mark of two numbers says that inputs are not in fp8.
    let input_scales = weights.shape(weights::SCALED_FP8).is_some_and(|mark| mark != [2]);
    Ok(weights.held(plain, input_scales)?)
}

/// The tensors of a text encoder, by its own name and theirs.
pub fn text_encoder(network: &dyn TextEncoder) -> Result<Vec<Held>> {
    let lora::Names { place, .. } = network.lora_names();
    let tensors = network.weights().held(network.held_in(), false)?;
    let outside = place.strip_suffix("transformer.").unwrap_or(place);
    let scale = Held::given(format!("{outside}{}", LOGIT_SCALE.0), Dtype::F32, &[], &[LOGIT_SCALE.1]);
    Ok(tensors.into_iter().map(|tensor| tensor.under(place)).chain([scale]).collect())
}

/// The tensors of an autoencoder, by their own names.
pub fn vae(network: &dyn Vae, plain: Option<Dtype>) -> Result<Vec<Held>> {
    Ok(network.weights().held(plain, false)?)
}
