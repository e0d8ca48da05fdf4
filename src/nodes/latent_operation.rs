//! Operations on latents: values that are applied to a latent, or to what guidance adds in each step of a run.

use std::sync::Arc;

use candle_core::Tensor;

use super::Services;
use super::image_filter::{convolve, gaussian};
use super::values::Latent;
use crate::graph::{AnyNode, Card, Node, NodeError, Result, Run, Socket, float, int, socket};
use crate::image::Image;
use crate::inputs;
use crate::sampling::{self, Model};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &LatentApplyOperation,
    &LatentApplyOperationCFG,
    &LatentOperationTonemapReinhard,
    &LatentOperationSharpen,
];

const fn card(class: &'static str) -> Card {
    Card::new(class, class, "latent/advanced/operations").module("comfy_extras.nodes_latent").experimental()
}

/// What becomes of a latent: (batch, channels, \[frames,\] h, w).
#[derive(Clone)]
enum Operation {
    /// Long channel vectors are shortened, as bright light is on film.
    Tonemap { multiplier: f64 },
    /// Channel vectors differ more from those around them.
    Sharpen { radius: usize, sigma: f64, alpha: f64 },
}

impl Socket for Operation {
    const NAME: &'static str = "LATENT_OPERATION";
}

impl Operation {
    fn apply(&self, latent: &Tensor) -> Result<Tensor> {
        match *self {
            Self::Tonemap { multiplier } => Ok(tonemapped(latent, multiplier)?),
            Self::Sharpen { radius, sigma, alpha } => sharpened(latent, radius, sigma, alpha),
        }
    }
}

/// Reinhard et al. (2002), for lengths of channel vectors; `multiplier` is of the length that none exceeds. Like
/// ComfyUI's, mean and deviation are taken over three axes after the batch: with frames, of each column.
fn tonemapped(latent: &Tensor, multiplier: f64) -> candle_core::Result<Tensor> {
    let length = (latent.sqr()?.sum_keepdim(1)?.sqrt()? + 1e-10)?;
    let directions = latent.broadcast_div(&length)?;
    let count: usize = length.dims()[1..4].iter().product();
    let mean = length.mean_keepdim((1, 2, 3))?;
    let squares = length.broadcast_sub(&mean)?.sqr()?.sum_keepdim((1, 2, 3))?;
    let deviation = (squares / (count as f64 - 1.0))?.sqrt()?;
    let top = (((deviation * 5.0)? + mean)? * multiplier)?;
    let share = length.broadcast_div(&top)?;
    let shortened = (&share / (&share + 1.0)?)?.broadcast_mul(&top)?;
    directions.broadcast_mul(&shortened)
}

fn sharpened(latent: &Tensor, radius: usize, sigma: f64, alpha: f64) -> Result<Tensor> {
    if latent.rank() != 4 {
        return Err(NodeError::Refused(
            "latents with frames cannot be sharpened, in ComfyUI neither; only those of four axes can"
                .to_owned(),
        ));
    }
    let length = (latent.sqr()?.sum_keepdim(1)?.sqrt()? + 1e-6)?;
    let directions = latent.broadcast_div(&length)?;
    let mut weights = gaussian(radius, sigma);
    for weight in &mut weights {
        *weight *= (alpha * -10.0) as f32;
    }
    let sum: f32 = weights.iter().sum();
    let middle = weights.len() / 2;
    weights[middle] += 1.0 - sum;
    let image =
        Image::from_tensor(&directions.permute((0, 2, 3, 1))?.contiguous()?).map_err(NodeError::other)?;
    let changed = convolve(&image, radius, &weights, &|| Ok(()))?.to_tensor().map_err(NodeError::other)?;
    Ok(changed.permute((0, 3, 1, 2))?.broadcast_mul(&length)?)
}

struct LatentApplyOperation;

inputs! {
    struct LatentApplyOperationIn {
        samples: Arc<Latent> = socket(),
        operation: Arc<Operation> = socket(),
    }
}

impl Node<Services> for LatentApplyOperation {
    const CARD: Card = card("LatentApplyOperation");
    type In = LatentApplyOperationIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.samples.with_samples(input.operation.apply(&input.samples.samples)?),))
    }
}

struct LatentApplyOperationCFG;

inputs! {
    struct LatentApplyOperationCFGIn {
        model: Arc<Model> = socket(),
        operation: Arc<Operation> = socket(),
    }
}

impl Node<Services> for LatentApplyOperationCFG {
    const CARD: Card = card("LatentApplyOperationCFG");
    type In = LatentApplyOperationCFGIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let operation = input.operation.clone();
        let change = move |estimate: &Tensor| {
            operation.apply(estimate).map_err(|error| sampling::Error::Watch(Box::new(error)))
        };
        Ok((input.model.as_ref().clone().with_operation(Arc::new(change)),))
    }
}

struct LatentOperationTonemapReinhard;

inputs! {
    struct LatentOperationTonemapReinhardIn {
        multiplier: f64 = float(1.0).range(0.0, 100.0).step(0.01),
    }
}

impl Node<Services> for LatentOperationTonemapReinhard {
    const CARD: Card = card("LatentOperationTonemapReinhard");
    type In = LatentOperationTonemapReinhardIn;
    type Out = (Operation,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Operation::Tonemap { multiplier: input.multiplier },))
    }
}

struct LatentOperationSharpen;

inputs! {
    struct LatentOperationSharpenIn {
        sharpen_radius: usize = int(9).range(1, 31).step(1),
        sigma: f64 = float(1.0).range(0.1, 10.0).step(0.1),
        alpha: f64 = float(0.1).range(0.0, 5.0).step(0.01),
    }
}

impl Node<Services> for LatentOperationSharpen {
    const CARD: Card = card("LatentOperationSharpen");
    type In = LatentOperationSharpenIn;
    type Out = (Operation,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (radius, sigma, alpha) = (input.sharpen_radius, input.sigma, input.alpha);
        Ok((Operation::Sharpen { radius, sigma, alpha },))
    }
}
