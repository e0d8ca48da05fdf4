//! Latents cut, turned, mirrored and put side by side.
//!
//! Several of ComfyUI's nodes count axes from the front: of a latent with a frame axis, what they take for
//! the height is the frames, and for the width the height. That is kept, so that a graph gives the same.

use std::sync::Arc;

use candle_core::Tensor;

use super::values::Latent;
use super::{MAX_RESOLUTION, Services};
use crate::graph::{AnyNode, Card, Node, NodeError, Result, Run, choice, int, socket};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] =
    &[&LatentCrop, &LatentFlip, &LatentRotate, &LatentCut, &LatentConcat, &TrimVideoLatent];

/// The axes that the height and the width of a latent without frames have.
const ROWS: usize = 2;
const COLUMNS: usize = 3;

/// What Python's slice `from..to` leaves of an axis; negative places count from its end.
fn sliced(samples: &Tensor, axis: usize, from: i64, to: i64) -> Result<Tensor> {
    let length = samples.dim(axis)? as i64;
    let place = |place: i64| if place < 0 { place + length } else { place }.clamp(0, length);
    let (from, to) = (place(from), place(to));
    Ok(samples.narrow(axis, from as usize, (to - from).max(0) as usize)?)
}

struct LatentCrop;

inputs! {
    struct LatentCropIn {
        samples: Arc<Latent> = socket(),
        width: i64 = int(512).range(64, MAX_RESOLUTION).step(8),
        height: i64 = int(512).range(64, MAX_RESOLUTION).step(8),
        x: i64 = int(0).range(0, MAX_RESOLUTION).step(8),
        y: i64 = int(0).range(0, MAX_RESOLUTION).step(8),
    }
}

impl Node<Services> for LatentCrop {
    const CARD: Card = Card::new("LatentCrop", "Crop Latent", "latent/transform");
    type In = LatentCropIn;
    type Out = (Latent,);

    /// At least 8 cells are left, as far as there are any.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        const LEAST: i64 = 8;
        let samples = &input.samples.samples;
        let start = |axis: usize, pixels: i64| {
            Ok::<_, candle_core::Error>((pixels / 8).min(samples.dim(axis)? as i64 - LEAST))
        };
        let (x, y) = (start(COLUMNS, input.x)?, start(ROWS, input.y)?);
        let rows = sliced(samples, ROWS, y, y + input.height / 8)?;
        let cut = sliced(&rows, COLUMNS, x, x + input.width / 8)?;
        Ok((input.samples.with_samples(cut),))
    }
}

choices! {
    enum FlipMethod { Vertically = "x-axis: vertically", Horizontally = "y-axis: horizontally" }
}

struct LatentFlip;

inputs! {
    struct LatentFlipIn {
        samples: Arc<Latent> = socket(),
        flip_method: FlipMethod = choice(),
    }
}

impl Node<Services> for LatentFlip {
    const CARD: Card = Card::new("LatentFlip", "Flip Latent", "latent/transform");
    type In = LatentFlipIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let axis = match input.flip_method {
            FlipMethod::Vertically => ROWS,
            FlipMethod::Horizontally => COLUMNS,
        };
        Ok((input.samples.with_samples(input.samples.samples.flip(&[axis])?),))
    }
}

choices! {
    enum Rotation { None = "none", Quarter = "90 degrees", Half = "180 degrees", ThreeQuarters = "270 degrees" }
}

struct LatentRotate;

inputs! {
    struct LatentRotateIn {
        samples: Arc<Latent> = socket(),
        rotation: Rotation = choice(),
    }
}

impl Node<Services> for LatentRotate {
    const CARD: Card = Card::new("LatentRotate", "Rotate Latent", "latent/transform");
    type In = LatentRotateIn;
    type Out = (Latent,);

    /// Clockwise.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let samples = &input.samples.samples;
        let turned = match input.rotation {
            Rotation::None => samples.clone(),
            Rotation::Quarter => samples.transpose(ROWS, COLUMNS)?.contiguous()?.flip(&[COLUMNS])?,
            Rotation::Half => samples.flip(&[ROWS])?.flip(&[COLUMNS])?,
            Rotation::ThreeQuarters => samples.transpose(ROWS, COLUMNS)?.contiguous()?.flip(&[ROWS])?,
        };
        Ok((input.samples.with_samples(turned),))
    }
}

choices! {
    enum Axis { X = "x", Y = "y", T = "t" }
}

impl Axis {
    /// Counted from the back: without a frame axis, `t` is the channels, as in ComfyUI.
    fn of(self, samples: &Tensor) -> usize {
        let back = match self {
            Self::X => 1,
            Self::Y => 2,
            Self::T => 3,
        };
        samples.rank() - back
    }
}

struct LatentCut;

inputs! {
    struct LatentCutIn {
        samples: Arc<Latent> = socket(),
        dim: Axis = choice().with("multiselect", false),
        index: i64 = int(0).range(-i64::from(MAX_RESOLUTION), MAX_RESOLUTION).step(1),
        amount: i64 = int(1).range(1, MAX_RESOLUTION).step(1),
    }
}

impl Node<Services> for LatentCut {
    const CARD: Card =
        Card::new("LatentCut", "", "latent/advanced").module("comfy_extras.nodes_latent").schema();
    type In = LatentCutIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let samples = &input.samples.samples;
        let axis = input.dim.of(samples);
        let length = samples.dim(axis)? as i64;
        let first =
            if input.index < 0 { length + input.index.max(-length) } else { input.index.min(length - 1) };
        let cut = sliced(samples, axis, first, (first + input.amount).min(length))?;
        Ok((input.samples.with_samples(cut),))
    }
}

choices! {
    enum Side { X = "x", BeforeX = "-x", Y = "y", BeforeY = "-y", T = "t", BeforeT = "-t" }
}

struct LatentConcat;

inputs! {
    struct LatentConcatIn {
        samples1: Arc<Latent> = socket(),
        samples2: Arc<Latent> = socket(),
        dim: Side = choice().with("multiselect", false),
    }
}

impl Node<Services> for LatentConcat {
    const CARD: Card =
        Card::new("LatentConcat", "", "latent/advanced").module("comfy_extras.nodes_latent").schema();
    type In = LatentConcatIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let first = &input.samples1.samples;
        let second = &Latent::new(input.samples2.samples.clone()).repeated_to(first.dim(0)?)?.samples;
        let (axis, before) = match input.dim {
            Side::X => (Axis::X, false),
            Side::BeforeX => (Axis::X, true),
            Side::Y => (Axis::Y, false),
            Side::BeforeY => (Axis::Y, true),
            Side::T => (Axis::T, false),
            Side::BeforeT => (Axis::T, true),
        };
        let order = if before { [second, first] } else { [first, second] };
        Ok((input.samples1.with_samples(Tensor::cat(&order, axis.of(first))?),))
    }
}

struct TrimVideoLatent;

inputs! {
    struct TrimVideoLatentIn {
        samples: Arc<Latent> = socket(),
        trim_amount: usize = int(0).range(0, 99999),
    }
}

impl Node<Services> for TrimVideoLatent {
    const CARD: Card =
        Card::new("TrimVideoLatent", "", "latent/video").module("comfy_extras.nodes_wan").schema();
    type In = TrimVideoLatentIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (samples, amount) = (&input.samples.samples, input.trim_amount);
        let length = samples.dim(ROWS)?;
        if amount >= length {
            return Err(NodeError::Refused(format!(
                "the latent has {length} frames, and `trim_amount` {amount} leaves none"
            )));
        }
        let trimmed = samples.narrow(ROWS, amount, length - amount)?;
        Ok((input.samples.with_samples(trimmed),))
    }
}
