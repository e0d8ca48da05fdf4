//! Sampling in parts that a graph puts together: where noise comes from, what guides, and the nodes that
//! run it all.

use std::sync::Arc;

use super::Services;
use super::sampling::sampled;
use super::values::{Conditioning, Latent, Sigmas};
use crate::graph::{AnyNode, Card, Node, Result, Run, Same, Socket, boolean, choice, float, int, socket};
use crate::sampling::{self, Guidance, InitialNoise, Model, Request, Sampled, Sampler};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &SamplerCustom,
    &SamplerCustomAdvanced,
    &BasicGuider,
    &CFGGuider,
    &DualCFGGuider,
    &PerpNegGuider,
    &RandomNoise,
    &DisableNoise,
    &AddNoise,
];

/// A card of this family.
const fn card(class: &'static str, category: &'static str) -> Card {
    Card::new(class, class, category).module("comfy_extras.nodes_custom_sampler")
}

/// Where the noise of a run comes from.
#[derive(Clone, Copy)]
enum Noise {
    Seed(u64),
    Absent,
}

impl Socket for Noise {
    const NAME: &'static str = "NOISE";
}

impl Noise {
    /// What the samplers' own noise begins with.
    fn seed(self) -> u64 {
        match self {
            Self::Seed(seed) => seed,
            Self::Absent => 0,
        }
    }

    fn initial(self, latent: &Latent) -> InitialNoise<'_> {
        match self {
            Self::Seed(_) => latent.draws(),
            Self::Absent => InitialNoise::Absent,
        }
    }
}

/// A model and what guides it.
struct Guider {
    model: Arc<Model>,
    steering: Steering,
}

impl Socket for Guider {
    const NAME: &'static str = "GUIDER";
}

enum Steering {
    Positive(Arc<Conditioning>),
    ClassifierFree { sides: [Arc<Conditioning>; 2], cfg: f64 },
    Dual { sides: [Arc<Conditioning>; 3], cfg: [f64; 2], nested: bool },
    Perpendicular { sides: [Arc<Conditioning>; 3], cfg: f64, scale: f64 },
}

impl Steering {
    fn guidance(&self) -> Guidance<'_> {
        match self {
            Self::Positive(positive) => Guidance::Positive(&positive.0),
            Self::ClassifierFree { sides: [positive, negative], cfg } => {
                Guidance::ClassifierFree { positive: &positive.0, negative: &negative.0, cfg: *cfg }
            }
            Self::Dual { sides: [positive, middle, negative], cfg, nested } => Guidance::Dual {
                positive: &positive.0,
                middle: &middle.0,
                negative: &negative.0,
                cfg: *cfg,
                nested: *nested,
            },
            Self::Perpendicular { sides: [positive, negative, empty], cfg, scale } => {
                Guidance::Perpendicular {
                    positive: &positive.0,
                    negative: &negative.0,
                    empty: &empty.0,
                    cfg: *cfg,
                    scale: *scale,
                }
            }
        }
    }
}

/// The result of a run, and the clean estimate of its last step; the result twice where there was no step.
fn both(start: &Latent, sampled: Sampled) -> (Latent, Latent) {
    let denoised = sampled.denoised.unwrap_or_else(|| sampled.latent.clone());
    (start.with_samples(sampled.latent), start.with_samples(denoised))
}

struct SamplerCustom;

inputs! {
    struct SamplerCustomIn {
        model: Arc<Model> = socket(),
        add_noise: bool = boolean(true),
        noise_seed: u64 = int(0).seed(),
        cfg: f64 = float(8.0).range(0.0, 100.0).step(0.1).round(0.01),
        positive: Arc<Conditioning> = socket(),
        negative: Arc<Conditioning> = socket(),
        sampler: Arc<Sampler> = socket(),
        sigmas: Arc<Sigmas> = socket(),
        latent_image: Arc<Latent> = socket(),
    }
}

impl Node<Services> for SamplerCustom {
    const CARD: Card =
        card("SamplerCustom", "sampling/custom_sampling").outputs(&["output", "denoised_output"]);
    type In = SamplerCustomIn;
    type Out = (Latent, Latent);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let start = input.latent_image;
        let request = Request {
            latent: &start.samples,
            noise: if input.add_noise { start.draws() } else { InitialNoise::Absent },
            seed: input.noise_seed,
            sampler: &input.sampler,
            sigmas: &input.sigmas.0,
            guidance: Guidance::ClassifierFree {
                positive: &input.positive.0,
                negative: &input.negative.0,
                cfg: input.cfg,
            },
            mask: start.noise_mask.as_ref(),
        };
        Ok(both(&start, sampled(&input.model, &request, run)?))
    }
}

struct SamplerCustomAdvanced;

inputs! {
    struct SamplerCustomAdvancedIn {
        noise: Arc<Noise> = socket(),
        guider: Arc<Guider> = socket(),
        sampler: Arc<Sampler> = socket(),
        sigmas: Arc<Sigmas> = socket(),
        latent_image: Arc<Latent> = socket(),
    }
}

impl Node<Services> for SamplerCustomAdvanced {
    const CARD: Card =
        card("SamplerCustomAdvanced", "sampling/custom_sampling").outputs(&["output", "denoised_output"]);
    type In = SamplerCustomAdvancedIn;
    type Out = (Latent, Latent);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let start = input.latent_image;
        let request = Request {
            latent: &start.samples,
            noise: input.noise.initial(&start),
            seed: input.noise.seed(),
            sampler: &input.sampler,
            sigmas: &input.sigmas.0,
            guidance: input.guider.steering.guidance(),
            mask: start.noise_mask.as_ref(),
        };
        Ok(both(&start, sampled(&input.guider.model, &request, run)?))
    }
}

struct BasicGuider;

inputs! {
    struct BasicGuiderIn {
        model: Arc<Model> = socket(),
        conditioning: Arc<Conditioning> = socket(),
    }
}

impl Node<Services> for BasicGuider {
    const CARD: Card = card("BasicGuider", "sampling/custom_sampling/guiders");
    type In = BasicGuiderIn;
    type Out = (Guider,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Guider { model: input.model, steering: Steering::Positive(input.conditioning) },))
    }
}

struct CFGGuider;

inputs! {
    struct CFGGuiderIn {
        model: Arc<Model> = socket(),
        positive: Arc<Conditioning> = socket(),
        negative: Arc<Conditioning> = socket(),
        cfg: f64 = float(8.0).range(0.0, 100.0).step(0.1).round(0.01),
    }
}

impl Node<Services> for CFGGuider {
    const CARD: Card = card("CFGGuider", "sampling/custom_sampling/guiders");
    type In = CFGGuiderIn;
    type Out = (Guider,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let sides = [input.positive, input.negative];
        Ok((Guider { model: input.model, steering: Steering::ClassifierFree { sides, cfg: input.cfg } },))
    }
}

choices! {
    enum DualStyle { Regular = "regular", Nested = "nested" }
}

struct DualCFGGuider;

inputs! {
    struct DualCFGGuiderIn {
        model: Arc<Model> = socket(),
        cond1: Arc<Conditioning> = socket(),
        cond2: Arc<Conditioning> = socket(),
        negative: Arc<Conditioning> = socket(),
        cfg_conds: f64 = float(8.0).range(0.0, 100.0).step(0.1).round(0.01),
        cfg_cond2_negative: f64 = float(8.0).range(0.0, 100.0).step(0.1).round(0.01),
        style: DualStyle = choice(),
    }
}

impl Node<Services> for DualCFGGuider {
    const CARD: Card = card("DualCFGGuider", "sampling/custom_sampling/guiders");
    type In = DualCFGGuiderIn;
    type Out = (Guider,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let steering = Steering::Dual {
            sides: [input.cond1, input.cond2, input.negative],
            cfg: [input.cfg_conds, input.cfg_cond2_negative],
            nested: input.style == DualStyle::Nested,
        };
        Ok((Guider { model: input.model, steering },))
    }
}

struct PerpNegGuider;

inputs! {
    struct PerpNegGuiderIn {
        model: Arc<Model> = socket(),
        positive: Arc<Conditioning> = socket(),
        negative: Arc<Conditioning> = socket(),
        empty_conditioning: Arc<Conditioning> = socket(),
        cfg: f64 = float(8.0).range(0.0, 100.0).step(0.1).round(0.01),
        neg_scale: f64 = float(1.0).range(0.0, 100.0).step(0.01),
    }
}

impl Node<Services> for PerpNegGuider {
    const CARD: Card = Card::new("PerpNegGuider", "", "_for_testing")
        .module("comfy_extras.nodes_perpneg")
        .experimental()
        .schema();
    type In = PerpNegGuiderIn;
    type Out = (Guider,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let steering = Steering::Perpendicular {
            sides: [input.positive, input.negative, input.empty_conditioning],
            cfg: input.cfg,
            scale: input.neg_scale,
        };
        Ok((Guider { model: input.model, steering },))
    }
}

struct RandomNoise;

inputs! {
    struct RandomNoiseIn {
        noise_seed: u64 = int(0).seed(),
    }
}

impl Node<Services> for RandomNoise {
    const CARD: Card = card("RandomNoise", "sampling/custom_sampling/noise");
    type In = RandomNoiseIn;
    type Out = (Noise,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Noise::Seed(input.noise_seed),))
    }
}

struct DisableNoise;

impl Node<Services> for DisableNoise {
    const CARD: Card = card("DisableNoise", "sampling/custom_sampling/noise");
    type In = ();
    type Out = (Noise,);

    fn run(&self, _input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Noise::Absent,))
    }
}

struct AddNoise;

inputs! {
    struct AddNoiseIn {
        model: Arc<Model> = socket(),
        noise: Arc<Noise> = socket(),
        sigmas: Arc<Sigmas> = socket(),
        latent_image: Arc<Latent> = socket(),
    }
}

impl Node<Services> for AddNoise {
    const CARD: Card = card("AddNoise", "_for_testing/custom_sampling/noise");
    type In = AddNoiseIn;
    type Out = (Same<Latent>,);

    /// As much noise as lies between the first and the last sigma.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let start = input.latent_image;
        let sigma = match input.sigmas.0[..] {
            [] => return Ok((Same(start),)),
            [one] => one,
            [first, .., last] => (first - last).abs(),
        };
        let noise = input.noise.initial(&start);
        let noised = sampling::add_noise(
            input.model.latent(),
            &start.samples,
            noise,
            input.noise.seed(),
            f64::from(sigma),
        )?;
        Ok((Same(Arc::new(start.with_samples(noised))),))
    }
}
