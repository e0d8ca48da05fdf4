//! Arithmetic on latents, and batches of them put together and apart.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Services;
use super::latent_scale::{LatentMethod, like};
use super::values::Latent;
use crate::graph::{AnyNode, Card, ListOf, Node, Result, Run, choice, float, int, socket};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &LatentAdd,
    &LatentSubtract,
    &LatentMultiply,
    &LatentInterpolate,
    &LatentBlend,
    &LatentBatch,
    &LatentBatchSeedBehavior,
    &RebatchLatents,
];

/// A card of this family.
const fn card(class: &'static str, category: &'static str) -> Card {
    Card::new(class, "", category).module("comfy_extras.nodes_latent").schema()
}

inputs! {
    struct TwoLatents {
        samples1: Arc<Latent> = socket(),
        samples2: Arc<Latent> = socket(),
    }
}

/// The second latent at the size of the first, in width, height and batch.
fn fitted(first: &Latent, second: &Latent) -> Result<Tensor> {
    let scaled = like(&second.samples, &first.samples, LatentMethod::Bilinear)?;
    Ok(Latent::new(scaled).repeated_to(first.samples.dim(0)?)?.samples)
}

struct LatentAdd;

impl Node<Services> for LatentAdd {
    const CARD: Card = card("LatentAdd", "latent/advanced");
    type In = TwoLatents;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let second = fitted(&input.samples1, &input.samples2)?;
        Ok((input.samples1.with_samples(input.samples1.samples.broadcast_add(&second)?),))
    }
}

struct LatentSubtract;

impl Node<Services> for LatentSubtract {
    const CARD: Card = card("LatentSubtract", "latent/advanced");
    type In = TwoLatents;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let second = fitted(&input.samples1, &input.samples2)?;
        Ok((input.samples1.with_samples(input.samples1.samples.broadcast_sub(&second)?),))
    }
}

struct LatentMultiply;

inputs! {
    struct LatentMultiplyIn {
        samples: Arc<Latent> = socket(),
        multiplier: f64 = float(1.0).range(-10.0, 10.0).step(0.01),
    }
}

impl Node<Services> for LatentMultiply {
    const CARD: Card = card("LatentMultiply", "latent/advanced");
    type In = LatentMultiplyIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.samples.with_samples((&input.samples.samples * input.multiplier)?),))
    }
}

struct LatentInterpolate;

inputs! {
    struct LatentInterpolateIn {
        samples1: Arc<Latent> = socket(),
        samples2: Arc<Latent> = socket(),
        ratio: f64 = float(1.0).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for LatentInterpolate {
    const CARD: Card = card("LatentInterpolate", "latent/advanced");
    type In = LatentInterpolateIn;
    type Out = (Latent,);

    /// Mixes the directions of the channel vectors, and their lengths by themselves.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (first, ratio) = (&input.samples1.samples, input.ratio);
        let second = &fitted(&input.samples1, &input.samples2)?;
        let length = |x: &Tensor| x.sqr()?.sum_keepdim(1)?.sqrt();
        let direction = |x: &Tensor| -> Result<Tensor> { Ok(numbers(&x.broadcast_div(&length(x)?)?)?) };
        let mix = |a: &Tensor, b: &Tensor| (a * ratio)? + (b * (1.0 - ratio))?;
        let mixed = direction(&mix(&direction(first)?, &direction(second)?)?)?;
        let long = mix(&length(first)?, &length(second)?)?;
        Ok((input.samples1.with_samples(mixed.broadcast_mul(&long)?),))
    }
}

/// 0 where there is no number: where a vector without length was to have a direction.
fn numbers(x: &Tensor) -> candle_core::Result<Tensor> {
    x.eq(x)?.where_cond(x, &x.zeros_like()?)
}

struct LatentBlend;

inputs! {
    struct LatentBlendIn {
        samples1: Arc<Latent> = socket(),
        samples2: Arc<Latent> = socket(),
        blend_factor: f64 = float(0.5).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for LatentBlend {
    const CARD: Card = Card::new("LatentBlend", "Latent Blend", "_for_testing");
    type In = LatentBlendIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (first, share) = (&input.samples1.samples, input.blend_factor);
        let second = like(&input.samples2.samples, first, LatentMethod::Bicubic)?;
        let blended = (first * share)?.broadcast_add(&(second * (1.0 - share))?)?;
        Ok((input.samples1.with_samples(blended),))
    }
}

struct LatentBatch;

impl Node<Services> for LatentBatch {
    const CARD: Card = card("LatentBatch", "latent/batch");
    type In = TwoLatents;
    type Out = (Latent,);

    /// Each item keeps the draw of noise it had.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (first, second) = (&input.samples1, &input.samples2);
        let scaled = like(&second.samples, &first.samples, LatentMethod::Bilinear)?;
        let samples = Tensor::cat(&[&first.samples, &scaled], 0)?;
        let batch_index = Some([first.indices()?, second.indices()?].concat());
        Ok((Latent { batch_index, ..first.with_samples(samples) },))
    }
}

choices! {
    enum SeedBehavior { Random = "random", Fixed = "fixed" }
}

struct LatentBatchSeedBehavior;

inputs! {
    struct LatentBatchSeedBehaviorIn {
        samples: Arc<Latent> = socket(),
        seed_behavior: SeedBehavior = choice().default("fixed").with("multiselect", false),
    }
}

impl Node<Services> for LatentBatchSeedBehavior {
    const CARD: Card = card("LatentBatchSeedBehavior", "latent/advanced");
    type In = LatentBatchSeedBehaviorIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let batch = input.samples.samples.dim(0)?;
        let first = input.samples.batch_index.as_ref().and_then(|draws| draws.first().copied());
        let batch_index = match input.seed_behavior {
            SeedBehavior::Random => None,
            SeedBehavior::Fixed => Some(vec![first.unwrap_or(0); batch]),
        };
        Ok((Latent { batch_index, ..input.samples.as_ref().clone() },))
    }
}

struct RebatchLatents;

inputs! {
    struct RebatchLatentsIn {
        latents: Vec<Arc<Latent>> = socket(),
        batch_size: Vec<usize> = int(1).range(1, 4096),
    }
}

impl Node<Services> for RebatchLatents {
    const CARD: Card = Card::new("RebatchLatents", "Rebatch Latents", "latent/batch")
        .module("comfy_extras.nodes_rebatch")
        .schema();
    const TAKES_LISTS: bool = true;
    type In = RebatchLatentsIn;
    type Out = (ListOf<Latent>,);

    /// Items that follow each other in one size go into batches together; draws of noise are counted
    /// over all of them.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let size = input.batch_size.first().copied().unwrap_or(1).max(1);
        let mut batches: Vec<Vec<Latent>> = Vec::new();
        let mut counted = 0;
        for latent in &input.latents {
            let count = latent.samples.dim(0)?;
            let draws = latent.batch_index.clone().unwrap_or_else(|| (counted..counted + count).collect());
            counted += count;
            let latent = Latent { batch_index: Some(draws), ..latent.as_ref().clone() };
            for index in 0..count {
                let item = latent.slice(index, 1)?;
                let fits = |batch: &&mut Vec<Latent>| {
                    batch.len() < size && batch[0].samples.dims()[1..] == item.samples.dims()[1..]
                };
                match batches.last_mut().filter(fits) {
                    Some(batch) => batch.push(item),
                    None => batches.push(vec![item]),
                }
            }
        }
        Ok((ListOf(batches.iter().map(|batch| joined(batch)).collect::<Result<_>>()?),))
    }
}

/// Single latents of one size as a batch. Masks are kept if any of them has one.
fn joined(items: &[Latent]) -> Result<Latent> {
    let samples: Vec<&Tensor> = items.iter().map(|item| &item.samples).collect();
    let size = items.iter().find_map(|item| item.noise_mask.as_ref()).map(|mask| mask.dims()[1..].to_vec());
    let mask = |size: &[usize]| {
        let whole = [&[1], size].concat();
        let masks = items.iter().map(|item| match &item.noise_mask {
            Some(mask) if mask.dims()[1..] == *size => Ok(mask.clone()),
            Some(mask) => like(
                &mask.unsqueeze(1)?,
                &Tensor::zeros((1, 1, size[0], size[1]), DType::F32, &Device::Cpu)?,
                LatentMethod::Bilinear,
            )
            .and_then(|mask| Ok(mask.squeeze(1)?)),
            None => Ok(Tensor::ones(&whole[..], DType::F32, &Device::Cpu)?),
        });
        Ok::<_, crate::graph::NodeError>(Tensor::cat(&masks.collect::<Result<Vec<_>>>()?, 0)?)
    };
    Ok(Latent {
        samples: Tensor::cat(&samples, 0)?,
        noise_mask: size.as_deref().map(mask).transpose()?,
        batch_index: Some(
            items.iter().flat_map(|item| item.batch_index.clone().unwrap_or_default()).collect(),
        ),
    })
}
