//! DPM-Solver (Lu et al., 2022), orders 1 to 3, with fixed and with adaptive steps. Time is -ln sigma.

use candle_core::Tensor;

use super::{Sampling, mix};
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
            2 => {
                let change = step.change(run, &step.straight(0.5)?, 0.5)?;
                step.second(&change, 0.5)?
            }
            _ => step.second_and_third(run)?.1,
        };
    }
    Ok(x)
}

/// Steps of order 3 whose length follows their distance from order 2.
pub fn dpm_adaptive(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    const FIRST_STEP: f64 = 0.05;
    const CLOSE_ENOUGH: f64 = 1e-5;
    const ACCEPTED: f64 = 0.81;
    let Some((mut t, end)) = span(run.sigmas) else { return Ok(x) };
    let mut length = FIRST_STEP;
    let mut previous = x.clone();
    let mut index = 0;
    while t < end - CLOSE_ENOUGH {
        let h = length.min(end - t);
        let denoised = run.denoise(&x, sigma(t))?;
        let noise = super::slope(&x, &denoised, sigma(t))?;
        let (low, high) = Start { x: &x, noise, t, h }.second_and_third(run)?;
        let factor = 1.0 + ((1.0 / (distance(&low, &high, &previous)? + 1e-8)).cbrt() - 1.0).atan();
        if factor >= ACCEPTED {
            (previous, x, t) = (low, high, t + h);
        }
        length *= factor;
        run.report(index, &denoised)?;
        index += 1;
    }
    Ok(x)
}

/// The distance of two results in units of what is allowed at each place.
fn distance(low: &Tensor, high: &Tensor, previous: &Tensor) -> Result<f64> {
    const ABSOLUTE: f64 = 0.0078;
    const RELATIVE: f64 = 0.05;
    let allowed = (low.abs()?.maximum(&previous.abs()?)? * RELATIVE)?.maximum(ABSOLUTE)?;
    let squares = ((low - high)? / allowed)?.sqr()?.mean_all()?;
    Ok(f64::from(squares.to_scalar::<f32>()?).sqrt())
}
