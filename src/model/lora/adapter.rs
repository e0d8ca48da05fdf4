//! Changes that need the whole matrix: adapters, DoRA's magnitudes, differences, replacements.

use rayon::prelude::*;

use super::delta::Delta;
use crate::weights::{Change, Stored};

/// A [`Delta`] at some strength.
pub(super) struct Adapter {
    pub delta: Delta,
    /// What the delta is multiplied with, besides the strength.
    pub scale: f32,
    pub strength: f32,
    /// Magnitudes of the sum's rows or columns, where a file has them.
    pub magnitudes: Option<Magnitudes>,
}

/// DoRA: the sum gets these norms (Liu et al., 2024).
pub(super) struct Magnitudes {
    pub norms: Stored,
    pub of: Lines,
}

/// Rows or columns of a matrix.
#[derive(Clone, Copy)]
pub(super) enum Lines {
    Rows,
    Columns,
}

impl Change for Adapter {
    fn apply(&self, values: &mut [f32], size: [usize; 2]) {
        let delta = self.delta.for_matrix(values, size, self.strength);
        match &self.magnitudes {
            None => add(values, &delta, self.strength * self.scale),
            Some(magnitudes) => {
                let mut sum = values.to_vec();
                add(&mut sum, &delta, self.scale);
                magnitudes.give(&mut sum, values, size[1]);
                values.par_iter_mut().zip(&sum).with_min_len(1 << 14).for_each(|(value, sum)| {
                    *value += self.strength * (sum - *value);
                });
            }
        }
    }
}

impl Magnitudes {
    /// Scales the lines of `sum`. As in ComfyUI, rows by the norms they had before, columns by those they have.
    fn give(&self, sum: &mut [f32], before: &[f32], columns: usize) {
        let norms = self.norms.to_vec();
        match self.of {
            Lines::Rows => {
                let rows = sum.par_chunks_mut(columns).zip(before.par_chunks(columns)).zip(&norms);
                rows.for_each(|((row, before), wanted)| {
                    let norm = before.iter().map(|x| x * x).sum::<f32>().sqrt() + f32::EPSILON;
                    for value in row {
                        *value *= wanted / norm;
                    }
                });
            }
            Lines::Columns => {
                let mut squares = vec![0.0f64; columns];
                for row in sum.chunks(columns) {
                    squares.iter_mut().zip(row).for_each(|(square, x)| *square += f64::from(x * x));
                }
                let factors: Vec<f32> = norms
                    .iter()
                    .zip(&squares)
                    .map(|(wanted, square)| wanted / (square.sqrt() as f32 + f32::EPSILON))
                    .collect();
                sum.par_chunks_mut(columns).for_each(|row| {
                    row.iter_mut().zip(&factors).for_each(|(value, factor)| *value *= factor);
                });
            }
        }
    }
}

/// A difference of the matrix's own size.
pub(super) struct Difference {
    pub delta: Stored,
    pub strength: f32,
}

impl Change for Difference {
    fn apply(&self, values: &mut [f32], _size: [usize; 2]) {
        add(values, &self.delta.to_vec(), self.strength);
    }
}

/// Other values, whatever the strength.
pub(super) struct Replacement(pub Stored);

impl Change for Replacement {
    fn apply(&self, values: &mut [f32], _size: [usize; 2]) {
        self.0.widen_into(0, values);
    }
}

fn add(values: &mut [f32], delta: &[f32], factor: f32) {
    values
        .par_iter_mut()
        .zip(delta)
        .with_min_len(1 << 14)
        .for_each(|(value, delta)| *value += factor * delta);
}
