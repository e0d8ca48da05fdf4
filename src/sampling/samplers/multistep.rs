//! Methods that remember the slopes of earlier steps: Adams-Bashforth in several forms.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::{Sampling, Step, mix, slope, steps};
use crate::sampling::Result;

/// The slopes of the last steps, the newest first.
struct Slopes {
    slopes: VecDeque<Tensor>,
    most: usize,
}

impl Slopes {
    fn at_most(most: usize) -> Self {
        Self { slopes: VecDeque::new(), most }
    }

    fn push(&mut self, slope: Tensor) {
        self.slopes.push_front(slope);
        self.slopes.truncate(self.most);
    }

    fn len(&self) -> usize {
        self.slopes.len()
    }

    /// `x` plus the slopes, each with its factor.
    fn advance(&self, x: &Tensor, factors: &[f64]) -> Result<Tensor> {
        let slopes = factors.iter().copied().zip(&self.slopes);
        mix(std::iter::once((1.0, x)).chain(slopes))
    }
}

/// Linear multistep: the polynomial through as many slopes as `order` says, integrated.
pub fn lms(run: &mut Sampling<'_>, mut x: Tensor, order: usize) -> Result<Tensor> {
    let sigmas = run.sigmas;
    let mut slopes = Slopes::at_most(order);
    for step in steps(sigmas) {
        let denoised = run.visit(step, &x)?;
        slopes.push(slope(&x, &denoised, step.s)?);
        x = if step.is_last() {
            denoised
        } else {
            let known: Vec<f64> = sigmas[..=step.index].iter().rev().take(slopes.len()).copied().collect();
            let factors: Vec<f64> = (0..known.len()).map(|j| lagrange_integral(&known, j, step)).collect();
            slopes.advance(&x, &factors)?
        };
    }
    Ok(x)
}

/// The integral over a step of the polynomial that is 1 at `known[j]` and 0 at the other places.
fn lagrange_integral(known: &[f64], j: usize, step: Step) -> f64 {
    // Two points of Gauss are exact up to the third degree, that is for four slopes.
    let pieces = if known.len() <= 4 { 1 } else { 64 };
    let half = 0.5 * (step.n - step.s) / f64::from(pieces);
    let offset = half / 3.0_f64.sqrt();
    let piece = |index| {
        let middle = step.s + half * f64::from(2 * index + 1);
        half * (lagrange(known, j, middle - offset) + lagrange(known, j, middle + offset))
    };
    (0..pieces).map(piece).sum()
}

/// The polynomial that is 1 at `known[j]` and 0 at the other places.
fn lagrange(known: &[f64], j: usize, at: f64) -> f64 {
    let others = known.iter().enumerate().filter(|(k, _)| *k != j);
    others.map(|(_, other)| (at - other) / (known[j] - other)).product()
}

/// Improved pseudo numerical methods (Zhang and Chen, 2023): Adams-Bashforth for even steps.
pub fn ipndm(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    const WEIGHTS: [&[f64]; 4] = [
        &[1.0],
        &[3.0 / 2.0, -1.0 / 2.0],
        &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
        &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    ];
    let mut slopes = Slopes::at_most(4);
    for step in steps(run.sigmas) {
        let denoised = run.visit(step, &x)?;
        slopes.push(slope(&x, &denoised, step.s)?);
        x = if step.is_last() {
            denoised
        } else {
            let factors: Vec<f64> =
                WEIGHTS[slopes.len() - 1].iter().map(|weight| weight * (step.n - step.s)).collect();
            slopes.advance(&x, &factors)?
        };
    }
    Ok(x)
}

/// The same for uneven steps, as its authors' code has it: above the second order these are not quite
/// the weights of Adams-Bashforth.
pub fn ipndm_v(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let sigmas = run.sigmas;
    let mut slopes = Slopes::at_most(4);
    for step in steps(sigmas) {
        let denoised = run.visit(step, &x)?;
        slopes.push(slope(&x, &denoised, step.s)?);
        x = if step.is_last() {
            denoised
        } else {
            // The step ahead and those behind, the newest first.
            let behind = sigmas[..=step.index].windows(2).rev().map(|pair| pair[1] - pair[0]);
            let gaps: Vec<f64> = std::iter::once(step.n - step.s).chain(behind).take(slopes.len()).collect();
            let factors = uneven_weights(&gaps).map(|weight| weight * gaps[0]);
            slopes.advance(&x, &factors[..slopes.len()])?
        };
    }
    Ok(x)
}

fn uneven_weights(gaps: &[f64]) -> [f64; 4] {
    let mut weights = [1.0, 0.0, 0.0, 0.0];
    let &[h0, h1, ..] = gaps else { return weights };
    weights[0] += 0.5 * h0 / h1;
    weights[1] -= 0.5 * h0 / h1;
    let &[_, _, h2, ..] = gaps else { return weights };
    let (h01, h12) = (h0 + h1, h1 + h2);
    let third = 0.5 * (1.0 - h0 / (3.0 * h01) * (h0 * h01) / (h1 * h12));
    weights[0] += third;
    weights[1] -= (1.0 + h1 / h2) * third;
    weights[2] += h1 / h2 * third;
    let &[_, _, _, h3] = gaps else { return weights };
    let (h012, h123) = (h01 + h2, h12 + h3);
    let share = 0.5 * (1.0 - h0 / (3.0 * h01)) + (1.0 - h0 / (2.0 * h01)) * h0 / (6.0 * h012);
    let fourth = share * (h0 * h01 * h012) / (h1 * h12 * h123);
    let ratio = h1 * h12 / (h2 * (h2 + h3));
    weights[0] += fourth;
    weights[1] -= (1.0 + h1 / h2 + ratio) * fourth;
    weights[2] += (h1 / h2 + ratio * (1.0 + h2 / h3)) * fourth;
    weights[3] -= ratio * h1 / h2 * fourth;
    weights
}

/// Zhang and Chen (2023), "tab" form of order 3: the polynomial through the slopes in the time of a
/// variance-preserving diffusion, weighted and integrated.
pub fn deis(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let diffusion = VariancePreserving::edm();
    let sigmas = run.sigmas;
    let times: Vec<f64> = sigmas.iter().map(|sigma| diffusion.time(*sigma)).collect();
    let mut slopes = Slopes::at_most(3);
    for step in steps(sigmas) {
        let denoised = run.visit(step, &x)?;
        slopes.push(slope(&x, &denoised, step.s)?);
        x = if slopes.len() == 1 || step.is_last() {
            slopes.advance(&x, &[step.n - step.s])?
        } else {
            let known: Vec<f64> = times[..=step.index].iter().rev().take(slopes.len()).copied().collect();
            let ends = [times[step.index], times[step.index + 1]];
            let factors: Vec<f64> = (0..known.len()).map(|j| diffusion.integral(&known, j, ends)).collect();
            slopes.advance(&x, &factors)?
        };
    }
    Ok(x)
}

/// A diffusion whose noise grows at the rate beta_0 + beta_d t.
struct VariancePreserving {
    beta_0: f64,
    beta_d: f64,
}

impl VariancePreserving {
    /// Reaches sigma 0.002 at t = 0.001 and sigma 80 at t = 1.
    fn edm() -> Self {
        let (first, smallest, largest) = (1e-3, 0.002_f64.powi(2).ln_1p(), 80.0_f64.powi(2).ln_1p());
        let beta_d = 2.0 * (smallest / first - largest) / (first - 1.0);
        Self { beta_0: largest - 0.5 * beta_d, beta_d }
    }

    fn time(&self, sigma: f64) -> f64 {
        let Self { beta_0, beta_d } = self;
        ((beta_0 * beta_0 + 2.0 * beta_d * (sigma * sigma).ln_1p()).sqrt() - beta_0) / beta_d
    }

    /// The weight of slope `j` for a step between two times: a sum over 10,000 places, as in ComfyUI.
    fn integral(&self, known: &[f64], j: usize, [from, to]: [f64; 2]) -> f64 {
        const PLACES: usize = 10_000;
        let weighted = |place: usize| {
            let t = from + (to - from) * place as f64 / (PLACES - 1) as f64;
            let product = (-0.5 * t * t * self.beta_d - t * self.beta_0).exp();
            let growth = 0.5 * (t * self.beta_d + self.beta_0) / (product * (1.0 - product)).sqrt();
            growth * lagrange(known, j, t)
        };
        (0..PLACES).map(weighted).sum::<f64>() * (to - from) / PLACES as f64
    }
}
