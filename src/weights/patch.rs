//! Changes of stored tensors (what a LoRA file holds), by the name of the tensor they belong to.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Fp8, Stored};
use crate::device::MersenneTwister;
use crate::device::ops::{Matrix, MatrixMut, Threads, gemm};

/// A change of a tensor, seen as a matrix: its first axis, and all others as one.
#[derive(Clone)]
pub enum Patch {
    /// `factor * up @ down`, added. `up`: (rows, rank), `down`: (rank, columns). It may be computed beside the
    /// matrix, which then stays as it is.
    LowRank { up: Stored, down: Stored, factor: f64 },
    /// What needs the whole matrix.
    Whole(Arc<dyn Change>),
}

/// A change of a matrix that needs all of it.
pub trait Change: Send + Sync {
    /// Changes a matrix, row by row in `values`, of so many rows and columns.
    fn apply(&self, values: &mut [f32], size: [usize; 2]);
}

impl Patch {
    /// Changes some rows of a matrix, from `first` on; all of them where [`Patched::needs_all`].
    fn apply(&self, first: usize, values: &mut [f32], columns: usize) {
        let rows = values.len() / columns;
        match self {
            Self::LowRank { up, down, factor } => {
                let rank = down.matrix()[0];
                let mut scaled = vec![0.0; rows * rank];
                up.widen_into(first * rank, &mut scaled);
                let down = down.to_vec();
                let mut delta = vec![0.0; values.len()];
                gemm(
                    Matrix::by_rows(&scaled, rows, rank, rank),
                    Matrix::by_rows(&down, rank, columns, columns),
                    MatrixMut::by_rows(&mut delta, rows, columns, columns),
                    false,
                    Threads::All,
                );
                let factor = *factor as f32;
                values.iter_mut().zip(&delta).for_each(|(value, delta)| *value += factor * delta);
            }
            Self::Whole(change) => change.apply(values, [rows, columns]),
        }
    }
}

/// What changes one tensor, in the order it was added.
#[derive(Clone)]
pub struct Patched {
    pub patches: Vec<Patch>,
    /// Where draws of noise start when the sum is rounded.
    pub seed: u32,
}

impl Patched {
    /// What decides when the sum is rounded.
    pub fn noise(&self) -> MersenneTwister {
        MersenneTwister::new(self.seed)
    }

    /// Whether rows cannot be changed a few at a time.
    pub fn needs_all(&self) -> bool {
        self.patches.iter().any(|patch| matches!(patch, Patch::Whole(_)))
    }

    /// Changes some rows of a matrix, from `first` on.
    pub fn apply(&self, first: usize, values: &mut [f32], columns: usize) {
        for patch in &self.patches {
            patch.apply(first, values, columns);
        }
    }

    /// Changes a tensor and rounds it to the format it is kept in, if that has eight bits.
    pub fn apply_rounded(&self, values: &mut [f32], columns: usize, kept_in: Option<Fp8>) {
        self.apply(0, values, columns);
        if let Some(format) = kept_in {
            format.round_all_by_chance(values, &mut self.noise());
        }
    }
}

/// The patches of a network. Several may sit on one tensor.
#[derive(Clone, Default)]
pub struct Patches(HashMap<String, Patched>);

impl Patches {
    /// Adds a patch to the tensor called `name`. The seed belongs to the tensor.
    pub fn add(&mut self, name: String, seed: u32, patch: Patch) {
        let patched = self.0.entry(name).or_insert_with(|| Patched { patches: Vec::new(), seed });
        patched.patches.push(patch);
    }

    pub fn of(&self, name: &str) -> Option<&Patched> {
        self.0.get(name)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
