//! DPM-Solver (Lu et al., 2022), orders 1 to 3, with fixed and with adaptive steps. Time is -ln sigma.

use candle_core::Tensor;

use super::{Sampling, Stochastic, ancestral_step, mix};
use crate::sampling::Result;

/// A step in time, with the noise prediction (x - D) / sigma at its start.
struct Start<'a> {
    x: &'a Tensor,
    noise: Tensor,
    t: f64,
    /// How far to go.
    h: f64,
}

impl Start<'_> {
    /// The x a share of the way ahead, if noise stays as it is.
    fn straight(&self, share: f64) -> Result<Tensor> {
        mix([(1.0, self.x), (-sigma(self.t + share * self.h) * (share * self.h).exp_m1(), &self.noise)])
    }

    /// How the noise at a point a share of the way ahead differs from that at the start.
    fn change(&self, run: &mut Sampling<'_>, x: &Tensor, share: f64) -> Result<Tensor> {
        Ok((run.slope(x, sigma(self.t + share * self.h))? - &self.noise)?)
    }

    /// Order 2 from the change at a share `r` of the way.
    fn second(&self, change: &Tensor, r: f64) -> Result<Tensor> {
        let weight = sigma(self.t + self.h) / (2.0 * r) * self.h.exp_m1();
        mix([(1.0, &self.straight(1.0)?), (-weight, change)])
    }

    /// Orders 1 and 2 from the same evaluations, half way.
    fn first_and_second(&self, run: &mut Sampling<'_>) -> Result<(Tensor, Tensor)> {
        let change = self.change(run, &self.straight(0.5)?, 0.5)?;
        Ok((self.straight(1.0)?, self.second(&change, 0.5)?))
    }

    /// Orders 2 and 3 from the same evaluations, at a third and at two thirds of the way.
    fn second_and_third(&self, run: &mut Sampling<'_>) -> Result<(Tensor, Tensor)> {
        const R1: f64 = 1.0 / 3.0;
        const R2: f64 = 2.0 / 3.0;
        let bend = |share: f64| (share * self.h).exp_m1() / (share * self.h) - 1.0;
        let change = self.change(run, &self.straight(R1)?, R1)?;
        let weight = sigma(self.t + R2 * self.h) * (R2 / R1) * bend(R2);
        let far = mix([(1.0, &self.straight(R2)?), (-weight, &change)])?;
        let far_change = self.change(run, &far, R2)?;
        let weight = sigma(self.t + self.h) / R2 * bend(1.0);
        let third = mix([(1.0, &self.straight(1.0)?), (-weight, &far_change)])?;
        Ok((self.second(&change, R1)?, third))
    }
}

fn sigma(t: f64) -> f64 {
    (-t).exp()
}

/// From the largest sigma to the smallest that is not 0: the solver cannot reach 0, and the result
/// keeps that little noise.
fn span(sigmas: &[f64]) -> Option<(f64, f64)> {
    let &[.., before, last] = sigmas else { return None };
    let smallest = if last == 0.0 { before } else { last };
    Some((-sigmas[0].ln(), -smallest.ln()))
}

/// As many evaluations as steps were asked for, in steps of order 3 and one or two smaller ones.
pub fn dpm_fast(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let Some((start, end)) = span(run.sigmas) else { return Ok(x) };
    let evaluations = run.sigmas.len() - 1;
    let count = evaluations / 3 + 1;
    let h = (end - start) / count as f64;
    for index in 0..count {
        let t = start + h * index as f64;
        let order = match (evaluations % 3, count - index) {
            (0, 2) => 2,
            (0, 1) => 1,
            (rest, 1) => rest,
            _ => 3,
        };
        let denoised = run.denoise(&x, sigma(t))?;
        run.report(index, &denoised)?;
        let noise = super::slope(&x, &denoised, sigma(t))?;
        let step = Start { x: &x, noise, t, h };
        x = match order {
            1 => step.straight(1.0)?,
            2 => step.first_and_second(run)?.1,
            _ => step.second_and_third(run)?.1,
        };
    }
    Ok(x)
}

/// Settings of the adaptive solver.
#[derive(Clone, Copy, Debug)]
pub struct Adaptive {
    /// 2 or 3; the order below is what it is compared with.
    pub order: usize,
    /// What the two orders may differ, relative to the values and at least.
    pub relative: f64,
    pub absolute: f64,
    /// The length of the first step.
    pub first_step: f64,
    /// How the length follows the error: proportional, integral and derivative.
    pub coefficients: [f64; 3],
    /// A step is accepted unless the next one would have to be shorter than this share of it.
    pub accepted: f64,
    pub stochastic: Stochastic,
}

impl Adaptive {
    pub const DEFAULT: Self = Self {
        order: 3,
        relative: 0.05,
        absolute: 0.0078,
        first_step: 0.05,
        coefficients: [0.0, 1.0, 0.0],
        accepted: 0.81,
        stochastic: Stochastic { eta: 0.0, s_noise: 1.0 },
    };

    /// The distance of two results in units of what is allowed at each place.
    fn distance(&self, low: &Tensor, high: &Tensor, previous: &Tensor) -> Result<f64> {
        let allowed = (low.abs()?.maximum(&previous.abs()?)? * self.relative)?.maximum(self.absolute)?;
        let squares = ((low - high)? / allowed)?.sqr()?.mean_all()?;
        Ok(f64::from(squares.to_scalar::<f32>()?).sqrt())
    }
}

/// Chooses the length of each step by the error of the last ones.
struct Controller {
    length: f64,
    exponents: [f64; 3],
    accepted: f64,
    /// Inverse errors, the newest first; none before the first step.
    inverse_errors: Option<[f64; 3]>,
}

impl Controller {
    fn new(settings: &Adaptive) -> Self {
        let [p, i, d] = settings.coefficients;
        let order = if settings.stochastic.eta > 0.0 { 1.5 } else { settings.order as f64 };
        Self {
            length: settings.first_step,
            exponents: [(p + i + d) / order, -(p + 2.0 * d) / order, d / order],
            accepted: settings.accepted,
            inverse_errors: None,
        }
    }

    /// Whether a step of this error counts; the next one will have another length.
    fn accepts(&mut self, error: f64) -> bool {
        let newest = 1.0 / (error + 1e-8);
        let errors = self.inverse_errors.get_or_insert([newest; 3]);
        errors[0] = newest;
        let product: f64 =
            errors.iter().zip(self.exponents).map(|(error, exponent)| error.powf(exponent)).product();
        let factor = 1.0 + (product - 1.0).atan();
        let accepted = factor >= self.accepted;
        if accepted {
            *errors = [errors[0], errors[0], errors[1]];
        }
        self.length *= factor;
        accepted
    }
}

/// Steps whose length follows the distance of two orders.
pub fn dpm_adaptive(run: &mut Sampling<'_>, mut x: Tensor, settings: Adaptive) -> Result<Tensor> {
    const CLOSE_ENOUGH: f64 = 1e-5;
    let Some((mut t, end)) = span(run.sigmas) else { return Ok(x) };
    let mut fresh = run.fresh_noise(&x);
    let mut controller = Controller::new(&settings);
    let mut previous = x.clone();
    let mut index = 0;
    while t < end - CLOSE_ENOUGH {
        let next = end.min(t + controller.length);
        let (down, _) = ancestral_step(sigma(t), sigma(next), settings.stochastic.eta);
        let down = if settings.stochastic.eta > 0.0 { end.min(-down.ln()) } else { next };
        let up = (sigma(next).powi(2) - sigma(down).powi(2)).max(0.0).sqrt() * settings.stochastic.s_noise;
        let denoised = run.denoise(&x, sigma(t))?;
        let noise = super::slope(&x, &denoised, sigma(t))?;
        let start = Start { x: &x, noise, t, h: down - t };
        let (low, high) =
            if settings.order == 2 { start.first_and_second(run)? } else { start.second_and_third(run)? };
        if controller.accepts(settings.distance(&low, &high, &previous)?) {
            (previous, x, t) = (low, high, next);
            if up > 0.0 {
                x = mix([(1.0, &x), (up, &fresh.draw()?)])?;
            }
        }
        run.report(index, &denoised)?;
        index += 1;
    }
    Ok(x)
}
