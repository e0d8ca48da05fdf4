//! EasyCache: calls of the network are spared while their results would hardly change.

use std::collections::HashMap;

use candle_core::Tensor;

use super::change::{Change, Decision, Reuse};
use crate::model::{Cond, Flow};
use crate::sampling::Result;

/// What is remembered during a run.
pub struct EasyCache {
    /// For each entry, its last prediction minus the input of that call.
    offsets: HashMap<Identity, Tensor>,
    /// The first entry asked within the range. It decides for all of them.
    decider: Option<Identity>,
    /// Whether the calls of this evaluation are spared.
    spares: bool,
    /// The change of the decider's prediction.
    change: Change,
}

/// An entry is known by its address: it stays where it is for the whole run.
type Identity = usize;

fn identity(cond: &Cond) -> Identity {
    std::ptr::from_ref(cond).addr()
}

impl EasyCache {
    pub fn new(settings: Reuse, flow: Flow) -> Self {
        Self { offsets: HashMap::new(), decider: None, spares: false, change: Change::new(settings, flow) }
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
        if self.change.is_over(sigma) {
            return call();
        }
        let mut decision = Decision::default();
        if self.change.has_begun(sigma) {
            let decider = *self.decider.get_or_insert_with(|| identity(conds[0]));
            if conds.iter().any(|cond| identity(cond) == decider) {
                decision = self.change.decide(x)?;
                self.spares |= decision.spares;
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
                self.change.remember(x, prediction, decision)?;
            }
        }
        Ok(predictions)
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
}

/// On a CPU, ComfyUI writes a remembered prediction over the input it belongs to, and takes the clean
/// estimate from that: prediction - sigma prediction. The velocity that leads to the same estimate.
fn overwritten(x: &Tensor, prediction: &Tensor, sigma: f64) -> Result<Tensor> {
    Ok(((x - (prediction * (1.0 - sigma))?)? / sigma)?)
}
