//! A model under the guidance of one run: it answers a sampler with clean estimates.

use std::sync::Arc;

use candle_core::Tensor;

use super::change::{Change, Decision};
use super::easy_cache::EasyCache;
use super::entry::Ask;
use super::guidance::{self, Adjustment, Combination, Guidance, Pair, Rule};
use super::hooked::Networks;
use super::preparation::{Both, Remembered};
use super::{Entry, Model, Prompts};
use crate::model::lora::Lora;
use crate::model::{Cond, Diffusion, Flow};
use crate::sampling::samplers::{Denoise, Estimates};
use crate::sampling::{Error, Result};
use crate::stop::Stop;

/// The side that is positive, among those of a [`Guidance`].
const POSITIVE: usize = 0;

pub struct Guided<'a> {
    pub model: &'a Model,
    prompts: Prompts,
    /// The empty prompt of a [`Combination::Perpendicular`].
    empty: Option<Prompts>,
    rule: Rule,
    easy_cache: Option<EasyCache>,
    lazy_cache: Option<LazyCache>,
    /// What each preparation remembers.
    remembered: Vec<Remembered>,
    /// The networks that adjustments ask, one each where one does.
    lesser: Vec<Option<Arc<dyn Diffusion>>>,
    /// What the negative side is asked instead of the model's network.
    negative: Option<Arc<dyn Diffusion>>,
    /// What hooks make of all of these.
    networks: Networks,
    stop: &'a Stop,
}

/// The last guided estimates of a run.
struct LazyCache {
    change: Change,
    /// The last guided estimate minus its input, and the one without guidance.
    last: Option<(Tensor, Tensor)>,
}

impl<'a> Guided<'a> {
    /// For latents of the shape of `latent`, in a run over `sigmas`.
    pub fn new(
        model: &'a Model,
        guidance: &Guidance<'_>,
        latent: &Tensor,
        sigmas: &[f32],
        stop: &'a Stop,
    ) -> Result<Self> {
        let lesser = model.adjustments.iter().map(|adjustment| adjustment.network(&model.network));
        let negative = model.negative_skips.as_ref();
        let change = |settings| Change::new(settings, model.flow);
        let prompts = |sides: &[&[Entry]]| Prompts::new(model, sides, latent.dims(), latent.device(), sigmas);
        let empty = match &model.combination {
            Combination::Perpendicular { empty, .. } => Some(prompts(&[empty])?),
            _ => None,
        };
        // What one window gives is nothing to use again for another.
        let easy_cache = model.easy_cache.filter(|_| model.windows.is_none());
        Ok(Self {
            model,
            prompts: prompts(&guidance.sides())?,
            empty,
            rule: guidance.rule(),
            easy_cache: easy_cache.map(|settings| EasyCache::new(settings, model.flow)),
            lazy_cache: model.lazy_cache.map(|settings| LazyCache { change: change(settings), last: None }),
            remembered: model.preparations.iter().map(|_| Remembered::default()).collect(),
            lesser: lesser.collect::<Result<_>>()?,
            negative: negative.map(|skips| model.network.without_blocks(&skips.blocks)).transpose()?,
            networks: Networks::default(),
            stop,
        })
    }

    /// The clean estimates of some sides. Those not asked are `None`.
    fn estimates<const N: usize>(
        &mut self,
        x: &Tensor,
        sigma: f64,
        asked: [bool; N],
    ) -> Result<[Option<Tensor>; N]> {
        let Self { model, easy_cache, prompts, networks, stop, .. } = self;
        stop.check()?;
        let timestep = model.flow.timestep(sigma);
        if let Some(cache) = easy_cache {
            cache.begin_evaluation();
        }
        let mut ask = |x: &Tensor, conds: &[&Cond], loras: &[Lora]| {
            let mut forward = || {
                let network = networks.hooked(&model.network, loras)?;
                Ok(network.forward(x, timestep, conds, stop)?)
            };
            match easy_cache {
                Some(cache) => cache.predict(x, sigma, conds, forward),
                None => forward(),
            }
        };
        let sides: Vec<usize> = (0..N.min(prompts.sides())).filter(|side| asked[*side]).collect();
        let answers = prompts.estimate(x, sigma, &sides, &mut ask)?;
        let mut estimates = [const { None }; N];
        for (side, estimate) in sides.into_iter().zip(answers) {
            estimates[side] = Some(finite(estimate, sigma)?);
        }
        Ok(estimates)
    }

    /// The clean estimate of one side by another network.
    fn estimate_by(
        &mut self,
        network: &Arc<dyn Diffusion>,
        x: &Tensor,
        sigma: f64,
        side: usize,
    ) -> Result<Tensor> {
        let Self { model, prompts, networks, stop, .. } = self;
        estimate(prompts, side, x, sigma, &mut |x: &Tensor, conds: &[&Cond], loras: &[Lora]| {
            let timestep = model.flow.timestep(sigma);
            Ok(networks.hooked(network, loras)?.forward(x, timestep, conds, stop)?)
        })
    }

    /// The clean estimate of the empty prompt of a [`Combination::Perpendicular`].
    fn empty_estimate(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let Self { model, empty, networks, stop, .. } = self;
        let Some(empty) = empty else { return Ok(x.zeros_like()?) };
        estimate(empty, 0, x, sigma, &mut |x: &Tensor, conds: &[&Cond], loras: &[Lora]| {
            let timestep = model.flow.timestep(sigma);
            Ok(networks.hooked(&model.network, loras)?.forward(x, timestep, conds, stop)?)
        })
    }

    /// Positive and negative estimate.
    fn both(&mut self, x: &Tensor, sigma: f64, negative: bool) -> Result<[Option<Tensor>; 2]> {
        let skips = self.model.negative_skips.as_ref();
        let skips = skips.is_some_and(|skips| skips.counts_at(sigma));
        let [positive, mut other] = self.estimates(x, sigma, [true, negative && !skips])?;
        if let Some(network) = self.negative.clone().filter(|_| skips && negative && self.prompts.sides() > 1)
        {
            other = Some(self.estimate_by(&network, x, sigma, 1)?);
        }
        Ok([positive, other])
    }

    /// Positive and negative estimate after what patches do to them.
    fn prepared(&mut self, mut both: Both, x: &Tensor, sigma: f64, cfg: f64) -> Result<Both> {
        for (preparation, memory) in self.model.preparations.iter().zip(&mut self.remembered) {
            both = preparation.apply(memory, both, x, (sigma, cfg))?;
        }
        Ok(both)
    }

    /// What patches make of a guided estimate.
    fn adjusted(&mut self, mut guided: Tensor, pair: &Pair<'_>) -> Result<Tensor> {
        let model = self.model;
        for (adjustment, lesser) in model.adjustments.iter().zip(self.lesser.clone()) {
            guided = match (adjustment, lesser) {
                (Adjustment::Norm { strength }, _) => guidance::normed(&guided, pair.positive, *strength)?,
                (Adjustment::ZeroStar, _) => guidance::zero_star(guided, pair)?,
                (Adjustment::SkippedBlocks { skipped, scale, rescale }, Some(network))
                    if *scale > 0.0 && skipped.counts_at(pair.sigma) =>
                {
                    let lesser = self.estimate_by(&network, pair.x, pair.sigma, POSITIVE)?;
                    guidance::away_from(&guided, pair.positive, &lesser, [*scale, *rescale])?
                }
                (Adjustment::SkippedBlocks { .. }, _) => guided,
                (Adjustment::Mahiro, _) => guidance::mahiro(&guided, pair)?,
                (Adjustment::Noise { factor }, _) => (pair.x - ((pair.x - guided)? / *factor)?)?,
            };
        }
        Ok(guided)
    }

    /// The guided estimate and the one without guidance. Sides without influence are left out unless `all`
    /// are wanted; what is left out counts as 0.
    fn evaluate(&mut self, x: &Tensor, sigma: f64, all: bool) -> Result<Estimates> {
        let unit = |cfg: f64| !all && (cfg - 1.0).abs() <= 1e-9;
        let zeros = |estimate: Option<Tensor>| estimate.map_or_else(|| x.zeros_like(), Ok);
        match self.rule {
            Rule::Positive => {
                let [positive] = self.estimates(x, sigma, [true])?;
                let sides = self.prepared([positive, None], x, sigma, 1.0)?;
                self.combine(x, sigma, sides, 1.0)
            }
            Rule::ClassifierFree(cfg) => {
                let cfg = self.model.cfg_at(sigma).unwrap_or(cfg);
                let sides = self.both(x, sigma, !unit(cfg))?;
                let sides = self.prepared(sides, x, sigma, cfg)?;
                self.combine(x, sigma, sides, cfg)
            }
            Rule::Dual { cfg: [upper, lower], nested: true } => {
                let [positive, middle, negative] = self.estimates(x, sigma, [true; 3])?;
                let inner = self.combine(x, sigma, [positive, middle], upper)?;
                let guided = guidance::classifier_free(&inner.guided, &zeros(negative)?, lower)?;
                Ok(Estimates { guided, unguided: inner.unguided })
            }
            Rule::Dual { cfg: [upper, lower], nested: false } => {
                let negative = !unit(lower);
                let middle = negative || !unit(upper);
                let [positive, middle, negative] = self.estimates(x, sigma, [true, middle, negative])?;
                let middle = zeros(middle)?;
                let step = ((zeros(positive)? - &middle)? * upper)?;
                let outer = self.combine(x, sigma, [Some(middle), negative], lower)?;
                Ok(Estimates { guided: (outer.guided + step)?, unguided: outer.unguided })
            }
            Rule::Perpendicular { cfg, scale } => {
                let negative = all || scale != 0.0;
                let empty = negative || !unit(cfg);
                let [positive, negative, empty] = self.estimates(x, sigma, [true, negative, empty])?;
                let [positive, negative] = self.prepared([positive, negative], x, sigma, cfg)?;
                let [positive, negative, empty] = [zeros(positive)?, zeros(negative)?, zeros(empty)?];
                let guided = guidance::perpendicular([&positive, &negative, &empty], cfg, scale)?;
                let pair = Pair { x, sigma, positive: &positive, negative: Some(&negative), cfg };
                Ok(Estimates { guided: self.adjusted(guided, &pair)?, unguided: negative })
            }
        }
    }

    fn combine(
        &mut self,
        x: &Tensor,
        sigma: f64,
        [positive, negative]: [Option<Tensor>; 2],
        cfg: f64,
    ) -> Result<Estimates> {
        let positive = positive.map_or_else(|| x.zeros_like(), Ok)?;
        let pair = Pair { x, sigma, positive: &positive, negative: negative.as_ref(), cfg };
        let combined = match &self.model.combination {
            Combination::Perpendicular { scale, .. } => {
                let empty = self.empty_estimate(x, sigma)?;
                let negative = negative.clone().map_or_else(|| x.zeros_like(), Ok)?;
                guidance::perpendicular([&positive, &negative, &empty], cfg, *scale)?
            }
            combination => pair.guided(combination)?,
        };
        let guided = self.adjusted(combined, &pair)?;
        Ok(Estimates { guided, unguided: negative.map_or_else(|| x.zeros_like(), Ok)? })
    }

    /// [`Guided::evaluate`], or what LazyCache has instead.
    fn answer(&mut self, x: &Tensor, sigma: f64, all: bool) -> Result<Estimates> {
        let Some(cache) = self.lazy_cache.as_mut().filter(|cache| !cache.change.is_over(sigma)) else {
            return self.evaluate(x, sigma, all);
        };
        let mut decision = Decision::default();
        if cache.change.has_begun(sigma) {
            decision = cache.change.decide(x)?;
        }
        if decision.spares
            && let Some((offset, unguided)) = &cache.last
        {
            return Ok(Estimates { guided: (x + offset)?, unguided: unguided.clone() });
        }
        let estimates = self.evaluate(x, sigma, all)?;
        if let Some(cache) = &mut self.lazy_cache {
            cache.change.remember(x, &estimates.guided, decision)?;
            cache.last = Some(((&estimates.guided - x)?, estimates.unguided.clone()));
        }
        Ok(estimates)
    }
}

/// The clean estimate of one side.
fn estimate(prompts: &mut Prompts, side: usize, x: &Tensor, sigma: f64, ask: &mut Ask<'_>) -> Result<Tensor> {
    finite(prompts.estimate(x, sigma, &[side], ask)?.swap_remove(0), sigma)
}

fn finite(estimate: Tensor, sigma: f64) -> Result<Tensor> {
    if estimate.sum_all()?.to_scalar::<f32>()?.is_finite() {
        return Ok(estimate);
    }
    Err(Error::BadPrediction { sigma })
}

impl Denoise for Guided<'_> {
    fn denoise(&mut self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.answer(x, sigma, false)?.guided)
    }

    fn denoise_both(&mut self, x: &Tensor, sigma: f64) -> Result<Estimates> {
        self.answer(x, sigma, true)
    }

    fn flow(&self) -> Flow {
        self.model.flow
    }
}
