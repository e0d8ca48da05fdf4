//! DPM-Solver++ (Lu et al., 2023) without Brownian noise.

use candle_core::Tensor;

use super::{Renoise, Sampling, Stochastic, ancestral_step, half_log_snr, mix, sigma_of, slope, steps};
use crate::sampling::Result;

/// Order 2 from two evaluations in a step, for rectified flow, ancestral.
pub fn dpmpp_2s_ancestral(run: &mut Sampling<'_>, mut x: Tensor, stochastic: Stochastic) -> Result<Tensor> {
    /// Stands in for the middle of a step that starts at pure noise.
    const NEARLY_NOISE: f64 = 0.9999;
    let mut noise = run.fresh_noise(&x);
    for step in steps(run.sigmas) {
        let denoised = run.visit(step, &x)?;
        if step.is_last() {
            x = mix([(1.0, &x), (-step.s, &slope(&x, &denoised, step.s)?)])?;
            continue;
        }
        let renoise = Renoise::new(step, stochastic.eta);
        let middle = if step.s >= 1.0 {
            NEARLY_NOISE
        } else {
            sigma_of(0.5 * (half_log_snr(step.s) + half_log_snr(renoise.down)))
        };
        let ratio = middle / step.s;
        let half = mix([(ratio, &x), (1.0 - ratio, &denoised)])?;
        let denoised = run.denoise(&half, middle)?;
        let ratio = renoise.down / step.s;
        x = mix([(ratio, &x), (1.0 - ratio, &denoised)])?;
        if stochastic.eta > 0.0 {
            let up = renoise.add * stochastic.s_noise;
            x = mix([(renoise.keep, &x), (up, &noise.draw()?)])?;
        }
    }
    Ok(x)
}

/// The same with CFG++, in the time -ln sigma.
pub fn dpmpp_2s_ancestral_cfg_pp(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let mut noise = run.fresh_noise(&x);
    for step in steps(run.sigmas) {
        let both = run.visit_both(step, &x)?;
        let (down, up) = ancestral_step(step.s, step.n, 1.0);
        if down == 0.0 {
            x = both.guided;
        } else {
            let middle = (step.s * down).sqrt();
            let ratio = middle / step.s;
            let half = mix([(ratio, &x), (1.0, &both.guided), (-ratio, &both.unguided)])?;
            let second = run.denoise_both(&half, middle)?;
            // By now ComfyUI has forgotten the first estimate without guidance.
            let ratio = down / step.s;
            x = mix([
                (ratio, &x),
                (ratio, &both.guided),
                (-ratio, &second.unguided),
                (1.0 - ratio, &second.guided),
            ])?;
        }
        if !step.is_last() {
            x = mix([(1.0, &x), (up, &noise.draw()?)])?;
        }
    }
    Ok(x)
}

/// How much longer the last step was than this one, in -ln sigma: r of the multistep form.
fn ratio_to_last(sigmas: &[f64], index: usize) -> f64 {
    (sigmas[index - 1] / sigmas[index]).ln() / (sigmas[index] / sigmas[index + 1]).ln()
}

/// Order 2 from the estimate of the step before, in the time -ln sigma.
pub fn dpmpp_2m(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let mut last: Option<Tensor> = None;
    for step in steps(run.sigmas) {
        let denoised = run.visit(step, &x)?;
        let ratio = step.n / step.s;
        x = match &last {
            Some(last) if !step.is_last() => {
                let share = 0.5 / ratio_to_last(run.sigmas, step.index);
                let (new, old) = ((1.0 - ratio) * (1.0 + share), (ratio - 1.0) * share);
                mix([(ratio, &x), (new, &denoised), (old, last)])?
            }
            _ => mix([(ratio, &x), (1.0 - ratio, &denoised)])?,
        };
        last = Some(denoised);
    }
    Ok(x)
}

/// The same with CFG++.
pub fn dpmpp_2m_cfg_pp(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let mut last: Option<Tensor> = None;
    for step in steps(run.sigmas) {
        let both = run.visit_both(step, &x)?;
        let ratio = step.n / step.s;
        x = mix([(1.0, &both.guided), (-ratio, &both.unguided), (ratio, &x)])?;
        if let Some(last) = &last
            && !step.is_last()
        {
            let share = (1.0 - ratio) * 0.5 / ratio_to_last(run.sigmas, step.index);
            x = mix([(1.0, &x), (share, &both.guided), (-share, last)])?;
        }
        last = Some(both.unguided);
    }
    Ok(x)
}
