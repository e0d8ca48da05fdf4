//! Stochastic solvers with fresh noise at every evaluation, in the time of the half log
//! signal-to-noise ratio lambda.

use candle_core::Tensor;

use super::{FreshNoise, Sampling, half_log_snr, mix, sigma_of, steps};
use crate::sampling::Result;

/// SEEDS-2 (Gonzalez et al., 2023), evaluated again half way.
pub fn seeds_2(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    const HALF: f64 = 0.5;
    let mut fresh = run.fresh_noise(&x);
    for step in steps(&run.snr_sigmas()) {
        let denoised = run.visit(step, &x)?;
        if step.is_last() {
            return Ok(denoised);
        }
        let span = Span::new(step.s, step.n);
        let mut noise = ChainedNoise::begin(&mut fresh, &span, HALF)?;
        let half = span.point(&x, HALF, &[(phi_1(HALF * span.he), &denoised)], &noise.value)?;
        let denoised = run.denoise(&half, span.sigma(HALF))?;
        noise.go_on(&mut fresh, &span, 1.0)?;
        x = span.point(&x, 1.0, &[(phi_1(span.he), &denoised)], &noise.value)?;
    }
    Ok(x)
}

/// SEEDS-3, evaluated again after one and after two thirds of the way.
pub fn seeds_3(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    const R1: f64 = 1.0 / 3.0;
    const R2: f64 = 2.0 / 3.0;
    let mut fresh = run.fresh_noise(&x);
    for step in steps(&run.snr_sigmas()) {
        let first = run.visit(step, &x)?;
        if step.is_last() {
            return Ok(first);
        }
        let span = Span::new(step.s, step.n);
        let mut noise = ChainedNoise::begin(&mut fresh, &span, R1)?;
        let near = span.point(&x, R1, &[(phi_1(R1 * span.he), &first)], &noise.value)?;
        let second = run.denoise(&near, span.sigma(R1))?;
        noise.go_on(&mut fresh, &span, R2)?;
        let bend = R2 / R1 * phi_2(R2 * span.he);
        let terms = [(phi_1(R2 * span.he) - bend, &first), (bend, &second)];
        let far = span.point(&x, R2, &terms, &noise.value)?;
        let third = run.denoise(&far, span.sigma(R2))?;
        noise.go_on(&mut fresh, &span, 1.0)?;
        let bend = phi_2(span.he) / R2;
        let terms = [(phi_1(span.he) - bend, &first), (bend, &third)];
        x = span.point(&x, 1.0, &terms, &noise.value)?;
    }
    Ok(x)
}

/// The way of a step in lambda.
struct Span {
    s: f64,
    n: f64,
    lambda: f64,
    h: f64,
    /// h with the noise counted: twice as long.
    he: f64,
}

impl Span {
    fn new(s: f64, n: f64) -> Self {
        let (lambda, h) = (half_log_snr(s), half_log_snr(n) - half_log_snr(s));
        Self { s, n, lambda, h, he: 2.0 * h }
    }

    /// The sigma a share of the way.
    fn sigma(&self, share: f64) -> f64 {
        if share >= 1.0 { self.n } else { sigma_of(self.lambda + share * self.h) }
    }

    /// The x a share of the way, from weighted estimates and noise of deviation 1 / sigma.
    fn point(&self, x: &Tensor, share: f64, terms: &[(f64, &Tensor)], noise: &Tensor) -> Result<Tensor> {
        let sigma = self.sigma(share);
        let kept = sigma / self.s * (-share * self.h).exp();
        let estimates = terms.iter().map(|(weight, estimate)| (-(1.0 - sigma) * weight, *estimate));
        mix([(kept, x), (sigma, noise)].into_iter().chain(estimates))
    }
}

/// expm1(-h), that is -h phi_1(-h).
fn phi_1(h: f64) -> f64 {
    (-h).exp_m1()
}

/// (expm1(-h) + h) / -h, that is -h phi_2(-h).
fn phi_2(h: f64) -> f64 {
    ((-h).exp_m1() + h) / -h
}

/// Noise along a step: what was drawn fades, and new noise joins.
struct ChainedNoise {
    value: Tensor,
    share: f64,
}

impl ChainedNoise {
    fn begin(fresh: &mut FreshNoise, span: &Span, share: f64) -> Result<Self> {
        let value = (fresh.draw()? * deviation(share * span.h))?;
        Ok(Self { value, share })
    }

    fn go_on(&mut self, fresh: &mut FreshNoise, span: &Span, share: f64) -> Result<()> {
        let h = (share - self.share) * span.h;
        self.value = mix([((-h).exp(), &self.value), (deviation(h), &fresh.draw()?)])?;
        self.share = share;
        Ok(())
    }
}

/// The deviation of the noise that joins over a way h.
fn deviation(h: f64) -> f64 {
    (-(-2.0 * h).exp_m1()).sqrt()
}

/// Settings of ER-SDE.
#[derive(Clone, Copy, Debug)]
pub struct ErSde {
    pub scale: NoiseScale,
    /// A factor to the noise that is added.
    pub s_noise: f64,
    /// The order, 1 to 3.
    pub stages: usize,
}

impl ErSde {
    pub const DEFAULT: Self = Self { scale: NoiseScale::Extended, s_noise: 1.0, stages: 3 };
}

/// The function that says how much noise a reverse process carries at y.
#[derive(Clone, Copy, Debug)]
pub enum NoiseScale {
    /// That of ER-SDE's authors.
    Extended,
    /// y to a power: 2 is the plain reverse-time equation, 1 has no noise at all.
    Power(f64),
}

impl NoiseScale {
    fn at(self, y: f64) -> f64 {
        match self {
            Self::Extended => y * (y.powf(0.3).exp() + 10.0),
            Self::Power(exponent) => y.powf(exponent),
        }
    }

    /// The integral of `weight(y) / scale(y)` from `to` up to `from`, as a sum over 200 places.
    fn integral(self, from: f64, to: f64, weight: impl Fn(f64) -> f64) -> f64 {
        const PLACES: u32 = 200;
        let width = (from - to) / f64::from(PLACES);
        let at = |place: u32| to + f64::from(place) * width;
        (0..PLACES).map(|place| weight(at(place)) / self.at(at(place))).sum::<f64>() * width
    }
}

/// ER-SDE-Solver-3 (Cui et al., 2023), on y = sigma / alpha.
pub fn er_sde(run: &mut Sampling<'_>, mut x: Tensor, settings: ErSde) -> Result<Tensor> {
    let ErSde { scale, s_noise, stages } = settings;
    let mut fresh = run.fresh_noise(&x);
    let sigmas = run.snr_sigmas();
    let ratios: Vec<f64> = sigmas.iter().map(|sigma| sigma / (1.0 - sigma)).collect();
    let mut last: Option<Tensor> = None;
    let mut last_change: Option<Tensor> = None;
    for step in steps(&sigmas) {
        let denoised = run.visit(step, &x)?;
        if step.is_last() {
            return Ok(denoised);
        }
        let (from, to) = (ratios[step.index], ratios[step.index + 1]);
        let (alpha_s, alpha_n) = (1.0 - step.s, 1.0 - step.n);
        let shrink = scale.at(to) / scale.at(from);
        let dy = to - from;
        x = mix([(alpha_n / alpha_s * shrink, &x), (alpha_n * (1.0 - shrink), &denoised)])?;
        if stages > 1
            && let Some(last) = &last
        {
            let change = ((&denoised - last)? / (from - ratios[step.index - 1]))?;
            let weight = dy + scale.integral(from, to, |_| 1.0) * scale.at(to);
            x = mix([(1.0, &x), (alpha_n * weight, &change)])?;
            if stages > 2
                && let Some(last_change) = &last_change
            {
                let bend = ((&change - last_change)? / (0.5 * (from - ratios[step.index - 2])))?;
                let weight = 0.5 * dy * dy + scale.integral(from, to, |y| y - from) * scale.at(to);
                x = mix([(1.0, &x), (alpha_n * weight, &bend)])?;
            }
            last_change = Some(change);
        }
        if s_noise > 0.0 {
            let up = (to * to - (from * shrink).powi(2)).max(0.0).sqrt() * s_noise;
            x = mix([(1.0, &x), (alpha_n * up, &fresh.draw()?)])?;
        }
        last = Some(denoised);
    }
    Ok(x)
}
