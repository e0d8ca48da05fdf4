//! Sampling: the KSamplers, and what every node that samples shares.

use std::sync::Arc;

use candle_core::Tensor;

use super::Services;
use super::values::{Conditioning, Latent};
use crate::graph::{
    AnyNode, Card, Choice, Node, NodeError, Preview, PreviewFormat, Result, Run, choice, float, int, socket,
};
use crate::image::Picture;
use crate::model::LatentFormat;
use crate::model::preview::PreviewDecoder;
use crate::sampling::{
    self, Guidance, InitialNoise, Model, Request, SAMPLERS, SCHEDULES, Sampled, Sampler, ScheduleFn, Watched,
    schedule,
};
use crate::weights::File;
use crate::{choice_input, choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&KSampler, &KSamplerAdvanced];

/// A sampler of ComfyUI's list.
pub(super) struct SamplerName(pub Sampler);

impl Choice for SamplerName {
    fn words() -> Vec<&'static str> {
        SAMPLERS.iter().map(|sampler| sampler.name).collect()
    }
    fn from_word(word: &str) -> Option<Self> {
        Sampler::find(word).map(Self)
    }
}
choice_input!(SamplerName);

/// A schedule of ComfyUI's list.
#[derive(Clone, Copy)]
pub(super) struct SchedulerName(pub ScheduleFn);

impl Choice for SchedulerName {
    fn words() -> Vec<&'static str> {
        SCHEDULES.iter().map(|(name, _)| *name).collect()
    }
    fn from_word(word: &str) -> Option<Self> {
        schedule::find(word).map(Self)
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
        let request = Request {
            latent: &start.samples,
            noise: start.draws(),
            seed: input.seed,
            sampler: &sampler,
            sigmas: &sampler.sigmas(input.model.flow(), input.scheduler.0, input.steps, input.denoise),
            guidance: Guidance::ClassifierFree {
                positive: &input.positive.0,
                negative: &input.negative.0,
                cfg: input.cfg,
            },
            mask: start.noise_mask.as_ref(),
        };
        let sampled = sampled(&input.model, &request, run)?;
        Ok((start.with_samples(sampled.latent),))
    }
}

choices! {
    enum AddNoise { Enable = "enable", Disable = "disable" }
}

choices! {
    enum LeftoverNoise { Disable = "disable", Enable = "enable" }
}

struct KSamplerAdvanced;

inputs! {
    struct KSamplerAdvancedIn {
        model: Arc<Model> = socket(),
        add_noise: AddNoise = choice(),
        noise_seed: u64 = int(0).seed(),
        steps: usize = int(20).range(1, 10000),
        cfg: f64 = float(8.0).range(0.0, 100.0).step(0.1).round(0.01),
        sampler_name: SamplerName = choice(),
        scheduler: SchedulerName = choice(),
        positive: Arc<Conditioning> = socket(),
        negative: Arc<Conditioning> = socket(),
        latent_image: Arc<Latent> = socket(),
        start_at_step: usize = int(0).range(0, 10000),
        end_at_step: usize = int(10000).range(0, 10000),
        return_with_leftover_noise: LeftoverNoise = choice(),
    }
}

impl Node<Services> for KSamplerAdvanced {
    const CARD: Card = Card::new("KSamplerAdvanced", "KSampler (Advanced)", "sampling");
    type In = KSamplerAdvancedIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let sampler = input.sampler_name.0;
        let start = input.latent_image;
        let sigmas = sampler.sigmas(input.model.flow(), input.scheduler.0, input.steps, 1.0);
        let finish = input.return_with_leftover_noise == LeftoverNoise::Disable;
        let noise = match input.add_noise {
            AddNoise::Enable => start.draws(),
            AddNoise::Disable => InitialNoise::Absent,
        };
        let request = Request {
            latent: &start.samples,
            noise,
            seed: input.noise_seed,
            sampler: &sampler,
            sigmas: &schedule::window(&sigmas, input.start_at_step, input.end_at_step, finish),
            guidance: Guidance::ClassifierFree {
                positive: &input.positive.0,
                negative: &input.negative.0,
                cfg: input.cfg,
            },
            mask: start.noise_mask.as_ref(),
        };
        let sampled = sampled(&input.model, &request, run)?;
        Ok((start.with_samples(sampled.latent),))
    }
}

/// Samples, telling of every step.
pub(super) fn sampled(model: &Model, request: &Request<'_>, run: &mut Run<'_, Services>) -> Result<Sampled> {
    let (format, stop) = (model.latent(), run.stop());
    let decoder = preview_decoder(run, format);
    let mut watch = |step: Watched<'_>| {
        report(run, format, decoder.as_ref(), &step).map_err(|error| sampling::Error::Watch(error.into()))
    };
    Ok(sampling::sample(model, request, &mut watch, stop)?)
}

/// The decoder that previews are made with: where the server is to use one, the first of `vae_approx` that is for this
/// latent space.
fn preview_decoder(run: &Run<'_, Services>, format: &LatentFormat) -> Option<PreviewDecoder> {
    const FOLDER: &str = "vae_approx";
    if !(run.host.decoded_previews && shows_previews(run)) || format.preview_decoders.is_empty() {
        return None;
    }
    let fits = |name: &String| format.preview_decoders.iter().any(|start| name.starts_with(start));
    let Some(name) = run.host.model_names(FOLDER).into_iter().find(fits) else {
        let wanted = format.preview_decoders.join(" or ");
        tracing::warn!("there is no {wanted} in models/{FOLDER}: previews are made without a decoder");
        return None;
    };
    let loaded = run
        .host
        .model_file(FOLDER, &name)
        .and_then(|path| Ok(PreviewDecoder::load(File::open(path).map_err(NodeError::other)?)?));
    loaded.map_err(|error| tracing::warn!("previews are made without a decoder: {error}")).ok()
}

fn shows_previews(run: &Run<'_, Services>) -> bool {
    run.host.preview_size > 0 && run.previews().unwrap_or(run.host.previews)
}

/// Tells of a finished step, with a preview where the prompt or else the server wants previews.
fn report(
    run: &mut Run<'_, Services>,
    format: &LatentFormat,
    decoder: Option<&PreviewDecoder>,
    step: &Watched<'_>,
) -> Result<()> {
    let (done, total) = (step.index as u32 + 1, step.total as u32);
    if !shows_previews(run) {
        return run.step(done, total);
    }
    let pixels = match decoder {
        Some(decoder) => Some(sampling::decoded_preview(decoder, step.denoised)?),
        None => sampling::preview(format, step.denoised)?,
    };
    let Some(pixels) = pixels else { return run.step(done, total) };
    let longest = run.host.preview_size;
    run.preview(done, total, preview(&pixels, longest)?)
}

/// What the unfinished latent would look like, roughly, as a JPEG with sides up to `longest`.
fn preview(pixels: &Tensor, longest: usize) -> Result<Preview> {
    let (height, width, channels) = pixels.dims3()?;
    let picture = Picture::new((width, height), channels, pixels.flatten_all()?.to_vec1()?);
    let jpeg =
        picture.contained(longest).and_then(|picture| picture.to_jpeg(95)).map_err(NodeError::other)?;
    Ok(Preview { format: PreviewFormat::Jpeg, bytes: jpeg.into() })
}
