//! Latents made larger or smaller.

mod bislerp;

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::image_scale::{CropMethod, round};
use super::values::Latent;
use super::{MAX_RESOLUTION, Services};
use crate::graph::{AnyNode, Card, Node, Result, Run, Same, choice, float, int, socket};
use crate::image::{Crop, Filter, center_crop, resize};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&LatentUpscale, &LatentUpscaleBy];

choices! {
    pub(super) enum LatentMethod {
        NearestExact = "nearest-exact",
        Bilinear = "bilinear",
        Area = "area",
        Bicubic = "bicubic",
        Bislerp = "bislerp",
    }
}

/// Scales each frame of (batch, channels, \[frames,\] h, w) to `(width, height)` cells, cut to that aspect
/// before if `crop` says so.
pub(super) fn scaled(
    samples: &Tensor,
    (width, height): (usize, usize),
    method: LatentMethod,
    crop: Crop,
) -> Result<Tensor> {
    let rank = samples.rank();
    let mut samples = samples.clone();
    let (h, w) = (samples.dim(rank - 2)?, samples.dim(rank - 1)?);
    if crop == Crop::Center {
        let ((x, y), (w, h)) = center_crop((w, h), (width, height));
        samples = samples.narrow(rank - 2, y, h)?.narrow(rank - 1, x, w)?;
    }
    let filter = match method {
        LatentMethod::Bislerp => return bislerp::scaled(&samples, (width, height)),
        LatentMethod::NearestExact => Filter::NearestExact,
        LatentMethod::Bilinear => Filter::Bilinear,
        LatentMethod::Area => Filter::Area,
        LatentMethod::Bicubic => Filter::Bicubic,
    };
    let mut shape = samples.dims().to_vec();
    let (h, w) = (shape[rank - 2], shape[rank - 1]);
    let planes: usize = shape[..rank - 2].iter().product();
    let values = samples.flatten_all()?.to_vec1::<f32>()?;
    let values = resize(&values, [planes, h, w, 1], (width, height), filter)?;
    shape[rank - 2..].copy_from_slice(&[height, width]);
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// `samples` scaled to the sides of `like`, where they differ in more than the batch.
pub(super) fn like(samples: &Tensor, like: &Tensor, method: LatentMethod) -> Result<Tensor> {
    if samples.dims()[1..] == like.dims()[1..] {
        return Ok(samples.clone());
    }
    let sides = like.dims();
    scaled(samples, (sides[sides.len() - 1], sides[sides.len() - 2]), method, Crop::Center)
}

struct LatentUpscale;

inputs! {
    struct LatentUpscaleIn {
        samples: Arc<Latent> = socket(),
        upscale_method: LatentMethod = choice(),
        width: usize = int(512).range(0, MAX_RESOLUTION).step(8),
        height: usize = int(512).range(0, MAX_RESOLUTION).step(8),
        crop: CropMethod = choice(),
    }
}

impl Node<Services> for LatentUpscale {
    const CARD: Card = Card::new("LatentUpscale", "Upscale Latent", "latent");
    type In = LatentUpscaleIn;
    type Out = (Same<Latent>,);

    /// A side of 0 follows from the other, without regard to the 8 pixels of a cell, as in ComfyUI: it is
    /// the cells that are multiplied, and the least is 64 pixels.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        const LEAST: usize = 64;
        let samples = &input.samples.samples;
        let (w, h) = (samples.dim(samples.rank() - 1)?, samples.dim(samples.rank() - 2)?);
        let follows = |side: usize, wanted: usize, other: usize| round((side * wanted) as f64 / other as f64);
        let (width, height) = match (input.width, input.height) {
            (0, 0) => return Ok((Same(input.samples),)),
            (0, height) => (follows(w, height.max(LEAST), h), height),
            (width, 0) => (width, follows(h, width.max(LEAST), w)),
            size => size,
        };
        let size = (width.max(LEAST) / 8, height.max(LEAST) / 8);
        let scaled = scaled(samples, size, input.upscale_method, input.crop.into())?;
        Ok((Same(Arc::new(input.samples.with_samples(scaled))),))
    }
}

struct LatentUpscaleBy;

inputs! {
    struct LatentUpscaleByIn {
        samples: Arc<Latent> = socket(),
        upscale_method: LatentMethod = choice(),
        scale_by: f64 = float(1.5).range(0.01, 8.0).step(0.01),
    }
}

impl Node<Services> for LatentUpscaleBy {
    const CARD: Card = Card::new("LatentUpscaleBy", "Upscale Latent By", "latent");
    type In = LatentUpscaleByIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let samples = &input.samples.samples;
        let side =
            |axis: usize| Ok::<_, candle_core::Error>(round(samples.dim(axis)? as f64 * input.scale_by));
        let size = (side(samples.rank() - 1)?, side(samples.rank() - 2)?);
        let scaled = scaled(samples, size, input.upscale_method, Crop::Disabled)?;
        Ok((input.samples.with_samples(scaled),))
    }
}
