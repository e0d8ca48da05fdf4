//! Which sigmas a run visits: the schedules by name, and the rules of steps and denoise.
//!
//! Owns the map between t, percent and sigma of a [`Flow`]. Knows no samplers and no tensors. Sigmas
//! are f32, as they are in ComfyUI.

mod beta;

use crate::model::Flow;

pub use beta::beta_quantile;

/// Makes the sigmas of a number of steps, falling, the last one 0.
pub type ScheduleFn = fn(Flow, usize) -> Vec<f32>;

/// Every schedule, in the order of ComfyUI's list.
pub const SCHEDULES: &[(&str, ScheduleFn)] = &[
    ("simple", simple),
    ("sgm_uniform", sgm_uniform),
    ("karras", |flow, steps| {
        let (smallest, largest) = flow.range();
        karras(steps, smallest.into(), largest.into(), 7.0)
    }),
    ("exponential", |flow, steps| {
        let (smallest, largest) = flow.range();
        exponential(steps, smallest.into(), largest.into())
    }),
    ("ddim_uniform", ddim_uniform),
    ("beta", |flow, steps| beta(flow, steps, 0.6, 0.6)),
    ("normal", normal),
    ("linear_quadratic", linear_quadratic),
    ("kl_optimal", kl_optimal),
];

/// Below this a schedule counts as ending at 0 by itself.
const PRACTICALLY_ZERO: f32 = 1e-5;

impl Flow {
    /// Sigma for t in (0, 1].
    pub fn sigma(self, t: f32) -> f32 {
        match self {
            Self::Exponential { mu } => {
                let e = mu.exp() as f32;
                1.0 / (e + (1.0 / t - 1.0)) * e
            }
            Self::Discrete { shift, .. } => {
                let less = (shift - 1.0) as f32;
                shift as f32 * t / (1.0 + less * t)
            }
        }
    }

    /// Sigma after `percent` (0 to 1) of the way from noise to picture.
    pub fn at_percent(self, percent: f64) -> f64 {
        let t = (1.0 - percent).clamp(0.0, 1.0);
        match self {
            _ if t <= 0.0 => 0.0,
            Self::Exponential { mu } => mu.exp() / (mu.exp() + (1.0 / t - 1.0)),
            Self::Discrete { shift, .. } => shift * t / (1.0 + (shift - 1.0) * t),
        }
    }

    /// What the network is told at a sigma.
    pub fn timestep(self, sigma: f64) -> f64 {
        match self {
            Self::Exponential { .. } => sigma,
            Self::Discrete { multiplier, .. } => multiplier * sigma,
        }
    }

    /// The sigmas the schedules choose from, rising.
    pub fn table(self) -> Vec<f32> {
        let entries = match self {
            Self::Exponential { .. } => 10_000,
            Self::Discrete { .. } => 1_000,
        };
        (1..=entries).map(|i| self.sigma(i as f32 / entries as f32)).collect()
    }

    /// The smallest sigma of the table.
    pub fn smallest_sigma(self) -> f32 {
        self.range().0
    }

    /// The first and the last sigma of the table.
    pub fn range(self) -> (f32, f32) {
        let table = self.table();
        (table[0], table[table.len() - 1])
    }
}

/// The schedule behind a name of [`SCHEDULES`].
pub fn find(name: &str) -> Option<ScheduleFn> {
    SCHEDULES.iter().find(|(known, _)| *known == name).map(|(_, schedule)| *schedule)
}

/// The last `steps` steps of the schedule that `denoise` below 1 makes longer. No sigmas at all for 0.
pub fn tail(make: impl Fn(usize) -> Vec<f32>, steps: usize, denoise: f64) -> Vec<f32> {
    const WHOLE: f64 = 0.9999;
    if denoise > WHOLE {
        return make(steps);
    }
    if denoise <= 0.0 {
        return Vec::new();
    }
    let mut sigmas = make((steps as f64 / denoise) as usize);
    sigmas.split_off(sigmas.len().saturating_sub(steps + 1))
}

/// The part of a run from step `start` to step `end`. With `finish` the last sigma becomes 0, so no
/// noise is left over. Empty when no step remains.
pub fn window(sigmas: &[f32], start: usize, end: usize, finish: bool) -> Vec<f32> {
    let mut part = sigmas.to_vec();
    if end + 1 < part.len() {
        part.truncate(end + 1);
        if finish && let Some(last) = part.last_mut() {
            *last = 0.0;
        }
    }
    if start + 1 < part.len() { part.split_off(start) } else { Vec::new() }
}

fn simple(flow: Flow, steps: usize) -> Vec<f32> {
    let table = flow.table();
    let stride = table.len() as f64 / steps as f64;
    let chosen = (0..steps).map(|step| table[table.len() - 1 - (step as f64 * stride) as usize]);
    chosen.chain([0.0]).collect()
}

/// As [`normal`], without the last sigma of the table.
fn sgm_uniform(flow: Flow, steps: usize) -> Vec<f32> {
    evenly_spaced(flow, steps + 1).take(steps).chain([0.0]).collect()
}

fn normal(flow: Flow, steps: usize) -> Vec<f32> {
    let (smallest, _) = flow.range();
    if flow.sigma(smallest) < PRACTICALLY_ZERO {
        return evenly_spaced(flow, steps + 1).collect();
    }
    evenly_spaced(flow, steps).chain([0.0]).collect()
}

/// Sigmas at even distances, then shifted a second time: ComfyUI takes the timestep, a sigma, for a t.
fn evenly_spaced(flow: Flow, count: usize) -> impl Iterator<Item = f32> {
    let (smallest, largest) = flow.range();
    let unit = flow.timestep(1.0) as f32;
    linspace(largest * unit, smallest * unit, count).map(move |timestep| flow.sigma(timestep / unit))
}

/// May visit more sigmas than asked: the stride through the table is rounded down.
fn ddim_uniform(flow: Flow, steps: usize) -> Vec<f32> {
    let table = flow.table();
    let ends_at_zero = table[1] < PRACTICALLY_ZERO;
    let stride = (table.len() / (steps + usize::from(ends_at_zero)).max(1)).max(1);
    let zero = (!ends_at_zero).then_some(0.0);
    let mut sigmas: Vec<f32> = zero.into_iter().chain(table[1..].iter().copied().step_by(stride)).collect();
    sigmas.reverse();
    sigmas
}

/// Karras et al. (2022), equation 5.
pub fn karras(steps: usize, smallest: f64, largest: f64, rho: f64) -> Vec<f32> {
    let (low, high) = (smallest.powf(rho.recip()), largest.powf(rho.recip()));
    let ramp = linspace(0.0, 1.0, steps).map(|x| (high as f32 + x * (low - high) as f32).powf(rho as f32));
    ramp.chain([0.0]).collect()
}

/// Evenly spaced logarithms.
pub fn exponential(steps: usize, smallest: f64, largest: f64) -> Vec<f32> {
    linspace(largest.ln() as f32, smallest.ln() as f32, steps).map(f32::exp).chain([0.0]).collect()
}

/// Logarithms spaced by a power of the step.
pub fn polyexponential(steps: usize, smallest: f64, largest: f64, rho: f64) -> Vec<f32> {
    let (low, high) = (smallest.ln(), largest.ln());
    let sigma = |t: f32| (t.powf(rho as f32) * (high - low) as f32 + low as f32).exp();
    linspace(1.0, 0.0, steps).map(sigma).chain([0.0]).collect()
}

/// Evenly spaced quantiles of a Laplace distribution over the logarithm, cut to the ends
/// `[smallest, largest]` (Hang et al., 2024). It does not end at 0.
pub fn laplace(steps: usize, [smallest, largest]: [f64; 2], mu: f64, beta: f64) -> Vec<f32> {
    /// ComfyUI's, to keep the logarithm finite.
    const EPSILON: f32 = 1e-5;
    let quantile = |x: f32| {
        let side = 0.5 - x;
        let sign = if side == 0.0 { 0.0 } else { side.signum() };
        mu as f32 - beta as f32 * sign * (1.0 - 2.0 * side.abs() + EPSILON).ln()
    };
    let cut = |sigma: f32| sigma.max(smallest as f32).min(largest as f32);
    linspace(0.0, 1.0, steps).map(|x| cut(quantile(x).exp())).collect()
}

/// Evenly spaced times of a diffusion that keeps its variance (Song et al., 2021).
pub fn variance_preserving(steps: usize, beta_d: f64, beta_min: f64, last: f64) -> Vec<f32> {
    let sigma = |t: f32| (beta_d as f32 * t * t / 2.0 + beta_min as f32 * t).exp_m1().sqrt();
    linspace(1.0, last as f32, steps).map(sigma).chain([0.0]).collect()
}

/// The last of ten timesteps 999, 899, ..., 99, as SD-Turbo was trained with. `denoise` leaves out the first
/// of them. A flow whose timesteps are not of that range has no sensible sigmas for them, in ComfyUI neither.
pub fn turbo(flow: Flow, steps: usize, denoise: f64) -> Vec<f32> {
    let unit = flow.timestep(1.0) as f32;
    let first = 10 - (10.0 * denoise) as usize;
    let timesteps = (1..=10).rev().map(|tenth| (tenth * 100 - 1) as f32).skip(first).take(steps);
    timesteps.map(|timestep| flow.sigma(timestep / unit)).chain([0.0]).collect()
}

/// The last `denoise` of so many steps along a row of levels, and then 0.
pub fn end_of(levels: &[f64], steps: usize, denoise: f64) -> Vec<f32> {
    if denoise <= 0.0 {
        return Vec::new();
    }
    let kept = (steps as f64 * denoise.min(1.0)).round_ties_even() as usize;
    let mut sigmas = log_linear(levels, steps + 1).split_off(steps - kept);
    if let Some(last) = sigmas.last_mut() {
        *last = 0.0;
    }
    sigmas
}

/// `count` sigmas on the lines between the logarithms of falling ones.
pub fn log_linear(sigmas: &[f64], count: usize) -> Vec<f32> {
    let span = (sigmas.len() - 1) as f64;
    let at = |index: usize| {
        // Counted from the smallest, as ComfyUI does.
        let place = span * (count - 1 - index) as f64 / (count.max(2) - 1) as f64;
        let below = (place as usize).min(sigmas.len().saturating_sub(2));
        let known = |place: usize| sigmas[sigmas.len() - 1 - place].ln();
        let (low, high) = (known(below), known(below + 1));
        (low + (high - low) * (place - below as f64)).exp() as f32
    };
    (0..count).map(at).collect()
}

/// Places of the table spread as a beta distribution (Lee et al., 2024); places hit twice count once.
pub fn beta(flow: Flow, steps: usize, alpha: f64, beta: f64) -> Vec<f32> {
    let table = flow.table();
    let last = table.len() - 1;
    let mut places: Vec<usize> = (0..steps)
        .map(|step| beta_quantile(1.0 - step as f64 / steps as f64, alpha, beta))
        .map(|quantile| (quantile * last as f64).round_ties_even() as usize)
        .collect();
    places.dedup();
    places.into_iter().map(|place| table[place.min(last)]).chain([0.0]).collect()
}

/// A straight line through the first half of the steps, up to 0.025, with a parabola added in the
/// second half that reaches 1; counted down from the largest sigma. From the Mochi video model.
fn linear_quadratic(flow: Flow, steps: usize) -> Vec<f32> {
    const REACHED: f64 = 0.025;
    let (_, largest) = flow.range();
    if steps == 1 {
        return vec![largest, 0.0];
    }
    let straight = (steps / 2) as f64;
    let curved = steps as f64 - straight;
    let curvature = (straight - REACHED * steps as f64) / (straight * curved * curved);
    let value = |step: usize| {
        let step = step as f64;
        REACHED * step / straight + curvature * (step - straight).max(0.0).powi(2)
    };
    (0..steps).map(|step| (1.0 - value(step)) as f32 * largest).chain([0.0]).collect()
}

/// Evenly spaced arc tangents (Sabour et al., 2024). One step has no spacing and gives NaN, in
/// ComfyUI too; a run refuses it.
fn kl_optimal(flow: Flow, steps: usize) -> Vec<f32> {
    let (smallest, largest) = flow.range();
    let (low, high) = (f64::from(smallest).atan() as f32, f64::from(largest).atan() as f32);
    let share = |step: usize| step as f32 / (steps as f32 - 1.0);
    (0..steps).map(|step| (share(step) * low + (1.0 - share(step)) * high).tan()).chain([0.0]).collect()
}

/// `count` evenly spaced values, counted from both ends towards the middle as torch does.
fn linspace(from: f32, to: f32, count: usize) -> impl Iterator<Item = f32> {
    let step = (to - from) / (count.max(2) - 1) as f32;
    (0..count).map(move |i| {
        let near = i < count.max(2) / 2;
        if near { step.mul_add(i as f32, from) } else { (-step).mul_add((count - 1 - i) as f32, to) }
    })
}
