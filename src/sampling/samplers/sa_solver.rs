//! SA-Solver (Xue et al., 2023): stochastic Adams methods with predictor and corrector, in the time of
//! the half log signal-to-noise ratio lambda.

use candle_core::Tensor;

use super::{FreshNoise, Sampling, Stochastic, half_log_snr, mix, steps};
use crate::model::Flow;
use crate::sampling::{Error, Result};

/// Settings of the solver.
#[derive(Clone, Copy, Debug)]
pub struct StochasticAdams {
    /// The sigmas between which noise joins, the larger first.
    pub noisy: [f64; 2],
    /// The share of the noise of the reverse diffusion there: tau.
    pub stochastic: Stochastic,
    pub predictor_order: usize,
    /// 0 leaves the correction out.
    pub corrector_order: usize,
    /// Whether the model is asked again after the correction.
    pub evaluates_again: bool,
    /// The paper's simple weights where the order is 2.
    pub simple_order_2: bool,
}

impl StochasticAdams {
    /// ComfyUI's: noise only joins in the middle of a run.
    pub fn of(flow: Flow, evaluates_again: bool) -> Self {
        Self {
            noisy: [flow.at_percent(0.2), flow.at_percent(0.8)],
            stochastic: Stochastic::FULL,
            predictor_order: 3,
            corrector_order: 4,
            evaluates_again,
            simple_order_2: false,
        }
    }

    fn tau(&self, sigma: f64) -> f64 {
        let [from, until] = self.noisy;
        if from >= sigma && sigma >= until { self.stochastic.eta.max(0.0) } else { 0.0 }
    }
}

/// How the step before was made: what the corrector needs to make it again.
struct Last {
    step: AdamsStep,
    noise: Option<Tensor>,
}

/// Predict, evaluate, correct, and perhaps evaluate again.
pub fn sa_solver(run: &mut Sampling<'_>, mut x: Tensor, settings: &StochasticAdams) -> Result<Tensor> {
    let sigmas = run.snr_sigmas();
    let lambdas: Vec<f64> = sigmas.iter().map(|sigma| half_log_snr(*sigma)).collect();
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
        if estimates.len() > settings.predictor_order.max(settings.corrector_order) {
            estimates.remove(0);
        }
        let remaining = if ends_at_zero { sigmas.len() - 1 - i } else { usize::MAX };
        let order = settings.corrector_order.min(estimates.len()).min(remaining);
        match &last {
            Some(last) if order > 0 && (settings.evaluates_again || !step.is_last()) => {
                let known = Known { lambdas: &lambdas[i + 1 - order..=i], corrects: true };
                x = last.step.take(&x, known, &estimates, last.noise.as_ref())?;
                if settings.evaluates_again
                    && let Some(newest) = estimates.last_mut()
                {
                    *newest = run.denoise(&x, step.s)?;
                }
            }
            _ => x = predicted,
        }
        if step.is_last() {
            return Ok(estimates.swap_remove(estimates.len() - 1));
        }
        let order = settings.predictor_order.min(estimates.len()).min(remaining - 1);
        let next = AdamsStep {
            s: step.s,
            n: step.n,
            from: lambdas[i],
            to: lambdas[i + 1],
            tau: settings.tau(step.n),
            simple_order_2: settings.simple_order_2,
        };
        let noise = next.noise(&mut fresh, settings.stochastic.s_noise)?;
        let known = Known { lambdas: &lambdas[i + 1 - order..=i], corrects: false };
        predicted = next.take(&x, known, &estimates, noise.as_ref())?;
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
    simple_order_2: bool,
}

/// The places of the estimates a step is made from.
#[derive(Clone, Copy)]
struct Known<'a> {
    lambdas: &'a [f64],
    /// Whether the newest is at the end of the step, not at its start.
    corrects: bool,
}

impl AdamsStep {
    /// One Adams step over the polynomial through the newest estimates, which are at the places `known`.
    fn take(
        &self,
        x: &Tensor,
        known: Known<'_>,
        estimates: &[Tensor],
        noise: Option<&Tensor>,
    ) -> Result<Tensor> {
        let newest = &estimates[estimates.len() - known.lambdas.len()..];
        let kept = self.n / self.s * (-self.tau.powi(2) * (self.to - self.from)).exp();
        let weights = self.weights(known)?;
        mix(std::iter::once((kept, x))
            .chain(weights.into_iter().zip(newest))
            .chain(noise.map(|noise| (1.0, noise))))
    }

    fn noise(&self, fresh: &mut FreshNoise, s_noise: f64) -> Result<Option<Tensor>> {
        if self.tau == 0.0 || s_noise == 0.0 {
            return Ok(None);
        }
        let spread = -(-2.0 * self.tau.powi(2) * (self.to - self.from)).exp_m1();
        Ok(Some((fresh.draw()? * (self.n * spread.sqrt() * s_noise))?))
    }

    /// The weights of estimates at the places `known`: the integral of e^{m (lambda - to)} m times the
    /// polynomial through them, with m = 1 + tau^2.
    fn weights(&self, known: Known<'_>) -> Result<Vec<f64>> {
        let m = 1.0 + self.tau.powi(2);
        if self.simple_order_2 && known.lambdas.len() == 2 {
            return Ok(self.simple_weights(known, m));
        }
        let known = known.lambdas;
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

    /// The paper's appendix D: weights of two estimates, the older first.
    fn simple_weights(&self, known: Known<'_>, m: f64) -> Vec<f64> {
        let (alpha, h) = (1.0 - self.n, self.to - self.from);
        let whole = -alpha * (-h * m).exp_m1();
        if known.corrects {
            let newest = alpha * 0.5 * m * h;
            return vec![whole - newest, newest];
        }
        let older = alpha * 0.5 * m * h * h / (known.lambdas[0] - self.from);
        vec![older, whole - older]
    }
}
