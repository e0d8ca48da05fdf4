//! A table of rows, looked up by number.

use candle_core::Tensor;

use crate::model::{Error, Result};
use crate::weights::{Kept, Stored, Weights};

/// Rows stay in the file until they are asked for: a vocabulary of 152064 rows is never widened as a whole.
pub struct Embedding {
    rows: Stored,
    kept: Kept,
    /// All of them where something changes the table, which is rare.
    changed: Option<Vec<f32>>,
}

impl Embedding {
    /// Reads `weight` at `weights`: (count, width).
    pub fn load(weights: &Weights, count: usize, width: usize) -> Result<Self> {
        let rows = weights.stored("weight", &[count, width])?;
        let kept = Kept::read(weights, [count, width])?;
        let changed = weights.patches("weight").map(|patched| {
            let mut values = rows.to_vec();
            kept.restore(0, &mut values, width);
            patched.apply_rounded(&mut values, width, weights.chosen_format());
            values
        });
        Ok(Self { rows, kept, changed })
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
            if let Some(values) = &self.changed {
                row.copy_from_slice(&values[index * width..][..width]);
            } else {
                self.rows.widen_into(index * width, row);
                self.kept.restore(index, row, width);
            }
        }
        Ok(Tensor::from_vec(values, (ids.len(), width), &candle_core::Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use ::safetensors::{Dtype, tensor::TensorView};

    use super::*;
    use crate::weights::File;

    #[test]
    fn rows_in_eight_bits_are_turned_back() {
        let said = br#"{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 4}"#;
        let scales = [1.0f32, 2.0].map(f32::to_le_bytes).concat();
        let views = [
            ("weight", TensorView::new(Dtype::I8, vec![2, 4], &[9, 9, 9, 9, 1, 2, 3, 5]).unwrap()),
            ("weight_scale", TensorView::new(Dtype::F32, vec![2, 1], &scales).unwrap()),
            ("comfy_quant", TensorView::new(Dtype::U8, vec![said.len()], said).unwrap()),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.safetensors");
        std::fs::write(&path, ::safetensors::serialize(views, None).unwrap()).unwrap();
        let weights = Weights::new(File::open(path).unwrap(), "");
        let found = Embedding::load(&weights, 2, 4).unwrap().forward(&[1]).unwrap();
        assert_eq!(found.to_vec2::<f32>().unwrap(), [[1.0, 5.0, 7.0, 9.0]]);
    }
}
