//! DPM-Solver++ for the stochastic equation, in the time of the half log signal-to-noise ratio. Noise
//! comes from a Brownian tree, so the same seed gives a similar picture with other steps.

use candle_core::Tensor;

use super::brownian::Brownian;
use super::{Sampling, ancestral_step, half_log_snr, mix, sigma_of, steps};
use crate::sampling::Result;

/// Order 2 from two evaluations in a step.
pub fn dpmpp_sde(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let brownian = Brownian::new(run, &x);
    for step in steps(&run.snr_sigmas()) {
        let denoised = run.visit(step, &x)?;
        if step.is_last() {
            x = denoised;
            continue;
        }
        let middle = sigma_of(0.5 * (half_log_snr(step.s) + half_log_snr(step.n)));
        let half = ancestral(&brownian, &x, &denoised, [step.s, middle])?;
        let denoised = run.denoise(&half, middle)?;
        x = ancestral(&brownian, &x, &denoised, [step.s, step.n])?;
    }
    Ok(x)
}

/// From `x` towards an estimate, too far down, and back up with noise. Here sigma is measured beside
/// a signal of full strength: y = sigma / alpha.
fn ancestral(brownian: &Brownian, x: &Tensor, denoised: &Tensor, [s, n]: [f64; 2]) -> Result<Tensor> {
    let (alpha_s, alpha_n) = (1.0 - s, 1.0 - n);
    let (down, up) = ancestral_step(s / alpha_s, n / alpha_n, 1.0);
    let ratio = down / (s / alpha_s);
    mix([
        (alpha_n / alpha_s * ratio, x),
        (alpha_n * (1.0 - ratio), denoised),
        (alpha_n * up, &brownian.noise(s, n)?),
    ])
}

/// Order 2 from the estimate of the step before, in its midpoint form.
pub fn dpmpp_2m_sde(run: &mut Sampling<'_>, x: Tensor) -> Result<Tensor> {
    two_steps(run, x, |h| -0.5 * (-h).exp_m1())
}

/// The same in the form of Heun.
pub fn dpmpp_2m_sde_heun(run: &mut Sampling<'_>, x: Tensor) -> Result<Tensor> {
    two_steps(run, x, |h| (-h).exp_m1() / h + 1.0)
}

/// `correction`: the weight of the change between two estimates.
fn two_steps(run: &mut Sampling<'_>, mut x: Tensor, correction: fn(f64) -> f64) -> Result<Tensor> {
    let brownian = Brownian::new(run, &x);
    let mut last: Option<(Tensor, f64)> = None;
    for step in steps(&run.snr_sigmas()) {
        let denoised = run.visit(step, &x)?;
        if step.is_last() {
            x = denoised;
            continue;
        }
        let h = half_log_snr(step.n) - half_log_snr(step.s);
        let alpha = 1.0 - step.n;
        let mut next = stochastic_euler(&x, &denoised, [step.s, step.n], h)?;
        if let Some((last, last_h)) = &last {
            let weight = alpha * correction(2.0 * h) * h / last_h;
            next = mix([(1.0, &next), (weight, &denoised), (-weight, last)])?;
        }
        x = add_noise(&brownian, &next, [step.s, step.n], h)?;
        last = Some((denoised, h));
    }
    Ok(x)
}

/// Order 3 from the estimates of the two steps before.
pub fn dpmpp_3m_sde(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let brownian = Brownian::new(run, &x);
    // The estimates behind, newest first, each with the length of its step.
    let mut behind: Vec<(Tensor, f64)> = Vec::new();
    for step in steps(&run.snr_sigmas()) {
        let denoised = run.visit(step, &x)?;
        if step.is_last() {
            x = denoised;
            continue;
        }
        let h = half_log_snr(step.n) - half_log_snr(step.s);
        let alpha = 1.0 - step.n;
        let phi_2 = (-2.0 * h).exp_m1() / (2.0 * h) + 1.0;
        let phi_3 = phi_2 / (2.0 * h) - 0.5;
        let mut next = stochastic_euler(&x, &denoised, [step.s, step.n], h)?;
        match &behind[..] {
            [] => {}
            [(last, h1)] => {
                let weight = alpha * phi_2 * h / h1;
                next = mix([(1.0, &next), (weight, &denoised), (-weight, last)])?;
            }
            [(last, h1), (before, h2), ..] => {
                let (r0, r1) = (h1 / h, h2 / h);
                let near = ((&denoised - last)? / r0)?;
                let far = ((last - before)? / r1)?;
                let bend = ((&near - far)? / (r0 + r1))?;
                next = mix([(1.0, &next), (alpha * phi_2, &near), (alpha * (phi_2 * r0 - phi_3), &bend)])?;
            }
        }
        x = add_noise(&brownian, &next, [step.s, step.n], h)?;
        behind.insert(0, (denoised, h));
        behind.truncate(2);
    }
    Ok(x)
}

/// The exact step for an estimate that does not change, noise apart.
fn stochastic_euler(x: &Tensor, denoised: &Tensor, [s, n]: [f64; 2], h: f64) -> Result<Tensor> {
    mix([(n / s * (-h).exp(), x), (-(1.0 - n) * (-2.0 * h).exp_m1(), denoised)])
}

fn add_noise(brownian: &Brownian, x: &Tensor, [s, n]: [f64; 2], h: f64) -> Result<Tensor> {
    mix([(1.0, x), (n * (-(-2.0 * h).exp_m1()).sqrt(), &brownian.noise(s, n)?)])
}
