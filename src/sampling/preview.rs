//! Pictures of unfinished latents, without a decoder or with a small one.

use candle_core::{DType, Tensor};

use super::Result;
use crate::model::LatentFormat;
use crate::model::preview::PreviewDecoder;

/// The first picture of a clean estimate, one pixel per latent cell: (h, w, 3), u8.
///
/// `denoised`: (batch, channels, frames, h, w), normalised. The linear map from channels to colours
/// belongs to the latent format; `None` where none is known.
pub fn preview(format: &LatentFormat, denoised: &Tensor) -> Result<Option<Tensor>> {
    if format.preview.is_empty() {
        return Ok(None);
    }
    let latent = first_frame(denoised)?;
    let (channels, h, w) = latent.dims3()?;
    let device = latent.device();
    let colours = Tensor::from_vec(format.preview.concat(), (channels, 3), device)?;
    let bias = Tensor::new(&format.preview_bias, device)?;
    let cells = latent.reshape((channels, h * w))?.t()?.contiguous()?;
    let pixels = cells.matmul(&colours)?.broadcast_add(&bias)?;
    let bytes = pixels.affine(0.5, 0.5)?.clamp(0f32, 1f32)?.affine(255.0, 0.0)?.to_dtype(DType::U8)?;
    Ok(Some(bytes.reshape((h, w, 3))?))
}

/// The same by a decoder: (h, w, 3), u8, in the size of the picture.
pub fn decoded_preview(decoder: &PreviewDecoder, denoised: &Tensor) -> Result<Tensor> {
    let pixels = decoder.decode(&first_frame(denoised)?)?;
    Ok(pixels.affine(255.0, 0.0)?.to_dtype(DType::U8)?)
}

/// (channels, h, w)
fn first_frame(denoised: &Tensor) -> Result<Tensor> {
    Ok(denoised.get(0)?.narrow(1, 0, 1)?.squeeze(1)?)
}
