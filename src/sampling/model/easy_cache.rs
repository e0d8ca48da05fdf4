//! EasyCache (Zhou et al., 2025): calls of the network are spared while their results would hardly change.

use std::collections::HashMap;

use candle_core::{D, Tensor};

use crate::model::{Cond, Flow};
use crate::sampling::Result;

/// When to spare calls.
#[derive(Clone, Copy, Debug)]
pub struct EasyCache {
    /// The relative change up to which the last prediction is used again.
    pub threshold: f64,
    /// The part of the run it works in, 0 to 1 from noise to picture.
    pub start: f64,
    pub end: f64,
}

/// What is remembered during a run.
pub struct Reuse {
    threshold: f64,
    /// The sigmas between which it works, the larger first.
    from: f64,
    until: f64,
    /// For each entry, its last prediction minus the input of that call.
    offsets: HashMap<Identity, Tensor>,
    /// The first entry asked within the range. It decides for all of them.
    decider: Option<Identity>,
    /// Whether the calls of this evaluation are spared.
    spares: bool,
    /// The estimated change of the decider's prediction since its last real call.
    change: f64,
    last: Option<Last>,
}

/// An entry is known by its address: it stays where it is for the whole run.
type Identity = usize;

fn identity(cond: &Cond) -> Identity {
    std::ptr::from_ref(cond).addr()
}

/// The last real call of the decider.
struct Last {
    /// Input and prediction at every eighth row and column.
    input: Tensor,
    prediction: Tensor,
    /// The mean magnitude of the whole prediction.
    magnitude: f64,
    /// How much the prediction changed for a change of the input.
    rate: Option<f64>,
}

impl Reuse {
    pub fn new(settings: EasyCache, flow: Flow) -> Self {
        Self {
            threshold: settings.threshold,
            from: flow.at_percent(settings.start),
            until: flow.at_percent(settings.end),
            offsets: HashMap::new(),
            decider: None,
            spares: false,
            change: 0.0,
            last: None,
        }
    }

    /// The next calls belong to a new evaluation of the model.
    pub fn begin_evaluation(&mut self) {
        self.spares = false;
    }

    /// Predictions for `conds`: remembered ones, or what `call` gives.
    pub fn predict(
        &mut self,
        x: &Tensor,
        sigma: f64,
        conds: &[&Cond],
        call: impl FnOnce() -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        if sigma <= self.until {
            return call();
        }
        let mut moved = None;
        if sigma <= self.from {
            let decider = *self.decider.get_or_insert_with(|| identity(conds[0]));
            if conds.iter().any(|cond| identity(cond) == decider) {
                moved = self.decide(x)?;
            }
            if self.spares
                && let Some(remembered) = self.remembered(x, sigma, conds)?
            {
                return Ok(remembered);
            }
        }
        let predictions = call()?;
        for (cond, prediction) in conds.iter().zip(&predictions) {
            self.offsets.insert(identity(cond), (prediction - x)?);
            if self.decider == Some(identity(cond)) {
                self.remember(x, prediction, moved)?;
            }
        }
        Ok(predictions)
    }

    /// Decides whether this evaluation is spared; gives how far the input moved since the last real call.
    fn decide(&mut self, x: &Tensor) -> Result<Option<f64>> {
        let Some(last) = &self.last else { return Ok(None) };
        let moved = mean_magnitude(&(subsample(x)? - &last.input)?)?;
        if let Some(rate) = last.rate {
            self.change += rate * moved / last.magnitude;
            self.spares = self.change < self.threshold;
            if !self.spares {
                self.change = 0.0;
            }
        }
        Ok(Some(moved))
    }

    /// The last predictions, moved along with the input; `None` if an entry has none yet.
    fn remembered(&self, x: &Tensor, sigma: f64, conds: &[&Cond]) -> Result<Option<Vec<Tensor>>> {
        let offsets: Option<Vec<&Tensor>> =
            conds.iter().map(|cond| self.offsets.get(&identity(cond))).collect();
        let Some(offsets) = offsets else { return Ok(None) };
        let moved = offsets.into_iter().map(|offset| {
            let prediction = (x + offset)?;
            if x.device().is_cpu() { overwritten(x, &prediction, sigma) } else { Ok(prediction) }
        });
        moved.collect::<Result<_>>().map(Some)
    }

    fn remember(&mut self, x: &Tensor, prediction: &Tensor, moved: Option<f64>) -> Result<()> {
        let (input, part) = (subsample(x)?, subsample(prediction)?);
        let rate = match (&self.last, moved) {
            (Some(last), Some(moved)) => Some(mean_magnitude(&(&part - &last.prediction)?)? / moved),
            _ => None,
        };
        let magnitude = mean_magnitude(prediction)?;
        self.last = Some(Last { input, prediction: part, magnitude, rate });
        Ok(())
    }
}

/// On a CPU, ComfyUI writes a remembered prediction over the input it belongs to, and takes the clean
/// estimate from that: prediction - sigma prediction. The velocity that leads to the same estimate.
fn overwritten(x: &Tensor, prediction: &Tensor, sigma: f64) -> Result<Tensor> {
    Ok(((x - (prediction * (1.0 - sigma))?)? / sigma)?)
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
