//! Latents of which only a part is to be sampled.

use std::sync::Arc;

use candle_core::Tensor;

use super::Services;
use super::values::{Conditioning, Latent, Vae};
use crate::graph::{AnyNode, Card, Node, Result, Run, Same, boolean, int, socket};
use crate::image::{Crop, Filter, Image, Mask};
use crate::inputs;

pub const NODES: &[&dyn AnyNode<Services>] =
    &[&SetLatentNoiseMask, &VAEEncodeForInpaint, &InpaintModelConditioning, &InstructPixToPixConditioning];

struct SetLatentNoiseMask;

inputs! {
    struct SetLatentNoiseMaskIn {
        samples: Arc<Latent> = socket(),
        mask: Arc<Mask> = socket(),
    }
}

impl Node<Services> for SetLatentNoiseMask {
    const CARD: Card = Card::new("SetLatentNoiseMask", "Set Latent Noise Mask", "latent/inpaint");
    type In = SetLatentNoiseMaskIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let noise_mask = Some(input.mask.to_tensor()?);
        Ok((Latent { noise_mask, ..input.samples.as_ref().clone() },))
    }
}

/// A picture cut to whole cells, with its mask at the same size.
fn whole_cells(pixels: &Image, mask: &Mask, cell: usize) -> Result<(Image, Mask)> {
    let mask = mask.resized(pixels.size(), Filter::Bilinear, Crop::Disabled)?;
    let (width, height) = pixels.size();
    let corner = (width % cell / 2, height % cell / 2);
    let size = (width / cell * cell, height / cell * cell);
    Ok((pixels.rectangle(corner, size), mask.rectangle(corner, size)))
}

/// The picture with the colours under the mask replaced by grey.
fn greyed(pixels: &Image, mask: &Mask) -> Result<Image> {
    let mask = mask.repeated_to(pixels.batch())?;
    let mut pixels = pixels.clone();
    let channels = pixels.channels();
    for (pixel, masked) in pixels.data_mut().chunks_exact_mut(channels).zip(mask.data()) {
        for value in pixel.iter_mut().take(3) {
            *value = (*value - 0.5) * (1.0 - masked.round_ties_even()) + 0.5;
        }
    }
    Ok(pixels)
}

struct VAEEncodeForInpaint;

inputs! {
    struct VAEEncodeForInpaintIn {
        pixels: Arc<Image> = socket(),
        vae: Arc<Vae> = socket(),
        mask: Arc<Mask> = socket(),
        grow_mask_by: usize = int(6).range(0, 64).step(1),
    }
}

impl Node<Services> for VAEEncodeForInpaint {
    const CARD: Card = Card::new("VAEEncodeForInpaint", "VAE Encode (for Inpainting)", "latent/inpaint");
    type In = VAEEncodeForInpaintIn;
    type Out = (Latent,);

    /// ComfyUI fails here with VAEs of videos, Qwen-Image's among them.
    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (pixels, mask) = whole_cells(&input.pixels, &input.mask, input.vae.0.latent().scale)?;
        let samples = input.vae.encode(&greyed(&pixels, &mask)?, None, run.stop())?;
        let mask = grown(&mask.map(f32::round_ties_even), input.grow_mask_by);
        Ok((Latent { noise_mask: Some(mask.to_tensor()?), ..Latent::new(samples) },))
    }
}

/// The places that a square of `side` reaches from a set one. Even squares reach one place further to the
/// left and up, as a convolution with half its padding on that side does.
fn grown(mask: &Mask, side: usize) -> Mask {
    if side == 0 {
        return mask.clone();
    }
    let (width, height) = mask.size();
    let before = (side - 1).div_ceil(2);
    let mut grown = Mask::clone(mask);
    for (frame, to) in mask.frames().zip(grown.data_mut().chunks_exact_mut((width * height).max(1))) {
        let along = |from: &[f32], length: usize, stride: usize, at: usize, place: usize| {
            let window = place.saturating_sub(before)..(place + side - before).min(length);
            window.clone().map(|other| from[at + other * stride]).fold(0.0, f32::max)
        };
        let rows: Vec<f32> =
            (0..frame.len()).map(|at| along(frame, width, 1, at / width * width, at % width)).collect();
        for (at, value) in to.iter_mut().enumerate() {
            *value = along(&rows, height, width, at % width, at / width);
        }
    }
    grown
}

struct InpaintModelConditioning;

inputs! {
    struct InpaintModelConditioningIn {
        positive: Arc<Conditioning> = socket(),
        negative: Arc<Conditioning> = socket(),
        vae: Arc<Vae> = socket(),
        pixels: Arc<Image> = socket(),
        mask: Arc<Mask> = socket(),
        noise_mask: bool = boolean(true)
            .tooltip("Whether only what lies under the mask is sampled. Some models do better without."),
    }
}

impl Node<Services> for InpaintModelConditioning {
    const CARD: Card =
        Card::new("InpaintModelConditioning", "InpaintModelConditioning", "conditioning/inpaint")
            .outputs(&["positive", "negative", "latent"]);
    type In = InpaintModelConditioningIn;
    type Out = (Same<Conditioning>, Same<Conditioning>, Latent);

    /// Models made for inpainting would look at the picture without its masked part too. None of those
    /// here does, so the conditionings stay as they are.
    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (_, mask) = whole_cells(&input.pixels, &input.mask, 8)?;
        let samples = input.vae.encode(&input.pixels, None, run.stop())?;
        let mask: Option<Tensor> = input.noise_mask.then(|| mask.to_tensor()).transpose()?;
        let latent = Latent { noise_mask: mask, ..Latent::new(samples) };
        Ok((Same(input.positive), Same(input.negative), latent))
    }
}

struct InstructPixToPixConditioning;

inputs! {
    struct InstructPixToPixConditioningIn {
        positive: Arc<Conditioning> = socket(),
        negative: Arc<Conditioning> = socket(),
        vae: Arc<Vae> = socket(),
        pixels: Arc<Image> = socket(),
    }
}

impl Node<Services> for InstructPixToPixConditioning {
    const CARD: Card = Card::new("InstructPixToPixConditioning", "", "conditioning/instructpix2pix")
        .module("comfy_extras.nodes_ip2p")
        .outputs(&["positive", "negative", "latent"])
        .schema();
    type In = InstructPixToPixConditioningIn;
    type Out = (Same<Conditioning>, Same<Conditioning>, Latent);

    /// A blank sheet of the picture's size. Only models made for it would look at the picture itself, and
    /// none of those here does.
    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let samples = input.vae.encode(&input.pixels, None, run.stop())?.zeros_like()?;
        Ok((Same(input.positive), Same(input.negative), Latent::new(samples)))
    }
}
