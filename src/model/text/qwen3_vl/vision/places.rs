//! What is learned about the places of a square of patches, stretched over pictures of any size.

use candle_core::{Device, Tensor};

use crate::model::Result;
use crate::model::parts::{Embedding, each_row, with_slices};
use crate::weights::Weights;

use super::super::super::qwen_vl::picture::{AREA, CELL, Grid};

/// One row for each place of the square.
pub struct Places {
    table: Embedding,
    side: usize,
    width: usize,
}

impl Places {
    /// Reads `weight` at `weights`: (side * side, width).
    pub fn load(weights: &Weights, width: usize) -> Result<Self> {
        let count = weights.side("weight", 0)?;
        Ok(Self { table: Embedding::load(weights, count, width)?, side: count.isqrt(), width })
    }

    /// The rows for all patches of a picture, between the nearest four each: (patches, width).
    pub fn of(&self, grid: Grid) -> Result<Tensor> {
        let every: Vec<u32> = (0..(self.side * self.side) as u32).collect();
        let table = self.table.forward(&every)?;
        let [rows, columns] = [grid.rows, grid.columns].map(|cells| self.between(cells));
        let patches: Vec<[usize; 2]> = grid.patches().collect();
        let mut out = vec![0.0; AREA * grid.cells() * self.width];
        with_slices([&table], |[table]| {
            each_row(&mut out, self.width, |patch, out| {
                let [row, column] = patches[patch];
                for (above, part_above) in rows[row] {
                    for (left, part_left) in columns[column] {
                        let place = &table[(above * self.side + left) * self.width..];
                        let part = part_above * part_left;
                        out.iter_mut().zip(place).for_each(|(out, place)| *out += part * place);
                    }
                }
            });
        })?;
        Ok(Tensor::from_vec(out, (patches.len(), self.width), &Device::Cpu)?)
    }

    /// For each patch of a side of so many cells the two places it lies between, and how much each counts. The corners
    /// of the picture are those of the square.
    fn between(&self, cells: usize) -> Vec<[(usize, f32); 2]> {
        let (count, last) = (CELL * cells, self.side.saturating_sub(1));
        let place = |patch: usize| {
            let at = patch as f32 * last as f32 / (count - 1) as f32;
            let part = at - at.floor();
            let first = at as usize;
            [(first.min(last), 1.0 - part), ((first + 1).min(last), part)]
        };
        (0..count).map(place).collect()
    }
}
