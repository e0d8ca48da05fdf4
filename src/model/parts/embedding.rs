//! A table of rows, looked up by number.

use candle_core::Tensor;

use crate::model::{Error, Result};
use crate::weights::{Stored, Weights};

/// Rows stay in the file until they are asked for: a vocabulary of 152064 rows is never widened as a whole.
pub struct Embedding {
    rows: Stored,
    /// All of them where something changes the table, which is rare.
    changed: Option<Vec<f32>>,
}

impl Embedding {
    /// Reads `weight` at `weights`: (count, width).
    pub fn load(weights: &Weights, count: usize, width: usize) -> Result<Self> {
        let rows = weights.stored("weight", &[count, width])?;
        let changed = weights.patches("weight").map(|patched| {
            let mut values = rows.to_vec();
            patched.apply_rounded(&mut values, width, weights.chosen_format());
            values
        });
        Ok(Self { rows, changed })
    }

    /// The rows `ids`: (ids, width), f32.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        let (count, width) = (self.rows.shape()[0], self.rows.shape()[1]);
        let mut values = vec![0.0; ids.len() * width];
        for (id, row) in ids.iter().zip(values.chunks_mut(width)) {
            let index = *id as usize;
            if index >= count {
                return Err(Error::Token { id: *id, count });
            }
            match &self.changed {
                Some(values) => row.copy_from_slice(&values[index * width..][..width]),
                None => self.rows.widen_into(index * width, row),
            }
        }
        Ok(Tensor::from_vec(values, (ids.len(), width), &candle_core::Device::Cpu)?)
    }
}
