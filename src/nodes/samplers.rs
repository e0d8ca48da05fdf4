//! Samplers as nodes: those of the list by name, and those with settings.

use std::sync::Arc;

use candle_core::Tensor;

use super::Services;
use super::latent_scale::{self, LatentMethod};
use super::sampling::SamplerName;
use crate::graph::{AnyNode, Card, Node, Result, Run, choice, float, int, socket};
use crate::image::Crop;
use crate::sampling::samplers::{
    Adaptive, Correction, ErSde, Growth, NoiseScale, Sampler, Stochastic, StochasticAdams,
};
use crate::sampling::{self, Model};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &KSamplerSelect,
    &SamplerEulerAncestral,
    &SamplerEulerAncestralCFGPP,
    &SamplerLMS,
    &SamplerDPMPP_3M_SDE,
    &SamplerDPMPP_2M_SDE,
    &SamplerDPMPP_SDE,
    &SamplerDPMPP_2S_Ancestral,
    &SamplerDPMAdaptative,
    &SamplerER_SDE,
    &SamplerSASolver,
    &SamplerEulerCFGpp,
    &SamplerLCMUpscale,
];

/// A card of this family.
const fn card(class: &'static str) -> Card {
    Card::new(class, class, "sampling/custom_sampling/samplers").module("comfy_extras.nodes_custom_sampler")
}

choices! {
    /// Where ComfyUI draws the noise. It is the same noise on every device here.
    enum NoiseDevice { Gpu = "gpu", Cpu = "cpu" }
}

struct KSamplerSelect;

inputs! {
    struct KSamplerSelectIn {
        sampler_name: SamplerName = choice(),
    }
}

impl Node<Services> for KSamplerSelect {
    const CARD: Card = card("KSamplerSelect");
    type In = KSamplerSelectIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.sampler_name.0,))
    }
}

inputs! {
    struct StochasticIn {
        eta: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
        s_noise: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
    }
}

struct SamplerEulerAncestral;

impl Node<Services> for SamplerEulerAncestral {
    const CARD: Card = card("SamplerEulerAncestral");
    type In = StochasticIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Sampler::euler_ancestral(Stochastic { eta: input.eta, s_noise: input.s_noise }),))
    }
}

struct SamplerEulerAncestralCFGPP;

inputs! {
    struct SamplerEulerAncestralCFGPPIn {
        eta: f64 = float(1.0).range(0.0, 1.0).step(0.01).round(false),
        s_noise: f64 = float(1.0).range(0.0, 10.0).step(0.01).round(false),
    }
}

impl Node<Services> for SamplerEulerAncestralCFGPP {
    const CARD: Card = Card { title: "SamplerEulerAncestralCFG++", ..card("SamplerEulerAncestralCFGPP") };
    type In = SamplerEulerAncestralCFGPPIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Sampler::euler_ancestral_cfg_pp(Stochastic { eta: input.eta, s_noise: input.s_noise }),))
    }
}

struct SamplerLMS;

inputs! {
    struct SamplerLMSIn {
        order: usize = int(4).range(1, 100),
    }
}

impl Node<Services> for SamplerLMS {
    const CARD: Card = card("SamplerLMS");
    type In = SamplerLMSIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Sampler::lms(input.order),))
    }
}

#[expect(non_camel_case_types, reason = "ComfyUI's name")]
struct SamplerDPMPP_3M_SDE;

inputs! {
    #[expect(dead_code, reason = "noise is the same on every device")]
    struct SamplerDPMPP3MSDEIn {
        eta: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
        s_noise: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
        noise_device: NoiseDevice = choice(),
    }
}

impl Node<Services> for SamplerDPMPP_3M_SDE {
    const CARD: Card = card("SamplerDPMPP_3M_SDE");
    type In = SamplerDPMPP3MSDEIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Sampler::dpmpp_3m_sde(Stochastic { eta: input.eta, s_noise: input.s_noise }),))
    }
}

choices! {
    enum MultistepSolver { Midpoint = "midpoint", Heun = "heun" }
}

#[expect(non_camel_case_types, reason = "ComfyUI's name")]
struct SamplerDPMPP_2M_SDE;

inputs! {
    #[expect(dead_code, reason = "noise is the same on every device")]
    struct SamplerDPMPP2MSDEIn {
        solver_type: MultistepSolver = choice(),
        eta: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
        s_noise: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
        noise_device: NoiseDevice = choice(),
    }
}

impl Node<Services> for SamplerDPMPP_2M_SDE {
    const CARD: Card = card("SamplerDPMPP_2M_SDE");
    type In = SamplerDPMPP2MSDEIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let correction = match input.solver_type {
            MultistepSolver::Midpoint => Correction::Midpoint,
            MultistepSolver::Heun => Correction::Heun,
        };
        let stochastic = Stochastic { eta: input.eta, s_noise: input.s_noise };
        Ok((Sampler::dpmpp_2m_sde(stochastic, correction),))
    }
}

#[expect(non_camel_case_types, reason = "ComfyUI's name")]
struct SamplerDPMPP_SDE;

inputs! {
    #[expect(dead_code, reason = "noise is the same on every device")]
    struct SamplerDPMPPSDEIn {
        eta: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
        s_noise: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
        r: f64 = float(0.5).range(0.0, 100.0).step(0.01).round(false),
        noise_device: NoiseDevice = choice(),
    }
}

impl Node<Services> for SamplerDPMPP_SDE {
    const CARD: Card = card("SamplerDPMPP_SDE");
    type In = SamplerDPMPPSDEIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Sampler::dpmpp_sde(Stochastic { eta: input.eta, s_noise: input.s_noise }, input.r),))
    }
}

#[expect(non_camel_case_types, reason = "ComfyUI's name")]
struct SamplerDPMPP_2S_Ancestral;

impl Node<Services> for SamplerDPMPP_2S_Ancestral {
    const CARD: Card = card("SamplerDPMPP_2S_Ancestral");
    type In = StochasticIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Sampler::dpmpp_2s_ancestral(Stochastic { eta: input.eta, s_noise: input.s_noise }),))
    }
}

struct SamplerDPMAdaptative;

inputs! {
    struct SamplerDPMAdaptativeIn {
        order: usize = int(3).range(2, 3),
        rtol: f64 = float(0.05).range(0.0, 100.0).step(0.01).round(false),
        atol: f64 = float(0.0078).range(0.0, 100.0).step(0.01).round(false),
        h_init: f64 = float(0.05).range(0.0, 100.0).step(0.01).round(false),
        pcoeff: f64 = float(0.0).range(0.0, 100.0).step(0.01).round(false),
        icoeff: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
        dcoeff: f64 = float(0.0).range(0.0, 100.0).step(0.01).round(false),
        accept_safety: f64 = float(0.81).range(0.0, 100.0).step(0.01).round(false),
        eta: f64 = float(0.0).range(0.0, 100.0).step(0.01).round(false),
        s_noise: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
    }
}

impl Node<Services> for SamplerDPMAdaptative {
    const CARD: Card = card("SamplerDPMAdaptative");
    type In = SamplerDPMAdaptativeIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let settings = Adaptive {
            order: input.order,
            relative: input.rtol,
            absolute: input.atol,
            first_step: input.h_init,
            coefficients: [input.pcoeff, input.icoeff, input.dcoeff],
            accepted: input.accept_safety,
            stochastic: Stochastic { eta: input.eta, s_noise: input.s_noise },
        };
        Ok((Sampler::dpm_adaptive(settings),))
    }
}

choices! {
    enum ErSdeSolver { ErSde = "ER-SDE", ReverseTime = "Reverse-time SDE", Ode = "ODE" }
}

#[expect(non_camel_case_types, reason = "ComfyUI's name")]
struct SamplerER_SDE;

inputs! {
    struct SamplerERSDEIn {
        solver_type: ErSdeSolver = choice(),
        max_stage: usize = int(3).range(1, 3),
        eta: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false)
            .tooltip("How much noise the reverse-time equation has; with 0 it is the ODE. ER-SDE has its own."),
        s_noise: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
    }
}

impl Node<Services> for SamplerER_SDE {
    const CARD: Card = card("SamplerER_SDE");
    type In = SamplerERSDEIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (scale, s_noise) = match input.solver_type {
            ErSdeSolver::ErSde => (NoiseScale::Extended, input.s_noise),
            ErSdeSolver::ReverseTime if input.eta > 0.0 => {
                (NoiseScale::Power(input.eta + 1.0), input.s_noise)
            }
            ErSdeSolver::ReverseTime | ErSdeSolver::Ode => (NoiseScale::Power(1.0), 0.0),
        };
        Ok((Sampler::er_sde(ErSde { scale, s_noise, stages: input.max_stage }),))
    }
}

struct SamplerSASolver;

inputs! {
    struct SamplerSASolverIn {
        model: Arc<Model> = socket(),
        eta: f64 = float(1.0).range(0.0, 10.0).step(0.01).round(false),
        sde_start_percent: f64 = float(0.2).range(0.0, 1.0).step(0.001),
        sde_end_percent: f64 = float(0.8).range(0.0, 1.0).step(0.001),
        s_noise: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
        predictor_order: usize = int(3).range(1, 6),
        corrector_order: usize = int(4).range(0, 6),
        use_pece: bool = socket(),
        simple_order_2: bool = socket(),
    }
}

impl Node<Services> for SamplerSASolver {
    const CARD: Card = card("SamplerSASolver");
    type In = SamplerSASolverIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let flow = input.model.flow();
        let settings = StochasticAdams {
            noisy: [flow.at_percent(input.sde_start_percent), flow.at_percent(input.sde_end_percent)],
            stochastic: Stochastic { eta: input.eta, s_noise: input.s_noise },
            predictor_order: input.predictor_order,
            corrector_order: input.corrector_order,
            evaluates_again: input.use_pece,
            simple_order_2: input.simple_order_2,
        };
        Ok((Sampler::sa_solver(settings),))
    }
}

choices! {
    enum CfgPpVersion { Regular = "regular", Alternative = "alternative" }
}

struct SamplerEulerCFGpp;

inputs! {
    struct SamplerEulerCFGppIn {
        version: CfgPpVersion = choice().with("multiselect", false),
    }
}

impl Node<Services> for SamplerEulerCFGpp {
    const CARD: Card = Card::new("SamplerEulerCFGpp", "SamplerEulerCFG++", "_for_testing")
        .module("comfy_extras.nodes_advanced_samplers")
        .experimental()
        .schema();
    type In = SamplerEulerCFGppIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((match input.version {
            CfgPpVersion::Regular => Sampler::euler_ancestral_cfg_pp(Stochastic::NONE),
            CfgPpVersion::Alternative => Sampler::euler_alternative_cfg_pp(),
        },))
    }
}

choices! {
    /// [`LatentMethod`] in this node's order.
    enum GrowthMethod {
        Bislerp = "bislerp",
        NearestExact = "nearest-exact",
        Bilinear = "bilinear",
        Area = "area",
        Bicubic = "bicubic",
    }
}

impl From<GrowthMethod> for LatentMethod {
    fn from(method: GrowthMethod) -> Self {
        match method {
            GrowthMethod::Bislerp => Self::Bislerp,
            GrowthMethod::NearestExact => Self::NearestExact,
            GrowthMethod::Bilinear => Self::Bilinear,
            GrowthMethod::Area => Self::Area,
            GrowthMethod::Bicubic => Self::Bicubic,
        }
    }
}

struct SamplerLCMUpscale;

inputs! {
    struct SamplerLCMUpscaleIn {
        scale_ratio: f64 = float(1.0).range(0.1, 20.0).step(0.01)
            .tooltip("How many times as long the sides are in the end."),
        scale_steps: i64 = int(-1).range(-1, 1000).step(1)
            .tooltip("After how many steps; after about half of them if -1."),
        upscale_method: GrowthMethod = choice().with("multiselect", false),
    }
}

impl Node<Services> for SamplerLCMUpscale {
    const CARD: Card = Card::new("SamplerLCMUpscale", "", "sampling/custom_sampling/samplers")
        .module("comfy_extras.nodes_advanced_samplers")
        .schema();
    type In = SamplerLCMUpscaleIn;
    type Out = (Sampler,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let method = LatentMethod::from(input.upscale_method);
        let scale = move |x: &Tensor, size| {
            let scaled = latent_scale::scaled(x, size, method, Crop::Disabled);
            scaled.map_err(|error| sampling::Error::Watch(Box::new(error)))
        };
        let steps = usize::try_from(input.scale_steps).ok();
        let growth = Growth { ratio: input.scale_ratio, steps, scale: Box::new(scale) };
        Ok((Sampler::lcm_upscale(growth),))
    }
}
