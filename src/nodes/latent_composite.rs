//! One latent pasted into another.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::latent_scale::{LatentMethod, scaled};
use super::values::Latent;
use super::{MAX_RESOLUTION, Services};
use crate::graph::{AnyNode, Card, Node, Result, Run, boolean, int, socket};
use crate::image::{Crop, Mask};
use crate::inputs;

pub const NODES: &[&dyn AnyNode<Services>] = &[&LatentComposite, &LatentCompositeMasked];

/// A rectangle of two axes.
struct Place {
    /// The axis that counts as height; the next one counts as width.
    axis: usize,
    y: usize,
    x: usize,
    height: usize,
    width: usize,
}

impl Place {
    /// Where of `destination` a source of its own sizes shows, put at (`x`, `y`).
    fn of(destination: &Tensor, source: &Tensor, axis: usize, (x, y): (usize, usize)) -> Result<Self> {
        let shown = |axis: usize, start: usize| {
            let room = destination.dim(axis)?.saturating_sub(start);
            Ok::<_, candle_core::Error>(source.dim(axis)?.min(room))
        };
        Ok(Self { axis, y, x, height: shown(axis, y)?, width: shown(axis + 1, x)? })
    }

    fn is_empty(&self) -> bool {
        self.height == 0 || self.width == 0
    }

    fn of_source(&self, source: &Tensor) -> Result<Tensor> {
        Ok(source.narrow(self.axis, 0, self.height)?.narrow(self.axis + 1, 0, self.width)?)
    }

    fn of_destination(&self, destination: &Tensor) -> Result<Tensor> {
        let rows = destination.narrow(self.axis, self.y, self.height)?;
        Ok(rows.narrow(self.axis + 1, self.x, self.width)?)
    }

    /// `destination` with something else in this place.
    fn put(&self, destination: &Tensor, new: &Tensor) -> Result<Tensor> {
        let rows = destination.narrow(self.axis, self.y, self.height)?;
        let rows = around(&rows, new, self.axis + 1, self.x)?;
        around(destination, &rows, self.axis, self.y)
    }
}

/// `new` in place of a part of `old` along an axis.
fn around(old: &Tensor, new: &Tensor, axis: usize, start: usize) -> Result<Tensor> {
    let end = start + new.dim(axis)?;
    let before = old.narrow(axis, 0, start)?;
    let after = old.narrow(axis, end, old.dim(axis)? - end)?;
    Ok(Tensor::cat(&[&before, new, &after], axis)?)
}

/// `above` over `below`, as far as `share` says.
fn mixed(below: &Tensor, above: &Tensor, share: &Tensor) -> Result<Tensor> {
    Ok(below.broadcast_mul(&share.affine(-1.0, 1.0)?)?.broadcast_add(&above.broadcast_mul(share)?)?)
}

struct LatentComposite;

inputs! {
    struct LatentCompositeIn {
        samples_to: Arc<Latent> = socket(),
        samples_from: Arc<Latent> = socket(),
        x: usize = int(0).range(0, MAX_RESOLUTION).step(8),
        y: usize = int(0).range(0, MAX_RESOLUTION).step(8),
        feather: usize = int(0).range(0, MAX_RESOLUTION).step(8),
    }
}

impl Node<Services> for LatentComposite {
    const CARD: Card = Card::new("LatentComposite", "Latent Composite", "latent");
    type In = LatentCompositeIn;
    type Out = (Latent,);

    /// Height and width are the third and fourth axis, whatever they are: ComfyUI counts from the front.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        const AXIS: usize = 2;
        let (to, from) = (&input.samples_to.samples, &input.samples_from.samples);
        let place = Place::of(to, from, AXIS, (input.x / 8, input.y / 8))?;
        if place.is_empty() {
            return Ok((input.samples_to.as_ref().clone(),));
        }
        let source = place.of_source(from)?;
        let reach = input.feather / 8;
        let ramp = |axis: usize, start: usize, length: usize| {
            let whole = to.dim(axis)?;
            let share =
                |distance: usize| if distance < reach { (distance + 1) as f32 / reach as f32 } else { 1.0 };
            let weight = |index: usize| {
                let first = if start > 0 { share(index) } else { 1.0 };
                let last = if start + length < whole { share(length - 1 - index) } else { 1.0 };
                first * last
            };
            let mut shape = vec![1; to.rank()];
            shape[axis] = length;
            Tensor::from_vec((0..length).map(weight).collect::<Vec<f32>>(), shape, &Device::Cpu)
        };
        let rows = ramp(AXIS, place.y, place.height)?;
        let share = rows.broadcast_mul(&ramp(AXIS + 1, place.x, place.width)?)?;
        let pasted = mixed(&place.of_destination(to)?, &source, &share)?;
        Ok((input.samples_to.with_samples(place.put(to, &pasted)?),))
    }
}

struct LatentCompositeMasked;

inputs! {
    struct LatentCompositeMaskedIn {
        destination: Arc<Latent> = socket(),
        source: Arc<Latent> = socket(),
        x: usize = int(0).range(0, MAX_RESOLUTION).step(8),
        y: usize = int(0).range(0, MAX_RESOLUTION).step(8),
        resize_source: bool = boolean(false),
        mask: Option<Arc<Mask>> = socket(),
    }
}

impl Node<Services> for LatentCompositeMasked {
    const CARD: Card = Card::new("LatentCompositeMasked", "LatentCompositeMasked", "latent")
        .module("comfy_extras.nodes_mask");
    type In = LatentCompositeMaskedIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let to = &input.destination.samples;
        let axis = to.rank() - 2;
        let mut source = input.source.as_ref().clone();
        if input.resize_source {
            let size = (to.dim(axis + 1)?, to.dim(axis)?);
            source.samples = scaled(&source.samples, size, LatentMethod::Bilinear, Crop::Disabled)?;
        }
        let source = Latent::new(source.samples).repeated_to(to.dim(0)?)?.samples;
        let place = Place::of(to, &source, axis, (input.x / 8, input.y / 8))?;
        if place.is_empty() {
            return Ok((input.destination.as_ref().clone(),));
        }
        let share = match &input.mask {
            Some(mask) => {
                let size = (source.dim(axis + 1)?, source.dim(axis)?);
                let planes = mask.to_tensor()?.unsqueeze(1)?;
                let planes = scaled(&planes, size, LatentMethod::Bilinear, Crop::Disabled)?;
                let planes = Latent::new(planes).repeated_to(to.dim(0)?)?.samples;
                let planes = if to.rank() == 5 { planes.unsqueeze(2)? } else { planes };
                place.of_source(&planes)?
            }
            None => Tensor::ones(vec![1; to.rank()], DType::F32, &Device::Cpu)?,
        };
        let pasted = mixed(&place.of_destination(to)?, &place.of_source(&source)?, &share)?;
        Ok((input.destination.with_samples(place.put(to, &pasted)?),))
    }
}
