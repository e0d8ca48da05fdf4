//! Latents to tokens and back: 2x2 patches, row by row, features ordered (channel, dy, dx).

use candle_core::Tensor;

use super::positions::{Grid, patches};
use crate::model::{Error, Result};

/// Cells of a patch, each way.
pub const PATCH: usize = 2;

/// `latent`: (batch, channels, 1, h, w) to (batch, tokens, channels * 4).
///
/// An odd side is padded at its end by wrapping around, as ComfyUI does.
pub fn patchify(latent: &Tensor) -> Result<Tensor> {
    let (batch, channels, frames, h, w) = latent.dims5()?;
    if frames != 1 {
        return Err(Error::Frames { frames });
    }
    let (rows, columns) = patches((h, w));
    let flat = wrapped(&wrapped(&latent.squeeze(2)?, 2)?, 3)?;
    Ok(flat
        .reshape(&[batch, channels, rows, PATCH, columns, PATCH])?
        .permute([0, 2, 4, 1, 3, 5])? // (batch, rows, columns, channels, dy, dx)
        .reshape((batch, rows * columns, channels * PATCH * PATCH))?)
}

/// The inverse of [`patchify`] for a latent of `h` by `w` cells; padding is cut off.
pub fn unpatchify(tokens: &Tensor, (h, w): Grid) -> Result<Tensor> {
    let (batch, _, features) = tokens.dims3()?;
    let (rows, columns) = patches((h, w));
    let channels = features / (PATCH * PATCH);
    let latent = tokens
        .reshape(&[batch, rows, columns, channels, PATCH, PATCH])?
        .permute([0, 3, 1, 4, 2, 5])? // (batch, channels, rows, dy, columns, dx)
        .reshape((batch, channels, rows * PATCH, columns * PATCH))?;
    Ok(latent.narrow(2, 0, h)?.narrow(3, 0, w)?.unsqueeze(2)?.contiguous()?)
}

fn wrapped(x: &Tensor, axis: usize) -> Result<Tensor> {
    let missing = x.dim(axis)? % PATCH;
    Ok(if missing == 0 { x.clone() } else { Tensor::cat(&[x, &x.narrow(axis, 0, missing)?], axis)? })
}
