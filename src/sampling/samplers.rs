//! The samplers by name, and what each of them works with.
//!
//! A sampler is a function from a noisy latent to a clean one that can be read beside its paper. In
//! all of them `s` and `n` are the sigmas a step goes from and to, `D` is the clean estimate at `s`, and
//! `d = (x - D) / s` the slope. Guidance, masks and networks hide behind [`Denoise`].

mod brownian;
mod dpm_solver;
mod dpmpp;
mod dpmpp_sde;
mod euler;
mod heun;
mod multistep;
mod res;
mod sa_solver;
mod seeds;
mod tuned;
mod uni_pc;

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::schedule::{self, ScheduleFn};
use super::{Noise, Result};
use crate::model::Flow;

pub use dpm_solver::Adaptive;
pub use dpmpp_sde::Correction;
pub use euler::Growth;
pub use sa_solver::StochasticAdams;
pub use seeds::{ErSde, NoiseScale};

/// A noisy latent in, a clean estimate out.
pub trait Denoise {
    /// The clean estimate of `x` at a sigma.
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor>;

    /// The clean estimate, and the one without guidance beside it, for the samplers of CFG++.
    fn denoise_both(&mut self, x: &Tensor, sigma: f64) -> Result<Estimates>;

    /// The schedule the model was trained with.
    fn flow(&self) -> Flow;
}

/// A clean estimate with and without guidance.
pub struct Estimates {
    pub guided: Tensor,
    pub unguided: Tensor,
}

/// What a sampler tells after it asked the model at a step's sigma.
pub struct Watched<'a> {
    /// From 0. An adaptive sampler may go beyond `total`.
    pub index: usize,
    pub total: usize,
    /// The clean estimate, normalised: (batch, channels, frames, h, w).
    pub denoised: &'a Tensor,
}

/// Called at every step; an error ends the run.
pub type Watch<'a> = dyn FnMut(Watched<'_>) -> Result<()> + 'a;

pub type SampleFn = fn(&mut Sampling<'_>, Tensor) -> Result<Tensor>;

type TunedFn = dyn Fn(&mut Sampling<'_>, Tensor) -> Result<Tensor> + Send + Sync;

/// A way from noise to picture: one of the list, or one of them with other settings.
#[derive(Clone)]
pub struct Sampler {
    pub name: &'static str,
    method: Method,
    /// Evaluates between sigmas, so its schedule leaves out the second-to-last.
    skips_second_to_last: bool,
    /// What a mask protects is noised with numbers of its own instead of the initial noise.
    pub(super) fresh_mask_noise: bool,
}

#[derive(Clone)]
enum Method {
    Listed(SampleFn),
    Tuned(Arc<TunedFn>),
}

impl Sampler {
    const fn new(name: &'static str, run: SampleFn) -> Self {
        Self { name, method: Method::Listed(run), skips_second_to_last: false, fresh_mask_noise: false }
    }

    /// From a noisy latent to a clean one.
    pub fn run(&self, run: &mut Sampling<'_>, x: Tensor) -> Result<Tensor> {
        match &self.method {
            Method::Listed(method) => method(run, x),
            Method::Tuned(method) => method(run, x),
        }
    }

    const fn skipping_second_to_last(mut self) -> Self {
        self.skips_second_to_last = true;
        self
    }

    const fn with_fresh_mask_noise(mut self) -> Self {
        self.fresh_mask_noise = true;
        self
    }

    /// The sampler behind a name of [`SAMPLERS`].
    pub fn find(name: &str) -> Option<Self> {
        SAMPLERS.iter().find(|sampler| sampler.name == name).cloned()
    }

    /// The sigmas of a `KSampler`: `denoise` below 1 keeps the last `steps` steps of a longer schedule.
    /// No sigmas at all for a `denoise` of 0: nothing is to be done.
    pub fn sigmas(&self, flow: Flow, schedule: ScheduleFn, steps: usize, denoise: f64) -> Vec<f32> {
        let make = |steps| {
            if !self.skips_second_to_last {
                return schedule(flow, steps);
            }
            let mut sigmas = schedule(flow, steps + 1);
            sigmas.remove(sigmas.len().saturating_sub(2));
            sigmas
        };
        schedule::tail(make, steps, denoise)
    }
}

/// Every sampler, in the order of ComfyUI's list. The `_gpu` forms differ there in where their noise is
/// drawn; here it is the same on every device.
pub const SAMPLERS: &[Sampler] = &[
    Sampler::new("euler", euler::euler),
    Sampler::new("euler_cfg_pp", |run, x| euler::euler_cfg_pp(run, x, Stochastic::NONE)),
    Sampler::new("euler_ancestral", |run, x| euler::euler_ancestral(run, x, Stochastic::FULL)),
    Sampler::new("euler_ancestral_cfg_pp", |run, x| euler::euler_cfg_pp(run, x, Stochastic::FULL)),
    Sampler::new("heun", heun::heun),
    Sampler::new("heunpp2", heun::heunpp2),
    Sampler::new("dpm_2", heun::dpm_2).skipping_second_to_last(),
    Sampler::new("dpm_2_ancestral", heun::dpm_2_ancestral).skipping_second_to_last(),
    Sampler::new("lms", |run, x| multistep::lms(run, x, 4)),
    Sampler::new("dpm_fast", dpm_solver::dpm_fast),
    Sampler::new("dpm_adaptive", |run, x| dpm_solver::dpm_adaptive(run, x, Adaptive::DEFAULT)),
    Sampler::new("dpmpp_2s_ancestral", |run, x| dpmpp::dpmpp_2s_ancestral(run, x, Stochastic::FULL)),
    Sampler::new("dpmpp_2s_ancestral_cfg_pp", dpmpp::dpmpp_2s_ancestral_cfg_pp),
    Sampler::new("dpmpp_sde", |run, x| dpmpp_sde::dpmpp_sde(run, x, Stochastic::FULL, 0.5)),
    Sampler::new("dpmpp_sde_gpu", |run, x| dpmpp_sde::dpmpp_sde(run, x, Stochastic::FULL, 0.5)),
    Sampler::new("dpmpp_2m", dpmpp::dpmpp_2m),
    Sampler::new("dpmpp_2m_cfg_pp", dpmpp::dpmpp_2m_cfg_pp),
    Sampler::new("dpmpp_2m_sde", |run, x| {
        dpmpp_sde::dpmpp_2m_sde(run, x, Stochastic::FULL, Correction::Midpoint)
    }),
    Sampler::new("dpmpp_2m_sde_gpu", |run, x| {
        dpmpp_sde::dpmpp_2m_sde(run, x, Stochastic::FULL, Correction::Midpoint)
    }),
    Sampler::new("dpmpp_2m_sde_heun", |run, x| {
        dpmpp_sde::dpmpp_2m_sde(run, x, Stochastic::FULL, Correction::Heun)
    }),
    Sampler::new("dpmpp_2m_sde_heun_gpu", |run, x| {
        dpmpp_sde::dpmpp_2m_sde(run, x, Stochastic::FULL, Correction::Heun)
    }),
    Sampler::new("dpmpp_3m_sde", |run, x| dpmpp_sde::dpmpp_3m_sde(run, x, Stochastic::FULL)),
    Sampler::new("dpmpp_3m_sde_gpu", |run, x| dpmpp_sde::dpmpp_3m_sde(run, x, Stochastic::FULL)),
    Sampler::new("ddpm", euler::ddpm),
    Sampler::new("lcm", euler::lcm),
    Sampler::new("ipndm", multistep::ipndm),
    Sampler::new("ipndm_v", multistep::ipndm_v),
    Sampler::new("deis", multistep::deis),
    Sampler::new("res_multistep", res::res_multistep),
    Sampler::new("res_multistep_cfg_pp", res::res_multistep_cfg_pp),
    Sampler::new("res_multistep_ancestral", res::res_multistep_ancestral),
    Sampler::new("res_multistep_ancestral_cfg_pp", res::res_multistep_ancestral_cfg_pp),
    Sampler::new("gradient_estimation", euler::gradient_estimation),
    Sampler::new("gradient_estimation_cfg_pp", euler::gradient_estimation_cfg_pp),
    Sampler::new("er_sde", |run, x| seeds::er_sde(run, x, ErSde::DEFAULT)),
    Sampler::new("seeds_2", seeds::seeds_2),
    Sampler::new("seeds_3", seeds::seeds_3),
    Sampler::new("sa_solver", |run, x| {
        sa_solver::sa_solver(run, x, &StochasticAdams::of(run.model.flow(), false))
    }),
    Sampler::new("sa_solver_pece", |run, x| {
        sa_solver::sa_solver(run, x, &StochasticAdams::of(run.model.flow(), true))
    }),
    Sampler::new("ddim", euler::euler).with_fresh_mask_noise(),
    Sampler::new("uni_pc", uni_pc::uni_pc).skipping_second_to_last(),
    Sampler::new("uni_pc_bh2", uni_pc::uni_pc_bh2).skipping_second_to_last(),
];

/// The noise of a stochastic sampler.
#[derive(Clone, Copy, Debug)]
pub struct Stochastic {
    /// How much of each step is walked back up with new noise; 0 is none of it.
    pub eta: f64,
    /// A factor to the noise that is added.
    pub s_noise: f64,
}

impl Stochastic {
    pub const FULL: Self = Self { eta: 1.0, s_noise: 1.0 };
    pub const NONE: Self = Self { eta: 0.0, s_noise: 0.0 };

    fn adds_noise(self) -> bool {
        self.eta > 0.0 && self.s_noise > 0.0
    }
}

/// One run of a sampler.
pub struct Sampling<'a> {
    pub model: &'a mut dyn Denoise,
    pub sigmas: &'a [f64],
    pub seed: u64,
    pub watch: &'a mut Watch<'a>,
}

/// From one sigma to the next.
#[derive(Clone, Copy, Debug)]
struct Step {
    index: usize,
    /// The sigma it starts at.
    s: f64,
    /// The sigma it goes to.
    n: f64,
}

impl Step {
    /// Whether it ends without noise.
    fn is_last(self) -> bool {
        self.n == 0.0
    }
}

fn steps(sigmas: &[f64]) -> impl Iterator<Item = Step> {
    sigmas.windows(2).enumerate().map(|(index, pair)| Step { index, s: pair[0], n: pair[1] })
}

impl Sampling<'_> {
    /// Asks the model at the sigma a step starts at, and tells the watcher.
    fn visit(&mut self, step: Step, x: &Tensor) -> Result<Tensor> {
        let denoised = self.model.denoise(x, step.s)?;
        self.report(step.index, &denoised)?;
        Ok(denoised)
    }

    /// As [`Sampling::visit`], with the estimate without guidance beside.
    fn visit_both(&mut self, step: Step, x: &Tensor) -> Result<Estimates> {
        let estimates = self.model.denoise_both(x, step.s)?;
        self.report(step.index, &estimates.guided)?;
        Ok(estimates)
    }

    fn report(&mut self, index: usize, denoised: &Tensor) -> Result<()> {
        (self.watch)(Watched { index, total: self.sigmas.len().saturating_sub(1), denoised })
    }

    /// Asks the model between steps; nobody is told.
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.model.denoise(x, sigma)
    }

    fn denoise_both(&mut self, x: &Tensor, sigma: f64) -> Result<Estimates> {
        self.model.denoise_both(x, sigma)
    }

    /// The slope at a point between steps.
    fn slope(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        slope(x, &self.denoise(x, sigma)?, sigma)
    }

    /// The sigmas, with a first one of pure noise moved a little: its signal-to-noise ratio has no
    /// logarithm.
    fn snr_sigmas(&self) -> Vec<f64> {
        const MOVED: f64 = 1e-4;
        let mut sigmas = self.sigmas.to_vec();
        if let [first, _, ..] = &mut sigmas[..]
            && *first >= 1.0
        {
            // As the F32 it is there: so near to 1, the ratio feels the rounding.
            *first = f64::from(self.model.flow().at_percent(MOVED) as f32);
        }
        sigmas
    }

    /// The noise an ancestral sampler adds. It begins with the seed again, so the first draw is the
    /// noise the run started from, as in ComfyUI.
    fn fresh_noise(&self, x: &Tensor) -> FreshNoise {
        FreshNoise { noise: Noise::new(self.seed), shape: x.dims().to_vec(), device: x.device().clone() }
    }
}

/// Tensors of noise of one shape, one after the other.
struct FreshNoise {
    noise: Noise,
    shape: Vec<usize>,
    device: Device,
}

impl FreshNoise {
    fn draw(&mut self) -> Result<Tensor> {
        Ok(self.noise.draw(&self.shape, &self.device)?)
    }

    /// A draw of another shape.
    fn draw_like(&mut self, x: &Tensor) -> Result<Tensor> {
        Ok(self.noise.draw(x.dims(), &self.device)?)
    }
}

/// How an ancestral step of a rectified flow is split: down to a smaller sigma, then shrunk and
/// noised up to the sigma of the step.
struct Renoise {
    down: f64,
    keep: f64,
    add: f64,
}

impl Renoise {
    fn new(step: Step, eta: f64) -> Self {
        let down = step.n * (1.0 + (step.n / step.s - 1.0) * eta);
        let keep = (1.0 - step.n) / (1.0 - down);
        Self { down, keep, add: (step.n * step.n - (down * keep).powi(2)).sqrt() }
    }
}

/// How an ancestral step is split where the signal keeps its strength: the sigma to go down to, and
/// the deviation of the noise to add.
fn ancestral_step(from: f64, to: f64, eta: f64) -> (f64, f64) {
    if eta == 0.0 {
        return (to, 0.0);
    }
    // From pure noise, whose ratio to the signal is infinite, ComfyUI's formula has no number, and its minimum
    // takes the other side, whatever eta is.
    let share = if from.is_finite() { eta * (1.0 - (to / from).powi(2)).sqrt() } else { 1.0 };
    let up = to * share.min(1.0);
    ((to * to - up * up).sqrt(), up)
}

/// lambda = ln(alpha / sigma) with alpha = 1 - sigma: half the log signal-to-noise ratio.
fn half_log_snr(sigma: f64) -> f64 {
    ((1.0 - sigma) / sigma).ln()
}

/// The sigma of a lambda.
fn sigma_of(half_log_snr: f64) -> f64 {
    1.0 / (1.0 + half_log_snr.exp())
}

/// The slope d = (x - D) / sigma.
fn slope(x: &Tensor, denoised: &Tensor, sigma: f64) -> Result<Tensor> {
    Ok(((x - denoised)? / sigma)?)
}

/// The sum of tensors, each with its factor.
fn mix<'t>(terms: impl IntoIterator<Item = (f64, &'t Tensor)>) -> Result<Tensor> {
    let mut terms = terms.into_iter().map(|(factor, tensor)| tensor.affine(factor, 0.0));
    let first = terms.next().unwrap_or_else(|| candle_core::bail!("a sum needs a term"))?;
    Ok(terms.try_fold(first, |sum, term| sum + term?)?)
}

/// Solves a small system of linear equations, given by rows; `None` if it has no single solution.
fn solve(mut rows: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let count = right.len();
    for column in 0..count {
        let pivot =
            (column..count).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()))?;
        if rows[pivot][column] == 0.0 {
            return None;
        }
        rows.swap(column, pivot);
        right.swap(column, pivot);
        let (known, known_right) = (rows[column].clone(), right[column]);
        for row in (0..count).filter(|row| *row != column) {
            let factor = rows[row][column] / known[column];
            for (value, known) in rows[row].iter_mut().zip(&known) {
                *value -= factor * known;
            }
            right[row] -= factor * known_right;
        }
    }
    Some((0..count).map(|row| right[row] / rows[row][row]).collect())
}
