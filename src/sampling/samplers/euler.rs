//! One evaluation a step: Euler's method in its forms, and the samplers that noise an estimate anew.

use candle_core::{D, Tensor};

use super::{Renoise, Sampling, Stochastic, ancestral_step, mix, slope, steps};
use crate::sampling::Result;

/// Karras et al. (2022), algorithm 2 without churn.
pub fn euler(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    for step in steps(run.sigmas) {
        let denoised = run.visit(step, &x)?;
        x = mix([(1.0, &x), (step.n - step.s, &slope(&x, &denoised, step.s)?)])?;
    }
    Ok(x)
}

/// Euler for rectified flow that steps too far down and adds noise up to the next sigma.
pub fn euler_ancestral(run: &mut Sampling<'_>, mut x: Tensor, stochastic: Stochastic) -> Result<Tensor> {
    let mut noise = run.fresh_noise(&x);
    for step in steps(run.sigmas) {
        let denoised = run.visit(step, &x)?;
        if step.is_last() {
            x = denoised;
            continue;
        }
        let renoise = Renoise::new(step, stochastic.eta);
        let ratio = renoise.down / step.s;
        x = mix([(ratio, &x), (1.0 - ratio, &denoised)])?;
        if stochastic.eta > 0.0 {
            let up = renoise.add * stochastic.s_noise;
            x = mix([(renoise.keep, &x), (up, &noise.draw()?)])?;
        }
    }
    Ok(x)
}

/// CFG++ (Chung et al., 2024): noise is pointed to by the estimate without guidance. With an eta of 1
/// there is as much new noise as in DDPM.
pub fn euler_cfg_pp(run: &mut Sampling<'_>, mut x: Tensor, stochastic: Stochastic) -> Result<Tensor> {
    let mut noise = run.fresh_noise(&x);
    for step in steps(run.sigmas) {
        let both = run.visit_both(step, &x)?;
        if step.is_last() {
            x = both.guided;
            continue;
        }
        let (alpha_s, alpha_n) = (1.0 - step.s, 1.0 - step.n);
        let slope = (mix([(1.0, &x), (-alpha_s, &both.unguided)])? / step.s)?;
        let (down, up) = ancestral_step(step.s / alpha_s, step.n / alpha_n, stochastic.eta);
        x = mix([(alpha_n, &both.guided), (alpha_n * down, &slope)])?;
        if stochastic.adds_noise() {
            let up = alpha_n * up * stochastic.s_noise;
            x = mix([(1.0, &x), (up, &noise.draw()?)])?;
        }
    }
    Ok(x)
}

/// Permenter and Yuan (2024) with gamma 2: the slope is corrected by its change.
pub fn gradient_estimation(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let mut last: Option<Tensor> = None;
    for step in steps(run.sigmas) {
        let denoised = run.visit(step, &x)?;
        let slope = slope(&x, &denoised, step.s)?;
        let dt = step.n - step.s;
        x = match &last {
            _ if step.is_last() => denoised,
            None => mix([(1.0, &x), (dt, &slope)])?,
            Some(last) => mix([(1.0, &x), (2.0 * dt, &slope), (-dt, last)])?,
        };
        last = Some(slope);
    }
    Ok(x)
}

/// The same with the slope of CFG++.
pub fn gradient_estimation_cfg_pp(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let mut last: Option<Tensor> = None;
    for step in steps(run.sigmas) {
        let both = run.visit_both(step, &x)?;
        let slope = slope(&x, &both.unguided, step.s)?;
        let dt = step.n - step.s;
        x = match &last {
            _ if step.is_last() => both.guided,
            None => mix([(1.0, &both.guided), (step.n, &slope)])?,
            Some(last) => mix([(1.0, &both.guided), (step.n + dt, &slope), (-dt, last)])?,
        };
        last = Some(slope);
    }
    Ok(x)
}

/// Luo et al. (2023): the estimate, noised again.
pub fn lcm(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let mut noise = run.fresh_noise(&x);
    for step in steps(run.sigmas) {
        x = run.visit(step, &x)?;
        if !step.is_last() {
            x = mix([(step.n, &noise.draw()?), (1.0 - step.n, &x)])?;
        }
    }
    Ok(x)
}

/// How a latent grows on its way.
pub struct Growth {
    /// How many times as long its sides are in the end.
    pub ratio: f64,
    /// After how many steps; about half of them if `None`.
    pub steps: Option<usize>,
    /// Scales a latent to `(width, height)` cells.
    pub scale: Box<Scale>,
}

type Scale = dyn Fn(&Tensor, (usize, usize)) -> Result<Tensor> + Send + Sync;

impl Growth {
    /// The ratio after a step.
    fn after(&self, step: usize, total: usize) -> Option<f64> {
        let stops = self.steps.map_or(total.div_ceil(2), |steps| steps.min(total + 1));
        let stops = stops.max(usize::from(self.steps.is_none()));
        (step < stops).then(|| 1.0 + (self.ratio - 1.0) * (step + 1) as f64 / stops as f64)
    }
}

/// [`lcm`] with a latent that grows after the first steps. The noise is added to an estimate of full strength, as in
/// ComfyUI, and goes on where that of the start ended.
pub fn lcm_upscale(run: &mut Sampling<'_>, mut x: Tensor, growth: &Growth) -> Result<Tensor> {
    let sides = [x.dim(D::Minus1)?, x.dim(D::Minus2)?];
    let mut noise = run.fresh_noise(&x);
    noise.draw()?;
    let total = run.sigmas.len().saturating_sub(1);
    for step in steps(run.sigmas) {
        x = run.visit(step, &x)?;
        if let Some(ratio) = growth.after(step.index, total) {
            let [width, height] = sides.map(|side| (side as f64 * ratio).round_ties_even() as usize);
            x = (growth.scale)(&x, (width, height))?;
        }
        if !step.is_last() {
            x = mix([(1.0, &x), (step.n, &noise.draw_like(&x)?)])?;
        }
    }
    Ok(x)
}

/// Ho et al. (2020). It takes sigma for the deviation of noise beside a signal of full strength, which
/// it is not in a flow; ComfyUI does the same.
pub fn ddpm(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    let mut noise = run.fresh_noise(&x);
    for step in steps(run.sigmas) {
        let denoised = run.visit(step, &x)?;
        let slope = slope(&x, &denoised, step.s)?;
        let (spread_s, spread_n) = (1.0 + step.s * step.s, 1.0 + step.n * step.n);
        let (product_s, product_n) = (1.0 / spread_s, 1.0 / spread_n);
        let alpha = product_s / product_n;
        let drift = (1.0 - alpha) / (1.0 - product_s).sqrt();
        x = mix([(1.0 / spread_s.sqrt(), &x), (-drift, &slope)])?;
        x = (x / alpha.sqrt())?;
        if !step.is_last() {
            let up = ((1.0 - alpha) * (1.0 - product_n) / (1.0 - product_s)).sqrt();
            x = (mix([(1.0, &x), (up, &noise.draw()?)])? * spread_n.sqrt())?;
        }
    }
    Ok(x)
}

/// CFG++ as it was first tried: the slope is bent by how far guidance moved the estimate.
pub fn euler_alternative_cfg_pp(run: &mut Sampling<'_>, mut x: Tensor) -> Result<Tensor> {
    for step in steps(run.sigmas) {
        let both = run.visit_both(step, &x)?;
        let share = (step.n - step.s) / step.s;
        x = mix([(1.0 + share, &x), (-2.0 * share, &both.guided), (share, &both.unguided)])?;
    }
    Ok(x)
}
