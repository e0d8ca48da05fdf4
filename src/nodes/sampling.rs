//! Sampling: the KSampler, and nodes that change how a model is sampled.

use std::sync::Arc;

use super::values::{Conditioning, Latent};
use super::{MAX_RESOLUTION, Services};
use crate::graph::{
    AnyNode, Card, Choice, Node, NodeError, Preview, PreviewFormat, Result, Run, choice, float, int, socket,
};
use crate::image::Picture;
use crate::model::{Flow, LatentFormat};
use crate::sampling::{self, InitialNoise, Model, SAMPLERS, SCHEDULES, Sampler, ScheduleFn, Watched};
use crate::{choice_input, inputs};

pub const NODES: &[&dyn AnyNode<Services>] =
    &[&KSampler, &ModelSamplingAuraFlow, &ModelSamplingSD3, &ModelSamplingFlux, &CFGNorm];

#[derive(Clone, Copy)]
struct SamplerName(Sampler);

impl Choice for SamplerName {
    fn words() -> Vec<&'static str> {
        SAMPLERS.iter().map(|sampler| sampler.name).collect()
    }
    fn from_word(word: &str) -> Option<Self> {
        Sampler::find(word).map(Self)
    }
}
choice_input!(SamplerName);

#[derive(Clone, Copy)]
struct SchedulerName(ScheduleFn);

impl Choice for SchedulerName {
    fn words() -> Vec<&'static str> {
        SCHEDULES.iter().map(|(name, _)| *name).collect()
    }
    fn from_word(word: &str) -> Option<Self> {
        sampling::schedule::find(word).map(Self)
    }
}
choice_input!(SchedulerName);

struct KSampler;

inputs! {
    struct KSamplerIn {
        model: Arc<Model> = socket().tooltip("The model that takes the noise away."),
        seed: u64 = int(0).seed().tooltip("The seed of the noise."),
        steps: usize = int(20).range(1, 10000).tooltip("How many steps to take."),
        cfg: f64 = float(8.0).range(0.0, 100.0).step(0.1).round(0.01)
            .tooltip("How closely to follow the prompt; 1 ignores the negative conditioning and is twice as fast."),
        sampler_name: SamplerName = choice().tooltip("The method that walks from noise to picture."),
        scheduler: SchedulerName = choice().tooltip("How the steps are spread over the noise levels."),
        positive: Arc<Conditioning> = socket().tooltip("What the picture should show."),
        negative: Arc<Conditioning> = socket().tooltip("What the picture should not show."),
        latent_image: Arc<Latent> = socket().tooltip("The latent to start from."),
        denoise: f64 = float(1.0).range(0.0, 1.0).step(0.01)
            .tooltip("How much of the start is replaced; below 1 keeps the structure of the latent image."),
    }
}

impl Node<Services> for KSampler {
    const CARD: Card = Card::new("KSampler", "KSampler", "sampling")
        .about("Takes the noise away from a latent, step by step, as the model and the conditioning say.");
    type In = KSamplerIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let sampler = input.sampler_name.0;
        let start = input.latent_image;
        let request = sampling::Request {
            latent: &start.samples,
            noise: start.batch_index.as_deref().map_or(InitialNoise::Batch, InitialNoise::Items),
            seed: input.seed,
            sampler,
            sigmas: &sampler.sigmas(input.model.flow(), input.scheduler.0, input.steps, input.denoise),
            cfg: input.cfg,
            positive: &input.positive.0,
            negative: &input.negative.0,
            mask: start.noise_mask.as_ref(),
        };
        let format = input.model.latent();
        let stop = run.stop();
        let mut watch = |step: Watched<'_>| {
            report(run, format, &step).map_err(|error| sampling::Error::Watch(error.into()))
        };
        let sampled = sampling::sample(&input.model, &request, &mut watch, stop)?;
        Ok((Latent { samples: sampled.latent, ..start.as_ref().clone() },))
    }
}

/// Tells of a finished step, with a preview where the prompt or else the server wants previews.
fn report(run: &mut Run<'_, Services>, format: &LatentFormat, step: &Watched<'_>) -> Result<()> {
    let (done, total) = (step.index as u32 + 1, step.total as u32);
    let longest = run.host.preview_size;
    if longest > 0 && run.previews().unwrap_or(run.host.previews) {
        run.preview(done, total, preview(format, step, longest)?)
    } else {
        run.step(done, total)
    }
}

/// What the unfinished latent would look like, roughly, as a JPEG with sides up to `longest`.
fn preview(format: &LatentFormat, step: &Watched<'_>, longest: usize) -> Result<Preview> {
    let pixels = sampling::preview(format, step.denoised)?;
    let (height, width, channels) = pixels.dims3()?;
    let picture = Picture::new((width, height), channels, pixels.flatten_all()?.to_vec1()?);
    let jpeg =
        picture.contained(longest).and_then(|picture| picture.to_jpeg(95)).map_err(NodeError::other)?;
    Ok(Preview { format: PreviewFormat::Jpeg, bytes: jpeg.into() })
}

struct ModelSamplingAuraFlow;

inputs! {
    struct ModelSamplingAuraFlowIn {
        model: Arc<Model> = socket(),
        shift: f64 = float(1.73).range(0.0, 100.0).step(0.01),
    }
}

impl Node<Services> for ModelSamplingAuraFlow {
    const CARD: Card = Card::new("ModelSamplingAuraFlow", "ModelSamplingAuraFlow", "advanced/model")
        .module("comfy_extras.nodes_model_advanced");
    type In = ModelSamplingAuraFlowIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let flow = Flow::Discrete { shift: input.shift, multiplier: 1.0 };
        Ok((input.model.as_ref().clone().with_flow(flow),))
    }
}

struct ModelSamplingSD3;

inputs! {
    struct ModelSamplingSD3In {
        model: Arc<Model> = socket(),
        shift: f64 = float(3.0).range(0.0, 100.0).step(0.01),
    }
}

impl Node<Services> for ModelSamplingSD3 {
    const CARD: Card = Card::new("ModelSamplingSD3", "ModelSamplingSD3", "advanced/model")
        .module("comfy_extras.nodes_model_advanced");
    type In = ModelSamplingSD3In;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let flow = Flow::Discrete { shift: input.shift, multiplier: 1000.0 };
        Ok((input.model.as_ref().clone().with_flow(flow),))
    }
}

struct ModelSamplingFlux;

inputs! {
    struct ModelSamplingFluxIn {
        model: Arc<Model> = socket(),
        max_shift: f64 = float(1.15).range(0.0, 100.0).step(0.01),
        base_shift: f64 = float(0.5).range(0.0, 100.0).step(0.01),
        width: u32 = int(1024).range(16, MAX_RESOLUTION).step(8),
        height: u32 = int(1024).range(16, MAX_RESOLUTION).step(8),
    }
}

impl Node<Services> for ModelSamplingFlux {
    const CARD: Card = Card::new("ModelSamplingFlux", "ModelSamplingFlux", "advanced/model")
        .module("comfy_extras.nodes_model_advanced");
    type In = ModelSamplingFluxIn;
    type Out = (Model,);

    /// The shift grows with the number of tokens, on the line through the base shift at 256 and the
    /// largest at 4096.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let slope = (input.max_shift - input.base_shift) / (4096.0 - 256.0);
        let tokens = f64::from(input.width) * f64::from(input.height) / 256.0;
        let flow = Flow::Exponential { mu: tokens * slope + input.base_shift - slope * 256.0 };
        Ok((input.model.as_ref().clone().with_flow(flow),))
    }
}

struct CFGNorm;

inputs! {
    struct CFGNormIn {
        model: Arc<Model> = socket(),
        strength: f64 = float(1.0).range(0.0, 100.0).step(0.01),
    }
}

impl Node<Services> for CFGNorm {
    const CARD: Card = Card::new("CFGNorm", "", "advanced/guidance")
        .module("comfy_extras.nodes_cfg")
        .outputs(&["patched_model"])
        .experimental()
        .schema();
    type In = CFGNormIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.model.as_ref().clone().with_cfg_norm(input.strength),))
    }
}
