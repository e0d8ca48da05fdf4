//! How estimates of several sides become one.

use std::sync::Arc;

use candle_core::Tensor;

use super::Entry;
use crate::model::Diffusion;
use crate::sampling::Result;

/// What a run is steered by, and how its sides are combined.
#[derive(Clone, Copy)]
pub enum Guidance<'a> {
    /// The positive side alone.
    Positive(&'a [Entry]),
    /// Away from the negative side, `cfg` times as far as the positive one.
    ClassifierFree { positive: &'a [Entry], negative: &'a [Entry], cfg: f64 },
    /// Two guidances in a row, from negative to middle to positive. Nested, the inner one is adjusted as a
    /// whole and the outer one starts from its result.
    Dual {
        positive: &'a [Entry],
        middle: &'a [Entry],
        negative: &'a [Entry],
        /// From middle to positive, and from negative to middle.
        cfg: [f64; 2],
        nested: bool,
    },
    /// Perp-Neg (Armandpour et al., 2023): from what an empty prompt gives towards the positive side, and away from what
    /// of the negative one is no part of that, `scale` times.
    Perpendicular { positive: &'a [Entry], negative: &'a [Entry], empty: &'a [Entry], cfg: f64, scale: f64 },
}

impl<'a> Guidance<'a> {
    /// The entries of each side, positive first.
    pub(super) fn sides(&self) -> Vec<&'a [Entry]> {
        match *self {
            Self::Positive(positive) => vec![positive],
            Self::ClassifierFree { positive, negative, .. } => vec![positive, negative],
            Self::Dual { positive, middle, negative, .. } => vec![positive, middle, negative],
            Self::Perpendicular { positive, negative, empty, .. } => vec![positive, negative, empty],
        }
    }

    pub(super) fn rule(&self) -> Rule {
        match *self {
            Self::Positive(_) => Rule::Positive,
            Self::ClassifierFree { cfg, .. } => Rule::ClassifierFree(cfg),
            Self::Dual { cfg, nested, .. } => Rule::Dual { cfg, nested },
            Self::Perpendicular { cfg, scale, .. } => Rule::Perpendicular { cfg, scale },
        }
    }
}

/// A [`Guidance`] without its sides.
#[derive(Clone, Copy)]
pub enum Rule {
    Positive,
    ClassifierFree(f64),
    Dual { cfg: [f64; 2], nested: bool },
    Perpendicular { cfg: f64, scale: f64 },
}

/// How a pair of estimates becomes one.
#[derive(Clone, Debug, Default)]
pub enum Combination {
    /// Ho and Salimans (2022).
    #[default]
    ClassifierFree,
    /// RescaleCFG, with its multiplier.
    Rescaled(f64),
    /// RenormCFG (Lumina-Image 2.0, 2025): above a sigma no guidance, below it none that makes the estimate more than so
    /// many times as long as the positive one.
    Renormed { below: f64, limit: f64 },
    /// As [`Guidance::Perpendicular`]; the empty prompt's estimate is asked for besides the pair.
    Perpendicular { empty: Arc<[Entry]>, scale: f64 },
}

/// Estimates to be combined.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    pub x: &'a Tensor,
    pub sigma: f64,
    pub positive: &'a Tensor,
    /// `None`: 0 everywhere, as ComfyUI has it where the negative side was not asked.
    pub negative: Option<&'a Tensor>,
    pub cfg: f64,
}

impl Pair<'_> {
    pub fn guided(&self, combination: &Combination) -> Result<Tensor> {
        let plain = || match self.negative {
            None => Ok((self.positive * self.cfg)?),
            Some(negative) => classifier_free(self.positive, negative, self.cfg),
        };
        match (combination, self.negative) {
            (Combination::Rescaled(multiplier), Some(negative)) => self.rescaled(negative, *multiplier),
            (Combination::Renormed { below, .. }, _) if self.sigma >= *below => Ok(self.positive.clone()),
            (Combination::Renormed { limit, .. }, _) if *limit > 0.0 => {
                no_longer(&plain()?, self.positive, *limit)
            }
            _ => plain(),
        }
    }

    /// Lin et al. (2023): guidance on v-predictions, scaled back to the deviation of the positive one.
    /// Like ComfyUI's, the deviation is taken over channels, frames and rows, one for each column.
    fn rescaled(&self, negative: &Tensor, multiplier: f64) -> Result<Tensor> {
        let spread = self.sigma * self.sigma + 1.0;
        let scaled = (self.x / spread)?;
        let to_v = |estimate: &Tensor| (&scaled - estimate)? * (spread.sqrt() / self.sigma);
        let (positive, negative) = (to_v(self.positive)?, to_v(negative)?);
        let guided = classifier_free(&positive, &negative, self.cfg)?;
        let ratio = (deviation(&positive)? / deviation(&guided)?)?;
        let rescaled = guided.broadcast_mul(&ratio)?;
        let mixed = ((rescaled * multiplier)? + (guided * (1.0 - multiplier))?)?;
        Ok((scaled - (mixed * (self.sigma / spread.sqrt()))?)?)
    }
}

pub fn classifier_free(positive: &Tensor, negative: &Tensor, cfg: f64) -> Result<Tensor> {
    Ok((negative + ((positive - negative)? * cfg)?)?)
}

/// Shortens each item of a batch to `limit` times the length of its positive estimate, where it is longer.
fn no_longer(guided: &Tensor, positive: &Tensor, limit: f64) -> Result<Tensor> {
    let length = |x: &Tensor| x.flatten_from(1)?.sqr()?.sum_keepdim(1)?.sqrt();
    let ratio = ((length(positive)? * limit)? / length(guided)?)?.minimum(1f32)?;
    let mut shape = vec![1; guided.rank()];
    shape[0] = guided.dim(0)?;
    Ok(guided.broadcast_mul(&ratio.reshape(shape)?)?)
}

/// From the empty prompt's estimate towards the positive one, and away from the part of the negative one at right angles.
pub fn perpendicular([positive, negative, empty]: [&Tensor; 3], cfg: f64, scale: f64) -> Result<Tensor> {
    let (positive, negative) = ((positive - empty)?, (negative - empty)?);
    let sum = |x: Tensor| -> Result<f64> { Ok(x.sum_all()?.to_scalar::<f32>()?.into()) };
    let share = sum((&negative * &positive)?)? / sum(positive.sqr()?)?;
    let apart = (negative - (&positive * share)?)?;
    Ok((empty + ((positive - (apart * scale)?)? * cfg)?)?)
}

/// The deviation over all axes but the first and the last, kept for broadcasting.
fn deviation(x: &Tensor) -> Result<Tensor> {
    let axes: Vec<usize> = (1..x.rank() - 1).collect();
    let count: usize = x.dims()[1..x.rank() - 1].iter().product();
    let centred = x.broadcast_sub(&x.mean_keepdim(axes.as_slice())?)?;
    let variance = (centred.sqr()?.sum_keepdim(axes.as_slice())? / (count as f64 - 1.0))?;
    Ok(variance.sqrt()?)
}

/// Blocks of the network to leave out during a part of the run.
#[derive(Clone, Debug)]
pub struct SkippedBlocks {
    pub blocks: Vec<usize>,
    /// The sigmas between which that is, the larger first.
    pub span: [f64; 2],
}

impl SkippedBlocks {
    pub(super) fn counts_at(&self, sigma: f64) -> bool {
        let [from, until] = self.span;
        until <= sigma && sigma <= from
    }
}

/// What happens to a guided estimate.
#[derive(Clone, Debug)]
pub enum Adjustment {
    Norm {
        strength: f64,
    },
    ZeroStar,
    SkippedBlocks {
        skipped: SkippedBlocks,
        scale: f64,
        rescale: f64,
    },
    /// The more the guided estimate points where the negative one does, the more it keeps of itself, and the less it
    /// takes of the positive one.
    Mahiro,
    /// Ning et al. (2023): the noise in the guided estimate is so many times too large.
    Noise {
        factor: f64,
    },
}

impl Adjustment {
    /// The network this adjustment asks besides the model's own.
    pub fn network(&self, whole: &Arc<dyn Diffusion>) -> Result<Option<Arc<dyn Diffusion>>> {
        match self {
            Self::SkippedBlocks { skipped, .. } => Ok(Some(whole.without_blocks(&skipped.blocks)?)),
            _ => Ok(None),
        }
    }
}

/// Shortens each channel vector to the length it has in the positive estimate.
pub fn normed(guided: &Tensor, positive: &Tensor, strength: f64) -> Result<Tensor> {
    let length = |x: &Tensor| x.sqr()?.sum_keepdim(1)?.sqrt();
    let ratio = (length(positive)? / (length(guided)? + 1e-8)?)?.clamp(0f32, 1f32)?;
    Ok((guided.broadcast_mul(&ratio)? * strength)?)
}

/// CFG-Zero*: what the guided estimate would be, had the negative velocity been scaled to its projection on
/// the positive one. ComfyUI adds the correction to estimates, not to velocities.
pub fn zero_star(guided: Tensor, pair: &Pair<'_>) -> Result<Tensor> {
    let Some(negative) = pair.negative else { return Ok(guided) };
    let batch = pair.x.dim(0)?;
    let flat = |estimate: &Tensor| (pair.x - estimate)?.reshape((batch, ()));
    let (positive_v, negative_v) = (flat(pair.positive)?, flat(negative)?);
    let product = (&positive_v * &negative_v)?.sum_keepdim(1)?;
    let share = (product / (negative_v.sqr()?.sum_keepdim(1)? + 1e-8)?)?;
    let mut shape = vec![1; pair.x.rank()];
    shape[0] = batch;
    let factor = share.reshape(shape)?.affine(1.0 - pair.cfg, pair.cfg - 1.0)?;
    Ok((guided + negative.broadcast_mul(&factor)?)?)
}

/// The guided estimate mixed with the positive one, by how alike guided and negative one are in their directions.
pub fn mahiro(guided: &Tensor, pair: &Pair<'_>) -> Result<Tensor> {
    let leap = (pair.positive * pair.cfg)?;
    let negative = match pair.negative {
        Some(negative) => (negative * pair.cfg)?,
        None => leap.zeros_like()?,
    };
    let root = |x: &Tensor| x.abs()?.sqrt()? * x.sign()?;
    let (one, other) = (root(&negative)?, root(&((&leap + guided)? / 2.0)?)?);
    let length = |x: &Tensor| x.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-8f32);
    let cosine = ((&one * &other)?.sum_keepdim(1)? / (length(&one)? * length(&other)?)?)?;
    let share = f64::midpoint(1.0, cosine.mean_all()?.to_scalar::<f32>()?.into());
    Ok(((guided * share)? + (leap * (1.0 - share))?)?)
}

/// Away from the estimate of a network with fewer blocks.
pub fn away_from(
    guided: &Tensor,
    positive: &Tensor,
    lesser: &Tensor,
    [scale, rescale]: [f64; 2],
) -> Result<Tensor> {
    let moved = (guided + ((positive - lesser)? * scale)?)?;
    if rescale == 0.0 {
        return Ok(moved);
    }
    let spread =
        |x: &Tensor| -> Result<f64> { Ok(x.flatten_all()?.var(0)?.to_scalar::<f32>()?.sqrt().into()) };
    let factor = spread(positive)? / spread(&moved)?;
    Ok((moved * (rescale * factor + 1.0 - rescale))?)
}
