//! Normalisation over the last axis, computed in `f32` whatever comes in.
#![expect(clippy::inline_always, reason = "a call in a loop would keep it from becoming vector instructions")]

use candle_core::Tensor;

use super::rows::{expect_width, map_rows, with_slices};
use crate::device::ops::vectorised;
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

    /// [`RmsNorm::load`] of weights that are told from one.
    pub fn around_one(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        let mut norm = Self::load(weights, width, eps)?;
        norm.weight.iter_mut().for_each(|weight| *weight += 1.0);
        Ok(norm)
    }

    /// `x`: (.., width); the same shape and type comes out.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        expect_width(x, self.weight.len())?;
        map_rows(x, |_, row, out| self.row(row, out))
    }

    pub fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// Normalises one row.
    pub fn row(&self, row: &[f32], out: &mut [f32]) {
        normalise(row, &self.weight, self.eps, out);
    }

    /// Normalises one row where it is.
    pub fn row_in_place(&self, row: &mut [f32]) {
        normalise_in_place(row, &self.weight, self.eps);
    }
}

vectorised! {
    fn normalise(row: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let scale = 1.0 / (sum(row, |x| x * x) / row.len() as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(row).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

vectorised! {
    fn normalise_in_place(row: &mut [f32], weight: &[f32], eps: f32) {
        let scale = 1.0 / (sum(row, |x| x * x) / row.len() as f32 + eps).sqrt();
        for (x, weight) in row.iter_mut().zip(weight) {
            *x = *x * scale * weight;
        }
    }
}

/// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`.
pub struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

impl LayerNorm {
    /// Reads `weight` and `bias` at `weights`, `width` numbers each.
    pub fn load(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        let vector = |name| Ok::<_, crate::model::Error>(weights.tensor(name, &[width])?.to_vec1()?);
        Ok(Self { weight: vector("weight")?, bias: vector("bias")?, eps: eps as f32 })
    }

    /// `x`: (.., width); the same shape and type comes out.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        expect_width(x, self.weight.len())?;
        map_rows(x, |_, row, out| centre(row, [&self.weight, &self.bias], self.eps, out))
    }
}

vectorised! {
    fn centre(row: &[f32], vectors: [&[f32]; 2], eps: f32, out: &mut [f32]) {
        let [weight, bias] = vectors;
        let mean = sum(row, |x| x) / row.len() as f32;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / row.len() as f32;
        let deviation = 1.0 / (variance + eps).sqrt();
        for (((out, x), weight), bias) in out.iter_mut().zip(row).zip(weight).zip(bias) {
            *out = (x - mean) * deviation * weight + bias;
        }
    }
}

/// `(x - mean(x)) / sqrt(var(x) + eps)`, then `* (1 + scale) + shift` with vectors of the moment: the
/// adaptive layer norm of diffusion transformers (Peebles and Xie, 2022), which has no weight of its own.
///
/// `x`: (.., width); `shift`, `scale`: `width` numbers.
pub fn modulated_norm(x: &Tensor, shift: &Tensor, scale: &Tensor, eps: f32) -> Result<Tensor> {
    with_slices([shift, scale], |[shift, scale]| {
        map_rows(x, |_, row, out| modulated_row(row, [shift, scale], eps, out))
    })?
}

vectorised! {
    /// [`modulated_norm`] of one row, with (shift, scale).
    pub fn modulated_row(row: &[f32], vectors: [&[f32]; 2], eps: f32, out: &mut [f32]) {
        let [shift, scale] = vectors;
        let mean = sum(row, |x| x) / row.len() as f32;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / row.len() as f32;
        let deviation = 1.0 / (variance + eps).sqrt();
        for (((out, x), shift), scale) in out.iter_mut().zip(row).zip(shift).zip(scale) {
            *out = (x - mean) * deviation * (1.0 + scale) + shift;
        }
    }
}

/// The sum of `f(x)`, in sixteen partial sums: more exact than one, and open to vector instructions.
#[inline(always)]
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
