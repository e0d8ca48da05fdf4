//! DPM-Solver++ for the stochastic equation, in the time of the half log signal-to-noise ratio. Noise
//! comes from a Brownian tree, so the same seed gives a similar picture with other steps.

use candle_core::Tensor;

use super::brownian::Brownian;
use super::{Sampling, Stochastic, ancestral_step, half_log_snr, mix, sigma_of, steps};
use crate::sampling::Result;

/// Order 2 from two evaluations in a step, the second one a share `r` of the way.
pub fn dpmpp_sde(run: &mut Sampling<'_>, mut x: Tensor, stochastic: Stochastic, r: f64) -> Result<Tensor> {
    let brownian = Brownian::new(run, &x);
    for step in steps(&run.snr_sigmas()) {
        let denoised = run.visit(step, &x)?;
        if step.is_last() {
            x = denoised;
            continue;
        }
        let (from, to) = (half_log_snr(step.s), half_log_snr(step.n));
        let middle = sigma_of(from + r * (to - from));
        let half = ancestral(&brownian, &x, &denoised, [step.s, middle], stochastic)?;
        let second = run.denoise(&half, middle)?;
        let share = 0.5 / r;
        let denoised = mix([(1.0 - share, &denoised), (share, &second)])?;
        x = ancestral(&brownian, &x, &denoised, [step.s, step.n], stochastic)?;
    }
    Ok(x)
}

/// From `x` towards an estimate, too far down, and back up with noise. Here sigma is measured beside
/// a signal of full strength: y = sigma / alpha.
fn ancestral(
    brownian: &Brownian,
    x: &Tensor,
    denoised: &Tensor,
    [s, n]: [f64; 2],
    stochastic: Stochastic,
) -> Result<Tensor> {
    let (alpha_s, alpha_n) = (1.0 - s, 1.0 - n);
    let (down, up) = ancestral_step(s / alpha_s, n / alpha_n, stochastic.eta);
    let ratio = down / (s / alpha_s);
    let stepped = mix([(alpha_n / alpha_s * ratio, x), (alpha_n * (1.0 - ratio), denoised)])?;
    if !stochastic.adds_noise() {
        return Ok(stepped);
    }
    mix([(1.0, &stepped), (alpha_n * up * stochastic.s_noise, &brownian.noise(s, n)?)])
}

/// How the estimate of the step before bends a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    Midpoint,
    Heun,
}

impl Correction {
    /// The weight of the change between two estimates, for a step of length `h` with noise counted.
    fn weight(self, h: f64) -> f64 {
        match self {
            Self::Midpoint => -0.5 * (-h).exp_m1(),
            Self::Heun => (-h).exp_m1() / h + 1.0,
        }
    }
}

/// Order 2 from the estimate of the step before.
pub fn dpmpp_2m_sde(
    run: &mut Sampling<'_>,
    mut x: Tensor,
    stochastic: Stochastic,
    correction: Correction,
) -> Result<Tensor> {
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
        let mut next = stochastic_euler(&x, &denoised, [step.s, step.n], h, stochastic.eta)?;
        if let Some((last, last_h)) = &last {
            let weight = alpha * correction.weight(h * (stochastic.eta + 1.0)) * h / last_h;
            next = mix([(1.0, &next), (weight, &denoised), (-weight, last)])?;
        }
        x = add_noise(&brownian, next, [step.s, step.n], h, stochastic)?;
        last = Some((denoised, h));
    }
    Ok(x)
}

/// Order 3 from the estimates of the two steps before.
pub fn dpmpp_3m_sde(run: &mut Sampling<'_>, mut x: Tensor, stochastic: Stochastic) -> Result<Tensor> {
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
        let he = h * (stochastic.eta + 1.0);
        let phi_2 = (-he).exp_m1() / he + 1.0;
        let phi_3 = phi_2 / he - 0.5;
        let mut next = stochastic_euler(&x, &denoised, [step.s, step.n], h, stochastic.eta)?;
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
        x = add_noise(&brownian, next, [step.s, step.n], h, stochastic)?;
        behind.insert(0, (denoised, h));
        behind.truncate(2);
    }
    Ok(x)
}

/// The exact step for an estimate that does not change, noise apart.
fn stochastic_euler(x: &Tensor, denoised: &Tensor, [s, n]: [f64; 2], h: f64, eta: f64) -> Result<Tensor> {
    mix([(n / s * (-h * eta).exp(), x), (-(1.0 - n) * (-h * (eta + 1.0)).exp_m1(), denoised)])
}

fn add_noise(
    brownian: &Brownian,
    x: Tensor,
    [s, n]: [f64; 2],
    h: f64,
    stochastic: Stochastic,
) -> Result<Tensor> {
    if !stochastic.adds_noise() {
        return Ok(x);
    }
    let up = n * (-(-2.0 * h * stochastic.eta).exp_m1()).sqrt() * stochastic.s_noise;
    mix([(1.0, &x), (up, &brownian.noise(s, n)?)])
}
