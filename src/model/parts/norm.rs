//! Normalisation over the last axis, computed in `f32` whatever comes in.

use candle_core::Tensor;

use super::rows::{expect_width, map_rows, with_slices};
use crate::model::Result;
use crate::weights::Weights;

/// `x / sqrt(mean(x^2) + eps) * weight`.
pub struct RmsNorm {
    weight: Vec<f32>,
    eps: f32,
}

impl RmsNorm {
    /// Reads `weight` at `weights`, `width` numbers.
    pub fn load(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        let weight = weights.tensor("weight", &[width])?.to_vec1()?;
        Ok(Self { weight, eps: eps as f32 })
    }

    /// `x`: (.., width); the same shape and type comes out.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        expect_width(x, self.weight.len())?;
        map_rows(x, |_, row, out| self.row(row, out))
    }

    /// Normalises one row.
    pub fn row(&self, row: &[f32], out: &mut [f32]) {
        let scale = 1.0 / (sum(row, |x| x * x) / row.len() as f32 + self.eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(row).zip(&self.weight) {
            *out = x * scale * weight;
        }
    }
}

/// `(x - mean(x)) / sqrt(var(x) + eps)`, then `* (1 + scale) + shift` with vectors of the moment: the
/// adaptive layer norm of diffusion transformers (Peebles and Xie, 2022), which has no weight of its own.
///
/// `x`: (.., width); `shift`, `scale`: `width` numbers.
pub fn modulated_norm(x: &Tensor, shift: &Tensor, scale: &Tensor, eps: f32) -> Result<Tensor> {
    with_slices([shift, scale], |[shift, scale]| {
        map_rows(x, |_, row, out| {
            let mean = sum(row, |x| x) / row.len() as f32;
            let variance = sum(row, |x| (x - mean) * (x - mean)) / row.len() as f32;
            let deviation = 1.0 / (variance + eps).sqrt();
            for (((out, x), shift), scale) in out.iter_mut().zip(row).zip(shift).zip(scale) {
                *out = (x - mean) * deviation * (1.0 + scale) + shift;
            }
        })
    })?
}

/// The sum of `f(x)`, in sixteen partial sums: more exact than one, and open to vector instructions.
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut partial = [0.0f32; 16];
    let (blocks, rest) = row.as_chunks::<16>();
    for block in blocks {
        for (partial, x) in partial.iter_mut().zip(block) {
            *partial += f(*x);
        }
    }
    partial.iter().sum::<f32>() + rest.iter().map(|x| f(*x)).sum::<f32>()
}
