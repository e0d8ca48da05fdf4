//! Latents on their way into a run and out of it.

use candle_core::Tensor;

use super::{Error, Result};

/// Adds the frame axis where it is missing: (batch, channels, h, w) is one frame.
pub fn with_frames(latent: &Tensor) -> Result<Tensor> {
    match latent.rank() {
        4 => Ok(latent.unsqueeze(2)?),
        5 => Ok(latent.clone()),
        _ => Err(Error::LatentShape(latent.dims().to_vec())),
    }
}

/// A latent under noise: sigma noise + (1 - sigma) latent.
pub fn noised(latent: &Tensor, noise: &Tensor, sigma: f64) -> Result<Tensor> {
    Ok(((noise * sigma)? + (latent * (1.0 - sigma))?)?)
}

/// Whether a latent says nothing yet.
pub fn is_blank(latent: &Tensor) -> Result<bool> {
    Ok(latent.abs()?.sum_all()?.to_scalar::<f32>()? == 0.0)
}
