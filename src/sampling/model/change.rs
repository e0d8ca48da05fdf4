//! How much a result is expected to have changed since it was last computed, and whether the old one will
//! do: the estimate behind EasyCache (Zhou et al., 2025) and LazyCache.

use candle_core::{D, Tensor};

use crate::model::Flow;
use crate::sampling::Result;

/// When to use a result again.
#[derive(Clone, Copy, Debug)]
pub struct Reuse {
    /// The relative change up to which the last result is used again.
    pub threshold: f64,
    /// The part of the run it works in, 0 to 1 from noise to picture.
    pub start: f64,
    pub end: f64,
}

/// The change of one result over a run.
pub struct Change {
    threshold: f64,
    /// The sigmas between which it works, the larger first.
    from: f64,
    until: f64,
    /// The change estimated since the last real result.
    estimate: f64,
    last: Option<Last>,
}

/// The last real result.
struct Last {
    /// Input and result at every eighth row and column.
    input: Tensor,
    result: Tensor,
    /// The mean magnitude of the whole result.
    magnitude: f64,
    /// How much the result changed for a change of the input.
    rate: Option<f64>,
}

/// What [`Change::decide`] found.
#[derive(Clone, Copy, Default)]
pub struct Decision {
    /// How far the input moved since the last real result.
    moved: Option<f64>,
    /// Whether the old result will do.
    pub spares: bool,
}

impl Change {
    pub fn new(settings: Reuse, flow: Flow) -> Self {
        // ComfyUI takes the percents of the schedule that its network was last sampled with, whichever that was.
        // A step right on a border therefore counts as before it or behind it by chance; here it is before.
        const JUST_BEHIND: f64 = 1.0 - 1e-4;
        Self {
            threshold: settings.threshold,
            from: flow.at_percent(settings.start) * JUST_BEHIND,
            until: flow.at_percent(settings.end) * JUST_BEHIND,
            estimate: 0.0,
            last: None,
        }
    }

    /// Whether the run is beyond the part it works in.
    pub fn is_over(&self, sigma: f64) -> bool {
        sigma <= self.until
    }

    pub fn has_begun(&self, sigma: f64) -> bool {
        sigma <= self.from
    }

    pub fn decide(&mut self, x: &Tensor) -> Result<Decision> {
        let Some(last) = &self.last else { return Ok(Decision::default()) };
        let moved = mean_magnitude(&(subsample(x)? - &last.input)?)?;
        let mut spares = false;
        if let Some(rate) = last.rate {
            self.estimate += rate * moved / last.magnitude;
            spares = self.estimate < self.threshold;
            if !spares {
                self.estimate = 0.0;
            }
        }
        Ok(Decision { moved: Some(moved), spares })
    }

    /// Takes in a real result.
    pub fn remember(&mut self, x: &Tensor, result: &Tensor, decision: Decision) -> Result<()> {
        let (input, part) = (subsample(x)?, subsample(result)?);
        let rate = match (&self.last, decision.moved) {
            (Some(last), Some(moved)) => Some(mean_magnitude(&(&part - &last.result)?)? / moved),
            _ => None,
        };
        self.last = Some(Last { input, result: part, magnitude: mean_magnitude(result)?, rate });
        Ok(())
    }
}

/// Every eighth row and column.
fn subsample(x: &Tensor) -> Result<Tensor> {
    let every_eighth = |length: usize| Tensor::arange_step(0, length as u32, 8, x.device());
    let rows = x.index_select(&every_eighth(x.dim(D::Minus2)?)?, x.rank() - 2)?;
    Ok(rows.index_select(&every_eighth(x.dim(D::Minus1)?)?, x.rank() - 1)?)
}

fn mean_magnitude(x: &Tensor) -> Result<f64> {
    Ok(x.abs()?.mean_all()?.to_scalar::<f32>()?.into())
}
