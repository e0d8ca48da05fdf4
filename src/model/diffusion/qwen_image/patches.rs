//! Latents to tokens and back: 2x2 patches, frame by frame and row by row, features ordered (channel, dy, dx).

use candle_core::Tensor;

use super::positions::{Extent, patches};
use crate::model::Result;

/// Cells of a patch, each way.
pub const PATCH: usize = 2;

/// `latent`: (batch, channels, frames, h, w) to (batch, tokens, channels * 4).
///
/// An odd side is padded at its end by wrapping around, as ComfyUI does.
pub fn patchify(latent: &Tensor) -> Result<Tensor> {
    let (batch, channels, frames, h, w) = latent.dims5()?;
    let (rows, columns) = patches((h, w));
    let flat = latent.transpose(1, 2)?.reshape((batch * frames, channels, h, w))?;
    let flat = wrapped(&wrapped(&flat, 2)?, 3)?;
    Ok(flat
        .reshape(&[batch * frames, channels, rows, PATCH, columns, PATCH])?
        .permute([0, 2, 4, 1, 3, 5])? // (batch and frames, rows, columns, channels, dy, dx)
        .reshape((batch, frames * rows * columns, channels * PATCH * PATCH))?)
}

/// The inverse of [`patchify`] for a latent of such sides; padding is cut off.
pub fn unpatchify(tokens: &Tensor, Extent { frames, cells: (h, w) }: Extent) -> Result<Tensor> {
    let (batch, _, features) = tokens.dims3()?;
    let (rows, columns) = patches((h, w));
    let channels = features / (PATCH * PATCH);
    let latent = tokens
        .reshape(&[batch * frames, rows, columns, channels, PATCH, PATCH])?
        .permute([0, 3, 1, 4, 2, 5])? // (batch and frames, channels, rows, dy, columns, dx)
        .reshape((batch, frames, channels, rows * PATCH, columns * PATCH))?;
    Ok(latent.narrow(3, 0, h)?.narrow(4, 0, w)?.transpose(1, 2)?.contiguous()?)
}

fn wrapped(x: &Tensor, axis: usize) -> Result<Tensor> {
    let missing = x.dim(axis)? % PATCH;
    Ok(if missing == 0 { x.clone() } else { Tensor::cat(&[x, &x.narrow(axis, 0, missing)?], axis)? })
}
