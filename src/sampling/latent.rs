//! Latents on their way into a run and out of it: axes, channels, normalisation.

use candle_core::Tensor;

use super::{Error, Result};
use crate::model::LatentFormat;

impl LatentFormat {
    /// (z - mean) / std per channel; (batch, channels, frames, h, w).
    pub fn normalise(&self, latent: &Tensor) -> Result<Tensor> {
        let (mean, std) = self.constants(latent)?;
        Ok(latent.broadcast_sub(&mean)?.broadcast_div(&std)?)
    }

    /// x std + mean per channel: the way back.
    pub fn denormalise(&self, latent: &Tensor) -> Result<Tensor> {
        let (mean, std) = self.constants(latent)?;
        Ok(latent.broadcast_mul(&std)?.broadcast_add(&mean)?)
    }

    fn constants(&self, latent: &Tensor) -> Result<(Tensor, Tensor)> {
        let (found, expected) = (latent.dim(1)?, self.channels);
        if found != expected {
            return Err(Error::Channels { found, expected });
        }
        let column = |values| Tensor::new(values, latent.device())?.reshape((1, expected, 1, 1, 1));
        Ok((column(self.mean)?, column(self.std)?))
    }
}

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
