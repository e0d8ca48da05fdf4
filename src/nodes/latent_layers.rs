//! Latents of layered pictures, one layer per frame. These nodes came after ComfyUI 0.3.64.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::values::Latent;
use super::{MAX_RESOLUTION, Services};
use crate::graph::{AnyNode, Card, Node, NodeError, Result, Run, choice, int, socket};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&EmptyQwenImageLayeredLatentImage, &LatentCutToBatch];

struct EmptyQwenImageLayeredLatentImage;

inputs! {
    struct LayeredLatentIn {
        width: usize = int(640).range(16, MAX_RESOLUTION).step(16),
        height: usize = int(640).range(16, MAX_RESOLUTION).step(16),
        layers: usize = int(3).range(0, MAX_RESOLUTION).step(1),
        batch_size: usize = int(1).range(1, 4096),
    }
}

impl Node<Services> for EmptyQwenImageLayeredLatentImage {
    const CARD: Card =
        Card::new("EmptyQwenImageLayeredLatentImage", "Empty Qwen Image Layered Latent", "model/latent/qwen")
            .about("An empty latent with a frame for the picture and one for each of its layers.")
            .module("comfy_extras.nodes_qwen")
            .schema();
    type In = LayeredLatentIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let shape = (input.batch_size, 16, input.layers + 1, input.height / 8, input.width / 8);
        let samples = Tensor::zeros(shape, DType::F32, &Device::Cpu).map_err(NodeError::other)?;
        Ok((Latent { samples, noise_mask: None, batch_index: None },))
    }
}

choices! {
    enum Axis { Time = "t", X = "x", Y = "y" }
}

struct LatentCutToBatch;

inputs! {
    struct LatentCutToBatchIn {
        samples: Arc<Latent> = socket(),
        dim: Axis = choice().with("multiselect", false),
        slice_size: usize = int(1).range(1, MAX_RESOLUTION).step(1),
    }
}

impl Node<Services> for LatentCutToBatch {
    const CARD: Card = Card::new("LatentCutToBatch", "", "latent/advanced")
        .about("Cuts a latent into slices of equal size and makes a batch of them; what is left over is dropped.")
        .module("comfy_extras.nodes_latent")
        .schema();
    type In = LatentCutToBatchIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let axis = match input.dim {
            Axis::X => 1,
            Axis::Y => 2,
            Axis::Time => 3,
        };
        let samples = slices(&input.samples.samples, axis, input.slice_size).map_err(NodeError::other)?;
        Ok((Latent { samples, ..input.samples.as_ref().clone() },))
    }
}

/// `axis` counts from the last one. A picture's latent has no time to cut.
fn slices(samples: &Tensor, axis: usize, size: usize) -> candle_core::Result<Tensor> {
    let Some(axis) = samples.rank().checked_sub(axis).filter(|axis| *axis >= 2) else {
        return Ok(samples.clone());
    };
    let length = samples.dim(axis)?;
    let size = size.clamp(1, length.max(1));
    let starts = (0..length / size).map(|index| index * size);
    let slices: Vec<Tensor> =
        starts.map(|start| samples.narrow(axis, start, size)).collect::<Result<_, _>>()?;
    // The slices of one item of the batch stay together.
    let stacked = Tensor::stack(&slices, 1)?;
    stacked.flatten(0, 1)
}
