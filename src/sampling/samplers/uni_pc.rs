//! UniPC (Zhao et al., 2023): predictor and corrector from the same evaluations, in the forms B1 and
//! B2. The flow is taken for a variance-preserving diffusion with the same sigmas, as in ComfyUI.

use candle_core::Tensor;

use super::{Sampling, mix, solve};
use crate::sampling::{Error, Result};

pub fn uni_pc(run: &mut Sampling<'_>, x: Tensor) -> Result<Tensor> {
    walk(run, x, |hh| hh)
}

pub fn uni_pc_bh2(run: &mut Sampling<'_>, x: Tensor) -> Result<Tensor> {
    walk(run, x, f64::exp_m1)
}

/// Where a run without noise ends instead of at 0.
const SMALLEST: f64 = 0.001;

/// The strength of the signal beside noise of deviation sigma times as much.
fn signal(sigma: f64) -> f64 {
    1.0 / (1.0 + sigma * sigma).sqrt()
}

fn walk(run: &mut Sampling<'_>, x: Tensor, scale: fn(f64) -> f64) -> Result<Tensor> {
    let mut sigmas = run.sigmas.to_vec();
    let [first, .., last] = &mut sigmas[..] else { return Ok(x) };
    let ends_at_zero = *last == 0.0;
    if ends_at_zero {
        *last = SMALLEST;
    }
    let mut x = (x * signal(*first))?;
    let count = sigmas.len() - 1;
    let order = (count - 1).min(3);
    let mut estimates = vec![ask(run, &x, 0, &sigmas)?];
    // With a single step nothing but this first evaluation happens.
    for k in 1..=if order > 0 { count } else { 0 } {
        let update = Update::new(&estimates, &sigmas[..=k], k.min(order).min(count + 1 - k), scale)?;
        let base = update.base(&x)?;
        x = update.predict(&base)?;
        if k < count {
            estimates.push(ask(run, &x, k, &sigmas)?);
            x = update.correct(&base, &estimates[k])?;
        }
    }
    let x = (x / signal(sigmas[count]))?;
    // In ComfyUI the moved last sigma also scales the result of the run.
    if ends_at_zero { Ok((x / (1.0 - SMALLEST))?) } else { Ok(x) }
}

fn ask(run: &mut Sampling<'_>, x: &Tensor, k: usize, sigmas: &[f64]) -> Result<Tensor> {
    let denoised = run.denoise(&(x / signal(sigmas[k]))?, sigmas[k])?;
    run.report(k, &denoised)?;
    Ok(denoised)
}

/// One step, in the letters of the paper's appendix.
struct Update {
    /// The newest estimate, and the differences of older ones to it over their distances.
    newest: Tensor,
    differences: Vec<Tensor>,
    predictor: Vec<f64>,
    corrector: Vec<f64>,
    /// What x and the newest estimate weigh, and the scale of all corrections.
    kept: f64,
    towards: f64,
    scale: f64,
}

impl Update {
    /// From the second-to-last of `sigmas` to the last; `estimates` belong to all but the last.
    fn new(estimates: &[Tensor], sigmas: &[f64], order: usize, scale: fn(f64) -> f64) -> Result<Self> {
        let k = sigmas.len() - 1;
        let (from, to) = (sigmas[k - 1], sigmas[k]);
        let h = (from / to).ln();
        let mut places: Vec<f64> = (1..order).map(|j| (from / sigmas[k - 1 - j]).ln() / h).collect();
        let newest = estimates[k - 1].clone();
        let differences =
            places.iter().enumerate().map(|(j, place)| Ok(((&estimates[k - 2 - j] - &newest)? / *place)?));
        let differences = differences.collect::<Result<Vec<_>>>()?;
        places.push(1.0);
        let (phi, b) = ((-h).exp_m1(), scale(-h));
        let (predictor, corrector) = weights(&places, -h, b).ok_or(Error::BadResult)?;
        let alpha = signal(to);
        let kept = to * alpha / (from * signal(from));
        Ok(Self { newest, differences, predictor, corrector, kept, towards: -alpha * phi, scale: -alpha * b })
    }

    fn base(&self, x: &Tensor) -> Result<Tensor> {
        mix([(self.kept, x), (self.towards, &self.newest)])
    }

    fn predict(&self, base: &Tensor) -> Result<Tensor> {
        let corrections = self.predictor.iter().map(|weight| self.scale * weight).zip(&self.differences);
        mix(std::iter::once((1.0, base)).chain(corrections))
    }

    /// `denoised`: the estimate at the predicted point.
    fn correct(&self, base: &Tensor, denoised: &Tensor) -> Result<Tensor> {
        let change = (denoised - &self.newest)?;
        let differences = self.differences.iter().chain([&change]);
        let corrections = self.corrector.iter().map(|weight| self.scale * weight).zip(differences);
        mix(std::iter::once((1.0, base)).chain(corrections))
    }
}

/// The weights of the differences, for predictor and corrector.
fn weights(places: &[f64], hh: f64, b: f64) -> Option<(Vec<f64>, Vec<f64>)> {
    let order = places.len();
    let powers = |count: usize| -> Vec<Vec<f64>> {
        (0..count).map(|row| places[..count].iter().map(|place| place.powi(row as i32)).collect()).collect()
    };
    let mut right = Vec::with_capacity(order);
    let (mut g, mut factorial) = (hh.exp_m1() / hh - 1.0, 1.0);
    for row in 1..=order {
        right.push(g * factorial / b);
        factorial *= row as f64 + 1.0;
        g = g / hh - 1.0 / factorial;
    }
    let predictor = match order {
        1 => Vec::new(),
        2 => vec![0.5],
        _ => solve(powers(order - 1), right[..order - 1].to_vec())?,
    };
    let corrector = if order == 1 { vec![0.5] } else { solve(powers(order), right)? };
    Some((predictor, corrector))
}
