//! Sampling only part of a picture: masks at the size of a latent, and a model that sees them.

use candle_core::{D, DType, Device, Tensor};

use super::latent::noised;
use super::model::Guided;
use super::samplers::{Denoise, Estimates};
use super::{Area, Rectangle, Result};
use crate::model::Flow;

/// A model that only changes what lies under a mask. Before each call the rest is put back to the
/// latent at the right noise level, after it to the latent itself.
pub struct Masked<'a, 'm> {
    inner: &'a mut Guided<'m>,
    /// 1 where to sample, (1, 1, frames, h, w).
    mask: Tensor,
    /// What is kept, normalised, and its noise.
    latent: Tensor,
    noise: Tensor,
    threshold: Option<Threshold>,
}

/// Differential diffusion: a soft mask says how early a place is let go.
struct Threshold {
    from: f64,
    to: f64,
    strength: f64,
}

impl<'a, 'm> Masked<'a, 'm> {
    pub fn new(
        inner: &'a mut Guided<'m>,
        mask: &Tensor,
        [latent, noise]: [&Tensor; 2],
        sigmas: &[f64],
    ) -> Result<Self> {
        let size = [latent.dim(2)?, latent.dim(3)?, latent.dim(4)?];
        let threshold = inner.model.differential().map(|strength| Threshold {
            from: sigmas[0],
            to: sigmas[sigmas.len() - 1].max(inner.flow().smallest_sigma().into()),
            strength,
        });
        Ok(Self {
            inner,
            mask: resize(mask, size, latent.device())?,
            latent: latent.clone(),
            noise: noise.clone(),
            threshold,
        })
    }

    /// The mask at a sigma.
    fn mask_at(&self, sigma: f64) -> Result<Tensor> {
        let Some(Threshold { from, to, strength }) = self.threshold else { return Ok(self.mask.clone()) };
        let open = self.mask.ge((sigma - to) / (from - to))?.to_dtype(DType::F32)?;
        // A strength of 0 does not switch it off, in ComfyUI neither.
        if strength <= 0.0 || strength >= 1.0 {
            return Ok(open);
        }
        Ok(((open * strength)? + (&self.mask * (1.0 - strength))?)?)
    }

    /// `x` under the mask, `other` elsewhere.
    fn merge(mask: &Tensor, x: &Tensor, other: &Tensor) -> Result<Tensor> {
        Ok((x.broadcast_mul(mask)? + other.broadcast_mul(&mask.affine(-1.0, 1.0)?)?)?)
    }
}

impl Denoise for Masked<'_, '_> {
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let mask = self.mask_at(sigma)?;
        let x = Self::merge(&mask, x, &noised(&self.latent, &self.noise, sigma)?)?;
        Self::merge(&mask, &self.inner.denoise(&x, sigma)?, &self.latent)
    }

    /// The estimate without guidance is left as it is, as in ComfyUI.
    fn denoise_both(&mut self, x: &Tensor, sigma: f64) -> Result<Estimates> {
        let mask = self.mask_at(sigma)?;
        let x = Self::merge(&mask, x, &noised(&self.latent, &self.noise, sigma)?)?;
        let Estimates { guided, unguided } = self.inner.denoise_both(&x, sigma)?;
        Ok(Estimates { guided: Self::merge(&mask, &guided, &self.latent)?, unguided })
    }

    fn flow(&self) -> Flow {
        self.inner.flow()
    }
}

/// Resizes a mask of shape (..., h, w) to (1, 1, frames, h, w), all leading axes taken as frames.
///
/// With one mask and one frame this is a bilinear resize; a batch of masks becomes the frames of one
/// clip, as in ComfyUI.
pub fn resize(mask: &Tensor, [frames, h, w]: [usize; 3], device: &Device) -> Result<Tensor> {
    let (height, width) = (mask.dim(D::Minus2)?, mask.dim(D::Minus1)?);
    let mut values = mask.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let mut shape = [values.len() / (height * width).max(1), height, width];
    for (axis, size) in [frames, h, w].into_iter().enumerate() {
        values = resize_axis(&values, shape, axis, size);
        shape[axis] = size;
    }
    Ok(Tensor::from_vec(values, (1, 1, frames, h, w), device)?)
}

/// The smallest rectangle around what is not 0 in a mask of (1, 1, 1, h, w), 8 cells wide and high at least.
///
/// ComfyUI means the same, and fails at it for latents with a frame axis.
pub fn bounds(mask: &Tensor) -> Result<Area> {
    const LEAST: usize = 8;
    let rows = mask.flatten_to(3)?.to_vec2::<f32>()?;
    let row_counts = |row: &Vec<f32>| row.iter().any(|value| *value != 0.0);
    let column_counts = |column: &usize| rows.iter().any(|row| row[*column] != 0.0);
    let span = |first: Option<usize>, last: Option<usize>| match (first, last) {
        (Some(first), Some(last)) => (first, (last - first + 1).max(LEAST)),
        _ => (0, LEAST),
    };
    let width = rows.first().map_or(0, Vec::len);
    let (y, height) = span(rows.iter().position(row_counts), rows.iter().rposition(row_counts));
    let (x, width) = span((0..width).find(column_counts), (0..width).rfind(column_counts));
    Ok(Area::Cells(Rectangle { y, x, height, width }))
}

/// Linear interpolation along one axis, half-pixel centres, edges repeated.
fn resize_axis(values: &[f32], shape: [usize; 3], axis: usize, size: usize) -> Vec<f32> {
    let length = shape[axis];
    if length == size {
        return values.to_vec();
    }
    let inner: usize = shape[axis + 1..].iter().product();
    let scale = length as f32 / size as f32;
    values
        .chunks_exact(length * inner)
        .flat_map(|block| (0..size).map(move |place| (block, place)))
        .flat_map(|(block, place)| {
            let source = (scale * (place as f32 + 0.5) - 0.5).max(0.0);
            let near = (source as usize).min(length - 1);
            let far = (near + 1).min(length - 1);
            let share = source - near as f32;
            (0..inner).map(move |i| (1.0 - share) * block[near * inner + i] + share * block[far * inner + i])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resized(values: &[f32], shape: [usize; 3], size: [usize; 3]) -> Vec<f32> {
        let mask = Tensor::from_slice(values, &shape[..], &Device::Cpu).unwrap();
        resize(&mask, size, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn cells_lie_half_way_between_the_pixels_they_come_from() {
        assert_eq!(resized(&[0.0, 1.0, 2.0, 3.0], [1, 1, 4], [1, 1, 2]), [0.5, 2.5]);
        assert_eq!(resized(&[0.0, 4.0], [1, 2, 1], [1, 4, 1]), [0.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn several_masks_are_frames_of_which_the_middle_is_taken() {
        assert_eq!(resized(&[0.0, 1.0], [2, 1, 1], [1, 1, 1]), [0.5]);
        assert_eq!(resized(&[0.0, 1.0, 5.0], [3, 1, 1], [1, 1, 1]), [1.0]);
    }
}
