//! Methods that look at the slope a second or third time within a step.

use candle_core::Tensor;

use super::{Renoise, Sampling, mix, slope, steps};
use crate::sampling::Result;

/// Karras et al. (2022), algorithm 2: the mean of the slopes at both ends.
pub fn heun(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    for step in steps(run.sigmas) {
        let denoised = run.visit(step, &x)?;
        let first = slope(&x, &denoised, step.s)?;
        let dt = step.n - step.s;
        let ahead = mix([(1.0, &x), (dt, &first)])?;
        x = if step.is_last() {
            ahead
        } else {
            let second = run.slope(&ahead, step.n)?;
            mix([(1.0, &x), (0.5 * dt, &first), (0.5 * dt, &second)])?
        };
    }
    Ok(x)
}

/// Heun with a third slope two sigmas ahead, weighted by how noisy each place is.
pub fn heunpp2(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let sigmas = run.sigmas;
    let (Some(&largest), Some(&end)) = (sigmas.first(), sigmas.last()) else { return Ok(x) };
    for step in steps(sigmas) {
        let denoised = run.visit(step, &x)?;
        let first = slope(&x, &denoised, step.s)?;
        let dt = step.n - step.s;
        let ahead = mix([(1.0, &x), (dt, &first)])?;
        if step.n <= end {
            x = ahead;
            continue;
        }
        let second = run.slope(&ahead, step.n)?;
        let beyond = sigmas[step.index + 2];
        x = if beyond <= end {
            let w2 = step.n / (2.0 * largest);
            mix([(1.0, &x), (dt * (1.0 - w2), &first), (dt * w2, &second)])?
        } else {
            let far = mix([(1.0, &ahead), (beyond - step.n, &second)])?;
            let third = run.slope(&far, beyond)?;
            let (w2, w3) = (step.n / (3.0 * largest), beyond / (3.0 * largest));
            mix([(1.0, &x), (dt * (1.0 - w2 - w3), &first), (dt * w2, &second), (dt * w3, &third)])?
        };
    }
    Ok(x)
}

/// The slope at the geometric middle of a step (Karras et al., 2022; DPM-Solver-2).
pub fn dpm_2(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    for step in steps(run.sigmas) {
        let denoised = run.visit(step, &x)?;
        let mut slope = slope(&x, &denoised, step.s)?;
        if !step.is_last() {
            let middle = (step.s * step.n).sqrt();
            let half = mix([(1.0, &x), (middle - step.s, &slope)])?;
            slope = run.slope(&half, middle)?;
        }
        x = mix([(1.0, &x), (step.n - step.s, &slope)])?;
    }
    Ok(x)
}

/// The same, stepping too far down and adding noise up to the next sigma.
pub fn dpm_2_ancestral(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let mut noise = run.fresh_noise(&x);
    for step in steps(run.sigmas) {
        let denoised = run.visit(step, &x)?;
        let first = slope(&x, &denoised, step.s)?;
        if step.is_last() {
            x = mix([(1.0, &x), (-step.s, &first)])?;
            continue;
        }
        let renoise = Renoise::new(step, 1.0);
        let middle = (step.s * renoise.down).sqrt();
        let half = mix([(1.0, &x), (middle - step.s, &first)])?;
        let second = run.slope(&half, middle)?;
        x = mix([(1.0, &x), (renoise.down - step.s, &second)])?;
        x = mix([(renoise.keep, &x), (renoise.add, &noise.draw()?)])?;
    }
    Ok(x)
}
