//! SA-Solver (Xue et al., 2023): stochastic Adams methods with predictor and corrector, in the time of
//! the half log signal-to-noise ratio lambda.

use candle_core::Tensor;

use super::{FreshNoise, Sampling, half_log_snr, mix, steps};
use crate::sampling::{Error, Result};

const PREDICTOR_ORDER: usize = 3;
const CORRECTOR_ORDER: usize = 4;

/// Predict, evaluate, correct.
pub fn sa_solver(run: &mut Sampling<'_>, x: Tensor) -> Result<Tensor> {
    solve(run, x, false)
}

/// Predict, evaluate, correct, evaluate again.
pub fn sa_solver_pece(run: &mut Sampling<'_>, x: Tensor) -> Result<Tensor> {
    solve(run, x, true)
}

/// How the step before was made: what the corrector needs to make it again.
struct Last {
    step: AdamsStep,
    noise: Option<Tensor>,
}

fn solve(run: &mut Sampling<'_>, mut x: Tensor, evaluate_again: bool) -> Result<Tensor> {
    let sigmas = run.snr_sigmas();
    let lambdas: Vec<f64> = sigmas.iter().map(|sigma| half_log_snr(*sigma)).collect();
    let flow = run.model.flow();
    // Noise only joins in the middle of the run.
    let noisy = flow.at_percent(0.8)..=flow.at_percent(0.2);
    let mut fresh = run.fresh_noise(&x);
    let mut predicted = x.clone();
    let mut last: Option<Last> = None;
    // The newest last, as the lambdas are.
    let mut estimates: Vec<Tensor> = Vec::new();
    let ends_at_zero = sigmas.last() == Some(&0.0);
    for step in steps(&sigmas) {
        let i = step.index;
        let denoised = run.visit(step, &predicted)?;
        estimates.push(denoised);
        if estimates.len() > CORRECTOR_ORDER {
            estimates.remove(0);
        }
        let remaining = if ends_at_zero { sigmas.len() - 1 - i } else { usize::MAX };
        match &last {
            Some(last) if evaluate_again || !step.is_last() => {
                let order = CORRECTOR_ORDER.min(estimates.len()).min(remaining);
                x = last.step.take(&x, &lambdas[i + 1 - order..=i], &estimates, last.noise.as_ref())?;
                if evaluate_again && let Some(newest) = estimates.last_mut() {
                    *newest = run.denoise(&x, step.s)?;
                }
            }
            _ => x = predicted,
        }
        if step.is_last() {
            return Ok(estimates.swap_remove(estimates.len() - 1));
        }
        let order = PREDICTOR_ORDER.min(estimates.len()).min(remaining - 1);
        let tau = if noisy.contains(&step.n) { 1.0 } else { 0.0 };
        let next = AdamsStep { s: step.s, n: step.n, from: lambdas[i], to: lambdas[i + 1], tau };
        let noise = next.noise(&mut fresh)?;
        predicted = next.take(&x, &lambdas[i + 1 - order..=i], &estimates, noise.as_ref())?;
        last = Some(Last { step: next, noise });
    }
    Ok(predicted)
}

/// From one sigma to the next, with a share `tau` of the noise of the reverse diffusion.
struct AdamsStep {
    s: f64,
    n: f64,
    from: f64,
    to: f64,
    tau: f64,
}

impl AdamsStep {
    /// One Adams step over the polynomial through the newest estimates, which are at the places `known`.
    fn take(
        &self,
        x: &Tensor,
        known: &[f64],
        estimates: &[Tensor],
        noise: Option<&Tensor>,
    ) -> Result<Tensor> {
        let newest = &estimates[estimates.len() - known.len()..];
        let kept = self.n / self.s * (-self.tau.powi(2) * (self.to - self.from)).exp();
        let weights = self.weights(known)?;
        mix(std::iter::once((kept, x))
            .chain(weights.into_iter().zip(newest))
            .chain(noise.map(|noise| (1.0, noise))))
    }

    fn noise(&self, fresh: &mut FreshNoise) -> Result<Option<Tensor>> {
        if self.tau == 0.0 {
            return Ok(None);
        }
        let spread = -(-2.0 * self.tau.powi(2) * (self.to - self.from)).exp_m1();
        Ok(Some((fresh.draw()? * (self.n * spread.sqrt()))?))
    }

    /// The weights of estimates at the places `known`: the integral of e^{m (lambda - to)} m times the
    /// polynomial through them, with m = 1 + tau^2.
    fn weights(&self, known: &[f64]) -> Result<Vec<f64>> {
        let m = 1.0 + self.tau.powi(2);
        let decay = (-m * (self.to - self.from)).exp();
        let count = known.len();
        // The integral for each power of lambda, by parts: I_p = b^p - a^p e^{-m h} - (p / m) I_{p-1}.
        let mut integrals: Vec<f64> = Vec::with_capacity(count);
        for p in 0..count {
            let ends = self.to.powi(p as i32) - self.from.powi(p as i32) * decay;
            let before = if p == 0 { 0.0 } else { p as f64 / m * integrals[p - 1] };
            integrals.push(ends - before);
        }
        let powers: Vec<Vec<f64>> =
            (0..count).map(|p| known.iter().map(|place| place.powi(p as i32)).collect()).collect();
        let weights = super::solve(powers, integrals).ok_or(Error::BadResult)?;
        Ok(weights.into_iter().map(|weight| (1.0 - self.n) * weight).collect())
    }
}
