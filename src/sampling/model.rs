//! What travels along MODEL and CONDITIONING links, and how they answer a sampler: predictions of
//! several entries averaged, positive and negative combined, the result adjusted.

mod easy_cache;
mod entry;
mod guidance;

use std::sync::Arc;

use candle_core::Tensor;

use super::samplers::{Denoise, Estimates};
use super::{Error, Result};
use crate::model::{Cond, Diffusion, Flow, LatentFormat};
use crate::stop::Stop;

pub use easy_cache::EasyCache;
use easy_cache::Reuse;
pub(super) use entry::Prompts;
pub use entry::{Area, Entry, Rectangle};
use guidance::Adjustment;

/// A diffusion network with the settings of model patches. Immutable: a patch makes a new value.
#[derive(Clone)]
pub struct Model {
    network: Arc<dyn Diffusion>,
    flow: Flow,
    /// RescaleCFG's multiplier.
    rescale: Option<f64>,
    /// Applied to each guided estimate, in this order.
    adjustments: Vec<Adjustment>,
    /// DifferentialDiffusion's strength.
    differential: Option<f64>,
    easy_cache: Option<EasyCache>,
}

impl Model {
    /// With the schedule the network was trained with.
    pub fn new(network: Arc<dyn Diffusion>) -> Self {
        Self {
            flow: network.flow(),
            network,
            rescale: None,
            adjustments: Vec::new(),
            differential: None,
            easy_cache: None,
        }
    }

    /// Another network, such as this one with a LoRA, under the same settings.
    #[must_use]
    pub fn with_network(self, network: Arc<dyn Diffusion>) -> Self {
        Self { network, ..self }
    }

    #[must_use]
    pub fn with_flow(self, flow: Flow) -> Self {
        Self { flow, ..self }
    }

    /// CFGNorm: guidance may not lengthen the channel vector of a position.
    #[must_use]
    pub fn with_cfg_norm(mut self, strength: f64) -> Self {
        self.adjustments.push(Adjustment::Norm { strength });
        self
    }

    /// RescaleCFG: guidance may not raise the contrast; `multiplier` mixes with plain guidance.
    #[must_use]
    pub fn with_rescaled_cfg(self, multiplier: f64) -> Self {
        Self { rescale: Some(multiplier), ..self }
    }

    /// DifferentialDiffusion: a soft mask opens step by step instead of being half open.
    #[must_use]
    pub fn with_differential_masks(self, strength: f64) -> Self {
        Self { differential: Some(strength), ..self }
    }

    /// EasyCache: predictions that would hardly change are used again.
    #[must_use]
    pub fn with_easy_cache(self, easy_cache: EasyCache) -> Self {
        Self { easy_cache: Some(easy_cache), ..self }
    }

    pub(super) fn differential(&self) -> Option<f64> {
        self.differential
    }

    pub fn network(&self) -> &Arc<dyn Diffusion> {
        &self.network
    }

    pub fn flow(&self) -> Flow {
        self.flow
    }

    pub fn latent(&self) -> &'static LatentFormat {
        self.network.latent()
    }
}

/// A model under the prompts and the cfg of one run.
pub(super) struct Guided<'a> {
    pub model: &'a Model,
    prompts: Prompts,
    cfg: f64,
    reuse: Option<Reuse>,
    stop: &'a Stop,
}

impl<'a> Guided<'a> {
    pub fn new(model: &'a Model, prompts: Prompts, cfg: f64, stop: &'a Stop) -> Self {
        let reuse = model.easy_cache.map(|settings| Reuse::new(settings, model.flow));
        Self { model, prompts, cfg, reuse, stop }
    }

    /// The clean estimate of the positive side and, if wanted, of the negative one.
    fn estimates(&mut self, x: &Tensor, sigma: f64, negative: bool) -> Result<(Tensor, Option<Tensor>)> {
        let Self { model, reuse, stop, .. } = self;
        stop.check()?;
        let timestep = model.flow.timestep(sigma);
        if let Some(reuse) = reuse {
            reuse.begin_evaluation();
        }
        let mut ask = |x: &Tensor, conds: &[&Cond]| {
            let forward = || Ok(model.network.forward(x, timestep, conds, stop)?);
            match reuse {
                Some(reuse) => reuse.predict(x, sigma, conds, forward),
                None => forward(),
            }
        };
        let sides = 1 + usize::from(negative);
        let mut estimates = self.prompts.estimate(x, sigma, sides, &mut ask)?;
        for estimate in &estimates {
            if !estimate.sum_all()?.to_scalar::<f32>()?.is_finite() {
                return Err(Error::BadPrediction { sigma });
            }
        }
        let negative = if negative { estimates.pop() } else { None };
        Ok((estimates.swap_remove(0), negative))
    }

    /// Combines both sides and applies what patches ask for.
    fn guide(&self, x: &Tensor, sigma: f64, positive: &Tensor, negative: Option<&Tensor>) -> Result<Tensor> {
        let guided = match (negative, self.model.rescale) {
            (None, _) => positive.clone(),
            (Some(negative), None) => guidance::classifier_free(positive, negative, self.cfg)?,
            (Some(negative), Some(multiplier)) => {
                guidance::rescaled(x, sigma, [positive, negative], self.cfg, multiplier)?
            }
        };
        self.model
            .adjustments
            .iter()
            .try_fold(guided, |guided, adjustment| adjustment.apply(&guided, positive))
    }
}

impl Denoise for Guided<'_> {
    /// At a cfg of 1 the negative side has no influence and is left out.
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let negative = (self.cfg - 1.0).abs() > 1e-9;
        let (positive, negative) = self.estimates(x, sigma, negative)?;
        self.guide(x, sigma, &positive, negative.as_ref())
    }

    fn denoise_both(&mut self, x: &Tensor, sigma: f64) -> Result<Estimates> {
        let (positive, negative) = self.estimates(x, sigma, true)?;
        let guided = self.guide(x, sigma, &positive, negative.as_ref())?;
        Ok(Estimates { guided, unguided: negative.unwrap_or(positive) })
    }

    fn flow(&self) -> Flow {
        self.model.flow
    }
}
