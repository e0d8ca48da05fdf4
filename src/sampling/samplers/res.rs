//! Refined exponential solver (Zhang et al., 2023), order 2 from the estimate of the step before, in
//! the time -ln sigma.

use candle_core::Tensor;

use super::{Sampling, Step, ancestral_step, mix, slope, steps};
use crate::sampling::Result;

pub fn res_multistep(run: &mut Sampling<'_>, x: Tensor) -> Result<Tensor> {
    plain(run, x, 0.0)
}

pub fn res_multistep_ancestral(run: &mut Sampling<'_>, x: Tensor) -> Result<Tensor> {
    plain(run, x, 1.0)
}

pub fn res_multistep_cfg_pp(run: &mut Sampling<'_>, x: Tensor) -> Result<Tensor> {
    cfg_pp(run, x, 0.0)
}

pub fn res_multistep_ancestral_cfg_pp(run: &mut Sampling<'_>, x: Tensor) -> Result<Tensor> {
    cfg_pp(run, x, 1.0)
}

fn plain(run: &mut Sampling<'_>, mut x: Tensor, eta: f64) -> Result<Tensor> {
    let mut noise = run.fresh_noise(&x);
    let mut last: Option<(Tensor, f64)> = None;
    for step in steps(run.sigmas) {
        let denoised = run.visit(step, &x)?;
        let (down, up) = ancestral_step(step.s, step.n, eta);
        x = match &last {
            Some((last, last_down)) if down > 0.0 => {
                let weights = Weights::new(run.sigmas, step, down, *last_down);
                mix([(weights.x, &x), (weights.new, &denoised), (weights.old, last)])?
            }
            _ => mix([(1.0, &x), (down - step.s, &slope(&x, &denoised, step.s)?)])?,
        };
        if eta > 0.0 && !step.is_last() {
            x = mix([(1.0, &x), (up, &noise.draw()?)])?;
        }
        last = Some((denoised, down));
    }
    Ok(x)
}

fn cfg_pp(run: &mut Sampling<'_>, mut x: Tensor, eta: f64) -> Result<Tensor> {
    let mut noise = run.fresh_noise(&x);
    let mut last: Option<(Tensor, f64)> = None;
    for step in steps(run.sigmas) {
        let both = run.visit_both(step, &x)?;
        let (down, up) = ancestral_step(step.s, step.n, eta);
        x = match &last {
            Some((last, last_down)) if down > 0.0 => {
                let weights = Weights::new(run.sigmas, step, down, *last_down);
                mix([
                    (weights.x, &x),
                    (weights.x, &both.guided),
                    (weights.new - weights.x, &both.unguided),
                    (weights.old, last),
                ])?
            }
            _ => mix([(1.0, &both.guided), (down, &slope(&x, &both.unguided, step.s)?)])?,
        };
        if eta > 0.0 && !step.is_last() {
            x = mix([(1.0, &x), (up, &noise.draw()?)])?;
        }
        last = Some((both.unguided, down));
    }
    Ok(x)
}

/// What x and the estimates of this step and the one before weigh in the result.
struct Weights {
    x: f64,
    new: f64,
    old: f64,
}

impl Weights {
    /// `last_down`: where the step before went down to.
    fn new(sigmas: &[f64], step: Step, down: f64, last_down: f64) -> Self {
        let h = (step.s / down).ln();
        let c2 = (last_down / sigmas[step.index - 1]).ln() / h;
        let phi_1 = (-h).exp_m1() / -h;
        let phi_2 = (phi_1 - 1.0) / -h;
        let number = |value: f64| if value.is_nan() { 0.0 } else { value };
        Self { x: (-h).exp(), new: h * number(phi_1 - phi_2 / c2), old: h * number(phi_2 / c2) }
    }
}
