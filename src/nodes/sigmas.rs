//! Noise levels: schedules as nodes, and operations on what they give.

pub mod borrowed;
mod gits;

use std::sync::Arc;

use super::Services;
use super::sampling::SchedulerName;
use super::values::Sigmas;
use crate::graph::{AnyNode, Card, Node, NodeError, Result, Run, boolean, choice, float, int, socket, text};
use crate::sampling::{Model, schedule};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &BasicScheduler,
    &KarrasScheduler,
    &ExponentialScheduler,
    &PolyexponentialScheduler,
    &LaplaceScheduler,
    &VPScheduler,
    &BetaSamplingScheduler,
    &SDTurboScheduler,
    &AlignYourStepsScheduler,
    &GITSScheduler,
    &ManualSigmas,
    &SplitSigmas,
    &SplitSigmasDenoise,
    &FlipSigmas,
    &SetFirstSigma,
    &ExtendIntermediateSigmas,
    &SamplingPercentToSigma,
];

/// The largest and the smallest sigma of Stable Diffusion, which the nodes without a model begin with.
const LARGEST: f64 = 14.614_642;
const SMALLEST: f64 = 0.029_167_5;

/// A schedule as a node.
const fn scheduler(class: &'static str) -> Card {
    Card::new(class, class, "sampling/custom_sampling/schedulers").module("comfy_extras.nodes_custom_sampler")
}

/// An operation on sigmas.
const fn operation(class: &'static str) -> Card {
    Card::new(class, class, "sampling/custom_sampling/sigmas").module("comfy_extras.nodes_custom_sampler")
}

struct BasicScheduler;

inputs! {
    struct BasicSchedulerIn {
        model: Arc<Model> = socket(),
        scheduler: SchedulerName = choice(),
        steps: usize = int(20).range(1, 10000),
        denoise: f64 = float(1.0).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for BasicScheduler {
    const CARD: Card = scheduler("BasicScheduler");
    type In = BasicSchedulerIn;
    type Out = (Sigmas,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let make = |steps| (input.scheduler.0)(input.model.flow(), steps);
        Ok((Sigmas(schedule::tail(make, input.steps, input.denoise)),))
    }
}

struct KarrasScheduler;

inputs! {
    struct KarrasSchedulerIn {
        steps: usize = int(20).range(1, 10000),
        sigma_max: f64 = float(LARGEST).range(0.0, 5000.0).step(0.01).round(false),
        sigma_min: f64 = float(SMALLEST).range(0.0, 5000.0).step(0.01).round(false),
        rho: f64 = float(7.0).range(0.0, 100.0).step(0.01).round(false),
    }
}

impl Node<Services> for KarrasScheduler {
    const CARD: Card = scheduler("KarrasScheduler");
    type In = KarrasSchedulerIn;
    type Out = (Sigmas,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Sigmas(schedule::karras(input.steps, input.sigma_min, input.sigma_max, input.rho)),))
    }
}

struct ExponentialScheduler;

inputs! {
    struct ExponentialSchedulerIn {
        steps: usize = int(20).range(1, 10000),
        sigma_max: f64 = float(LARGEST).range(0.0, 5000.0).step(0.01).round(false),
        sigma_min: f64 = float(SMALLEST).range(0.0, 5000.0).step(0.01).round(false),
    }
}

impl Node<Services> for ExponentialScheduler {
    const CARD: Card = scheduler("ExponentialScheduler");
    type In = ExponentialSchedulerIn;
    type Out = (Sigmas,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Sigmas(schedule::exponential(input.steps, input.sigma_min, input.sigma_max)),))
    }
}

struct PolyexponentialScheduler;

inputs! {
    struct PolyexponentialSchedulerIn {
        steps: usize = int(20).range(1, 10000),
        sigma_max: f64 = float(LARGEST).range(0.0, 5000.0).step(0.01).round(false),
        sigma_min: f64 = float(SMALLEST).range(0.0, 5000.0).step(0.01).round(false),
        rho: f64 = float(1.0).range(0.0, 100.0).step(0.01).round(false),
    }
}

impl Node<Services> for PolyexponentialScheduler {
    const CARD: Card = scheduler("PolyexponentialScheduler");
    type In = PolyexponentialSchedulerIn;
    type Out = (Sigmas,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Sigmas(schedule::polyexponential(input.steps, input.sigma_min, input.sigma_max, input.rho)),))
    }
}

struct LaplaceScheduler;

inputs! {
    struct LaplaceSchedulerIn {
        steps: usize = int(20).range(1, 10000),
        sigma_max: f64 = float(LARGEST).range(0.0, 5000.0).step(0.01).round(false),
        sigma_min: f64 = float(SMALLEST).range(0.0, 5000.0).step(0.01).round(false),
        mu: f64 = float(0.0).range(-10.0, 10.0).step(0.1).round(false),
        beta: f64 = float(0.5).range(0.0, 10.0).step(0.1).round(false),
    }
}

impl Node<Services> for LaplaceScheduler {
    const CARD: Card = scheduler("LaplaceScheduler");
    type In = LaplaceSchedulerIn;
    type Out = (Sigmas,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let ends = [input.sigma_min, input.sigma_max];
        Ok((Sigmas(schedule::laplace(input.steps, ends, input.mu, input.beta)),))
    }
}

struct VPScheduler;

inputs! {
    struct VPSchedulerIn {
        steps: usize = int(20).range(1, 10000),
        beta_d: f64 = float(19.9).range(0.0, 5000.0).step(0.01).round(false),
        beta_min: f64 = float(0.1).range(0.0, 5000.0).step(0.01).round(false),
        eps_s: f64 = float(0.001).range(0.0, 1.0).step(0.0001).round(false),
    }
}

impl Node<Services> for VPScheduler {
    const CARD: Card = scheduler("VPScheduler");
    type In = VPSchedulerIn;
    type Out = (Sigmas,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let VPSchedulerIn { steps, beta_d, beta_min, eps_s } = input;
        Ok((Sigmas(schedule::variance_preserving(steps, beta_d, beta_min, eps_s)),))
    }
}

struct BetaSamplingScheduler;

inputs! {
    struct BetaSamplingSchedulerIn {
        model: Arc<Model> = socket(),
        steps: usize = int(20).range(1, 10000),
        alpha: f64 = float(0.6).range(0.0, 50.0).step(0.01).round(false),
        beta: f64 = float(0.6).range(0.0, 50.0).step(0.01).round(false),
    }
}

impl Node<Services> for BetaSamplingScheduler {
    const CARD: Card = scheduler("BetaSamplingScheduler");
    type In = BetaSamplingSchedulerIn;
    type Out = (Sigmas,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        if input.alpha <= 0.0 || input.beta <= 0.0 {
            return Err(NodeError::Refused(format!(
                "a beta distribution needs alpha and beta above 0, found {} and {}",
                input.alpha, input.beta
            )));
        }
        Ok((Sigmas(schedule::beta(input.model.flow(), input.steps, input.alpha, input.beta)),))
    }
}

struct SDTurboScheduler;

inputs! {
    struct SDTurboSchedulerIn {
        model: Arc<Model> = socket(),
        steps: usize = int(1).range(1, 10),
        denoise: f64 = float(1.0).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for SDTurboScheduler {
    const CARD: Card = scheduler("SDTurboScheduler");
    type In = SDTurboSchedulerIn;
    type Out = (Sigmas,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Sigmas(schedule::turbo(input.model.flow(), input.steps, input.denoise)),))
    }
}

choices! {
    #[expect(clippy::upper_case_acronyms, reason = "the names of the models")]
    enum TunedFor { SD1 = "SD1", SDXL = "SDXL", SVD = "SVD" }
}

impl TunedFor {
    /// Sabour et al. (2024): the sigmas they found for ten steps.
    fn ten_steps(self) -> [f64; 11] {
        match self {
            Self::SD1 => [
                14.614_641_229_3,
                6.474_576_095_6,
                3.863_674_598_5,
                2.694_615_152,
                1.884_192_117_7,
                1.394_380_509_2,
                0.964_258_390_4,
                0.652_368_601_6,
                0.397_745_627_2,
                0.151_523_266_2,
                0.029_167_158_2,
            ],
            Self::SDXL => [
                14.614_641_229_3,
                6.318_448_528_7,
                3.768_179_031_5,
                2.181_148_076_9,
                1.340_524_494_5,
                0.862_072_114_1,
                0.555_069_328_9,
                0.379_854_070_8,
                0.233_236_413_4,
                0.111_418_817_7,
                0.029_167_158_2,
            ],
            Self::SVD => [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002],
        }
    }
}

struct AlignYourStepsScheduler;

inputs! {
    struct AlignYourStepsSchedulerIn {
        model_type: TunedFor = choice().with("multiselect", false),
        steps: usize = int(10).range(1, 10000),
        denoise: f64 = float(1.0).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for AlignYourStepsScheduler {
    const CARD: Card = Card::new("AlignYourStepsScheduler", "", "sampling/custom_sampling/schedulers")
        .module("comfy_extras.nodes_align_your_steps")
        .schema();
    type In = AlignYourStepsSchedulerIn;
    type Out = (Sigmas,);

    /// Unlike elsewhere, a smaller `denoise` makes fewer steps.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let levels = input.model_type.ten_steps();
        Ok((Sigmas(schedule::end_of(&levels, input.steps, input.denoise)),))
    }
}

struct GITSScheduler;

inputs! {
    struct GITSSchedulerIn {
        coeff: f64 = float(1.2).range(0.8, 1.5).step(0.05),
        steps: usize = int(10).range(2, 1000),
        denoise: f64 = float(1.0).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for GITSScheduler {
    const CARD: Card = Card::new("GITSScheduler", "", "sampling/custom_sampling/schedulers")
        .module("comfy_extras.nodes_gits")
        .schema();
    type In = GITSSchedulerIn;
    type Out = (Sigmas,);

    /// Unlike elsewhere, a smaller `denoise` makes fewer steps.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        if input.denoise <= 0.0 {
            return Ok((Sigmas(Vec::new()),));
        }
        let known = gits::schedule(input.coeff, input.steps).ok_or_else(|| {
            NodeError::Refused(format!(
                "there is no schedule for a coeff of {}; it goes from 0.8 to 1.5 in steps of 0.05",
                input.coeff
            ))
        })?;
        let mut sigmas = schedule::log_linear(&known, input.steps + 1);
        let kept = (input.steps as f64 * input.denoise).round_ties_even() as usize;
        let mut sigmas = sigmas.split_off(input.steps - kept.min(input.steps));
        if let Some(last) = sigmas.last_mut() {
            *last = 0.0;
        }
        Ok((Sigmas(sigmas),))
    }
}

struct ManualSigmas;

inputs! {
    struct ManualSigmasIn {
        sigmas: String = text().default("1, 0.5").with("multiline", false),
    }
}

impl Node<Services> for ManualSigmas {
    const CARD: Card = Card::new("ManualSigmas", "", "_for_testing/custom_sampling")
        .about("The numbers in a text are the noise levels.")
        .module("comfy_extras.nodes_custom_sampler")
        .experimental()
        .schema();
    type In = ManualSigmasIn;
    type Out = (Sigmas,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+');
        let numbers = input.sigmas.split(|c| !is_part(c)).filter_map(|number| number.parse().ok());
        Ok((Sigmas(numbers.collect()),))
    }
}

struct SplitSigmas;

inputs! {
    struct SplitSigmasIn {
        sigmas: Arc<Sigmas> = socket(),
        step: usize = int(0).range(0, 10000),
    }
}

impl Node<Services> for SplitSigmas {
    const CARD: Card = operation("SplitSigmas").outputs(&["high_sigmas", "low_sigmas"]);
    type In = SplitSigmasIn;
    type Out = (Sigmas, Sigmas);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let sigmas = &input.sigmas.0;
        let high = &sigmas[..sigmas.len().min(input.step + 1)];
        let low = &sigmas[sigmas.len().min(input.step)..];
        Ok((Sigmas(high.to_vec()), Sigmas(low.to_vec())))
    }
}

struct SplitSigmasDenoise;

inputs! {
    struct SplitSigmasDenoiseIn {
        sigmas: Arc<Sigmas> = socket(),
        denoise: f64 = float(1.0).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for SplitSigmasDenoise {
    const CARD: Card = operation("SplitSigmasDenoise").outputs(&["high_sigmas", "low_sigmas"]);
    type In = SplitSigmasDenoiseIn;
    type Out = (Sigmas, Sigmas);

    /// The low part has the share `denoise` of the steps. Of 0 steps, ComfyUI's slice from the end leaves
    /// nothing of the high part either.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let sigmas = &input.sigmas.0;
        let steps = sigmas.len().saturating_sub(1);
        let low = (steps as f64 * input.denoise).round_ties_even() as usize;
        let high = if low == 0 { 0 } else { sigmas.len() - low };
        Ok((Sigmas(sigmas[..high].to_vec()), Sigmas(sigmas[sigmas.len().saturating_sub(low + 1)..].to_vec())))
    }
}

struct FlipSigmas;

inputs! {
    struct FlipSigmasIn {
        sigmas: Arc<Sigmas> = socket(),
    }
}

impl Node<Services> for FlipSigmas {
    const CARD: Card = operation("FlipSigmas");
    type In = FlipSigmasIn;
    type Out = (Sigmas,);

    /// A first sigma of 0 is raised a little: samplers divide by it.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let mut sigmas: Vec<f32> = input.sigmas.0.iter().rev().copied().collect();
        if let Some(first) = sigmas.first_mut().filter(|first| **first == 0.0) {
            *first = 0.0001;
        }
        Ok((Sigmas(sigmas),))
    }
}

struct SetFirstSigma;

inputs! {
    struct SetFirstSigmaIn {
        sigmas: Arc<Sigmas> = socket(),
        sigma: f64 = float(136.0).range(0.0, 20000.0).step(0.001).round(false),
    }
}

impl Node<Services> for SetFirstSigma {
    const CARD: Card = operation("SetFirstSigma");
    type In = SetFirstSigmaIn;
    type Out = (Sigmas,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let mut sigmas = input.sigmas.0.clone();
        let first = sigmas.first_mut().ok_or_else(|| {
            NodeError::Refused("there are no sigmas, so there is no first one to set".to_owned())
        })?;
        *first = input.sigma as f32;
        Ok((Sigmas(sigmas),))
    }
}

choices! {
    enum Spacing { Linear = "linear", Cosine = "cosine", Sine = "sine" }
}

struct ExtendIntermediateSigmas;

inputs! {
    struct ExtendIntermediateSigmasIn {
        sigmas: Arc<Sigmas> = socket(),
        steps: usize = int(2).range(1, 100),
        start_at_sigma: f64 = float(-1.0).range(-1.0, 20000.0).step(0.01).round(false),
        end_at_sigma: f64 = float(12.0).range(0.0, 20000.0).step(0.01).round(false),
        spacing: Spacing = choice(),
    }
}

impl Node<Services> for ExtendIntermediateSigmas {
    const CARD: Card = operation("ExtendIntermediateSigmas");
    type In = ExtendIntermediateSigmasIn;
    type Out = (Sigmas,);

    /// Each step that begins between the two sigmas becomes `steps` steps.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let start = if input.start_at_sigma < 0.0 { f64::INFINITY } else { input.start_at_sigma };
        let quarter = std::f32::consts::FRAC_PI_2;
        let place = |share: f32| match input.spacing {
            Spacing::Linear => share,
            Spacing::Cosine => (share * quarter).sin(),
            Spacing::Sine => 1.0 - (share * quarter).cos(),
        };
        let mut extended = Vec::new();
        for pair in input.sigmas.0.windows(2) {
            extended.push(pair[0]);
            if input.end_at_sigma <= pair[0].into() && f64::from(pair[0]) <= start {
                let shares = (1..input.steps).map(|step| step as f32 / input.steps as f32);
                extended.extend(shares.map(|share| place(share) * (pair[1] - pair[0]) + pair[0]));
            }
        }
        extended.extend(input.sigmas.0.last());
        Ok((Sigmas(extended),))
    }
}

struct SamplingPercentToSigma;

inputs! {
    struct SamplingPercentToSigmaIn {
        model: Arc<Model> = socket(),
        sampling_percent: f64 = float(0.0).range(0.0, 1.0).step(0.0001),
        return_actual_sigma: bool = boolean(false)
            .tooltip("At 0 and 1: the largest and the smallest sigma of the model, not 1 and 0."),
    }
}

impl Node<Services> for SamplingPercentToSigma {
    const CARD: Card = operation("SamplingPercentToSigma").outputs(&["sigma_value"]);
    type In = SamplingPercentToSigmaIn;
    type Out = (f64,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let flow = input.model.flow();
        let (smallest, largest) = flow.range();
        let sigma = match input.sampling_percent {
            percent if input.return_actual_sigma && percent <= 0.0 => largest.into(),
            percent if input.return_actual_sigma && percent >= 1.0 => smallest.into(),
            percent => flow.at_percent(percent),
        };
        Ok((sigma,))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_linear_interpolation_keeps_its_ends_and_its_own_places() {
        let ten = TunedFor::SD1.ten_steps();
        let same = schedule::log_linear(&ten, 11);
        assert!(same.iter().zip(ten).all(|(found, known)| (f64::from(*found) - known).abs() < 1e-6));
        let twenty = schedule::log_linear(&ten, 21);
        assert_eq!((twenty[0], twenty[20]), (same[0], same[10]));
        assert!((twenty[1] - (same[0] * same[1]).sqrt()).abs() < 1e-4);
    }
}
