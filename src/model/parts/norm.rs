//! Normalisation over the last axis, computed in `f32` whatever comes in.

use candle_core::{DType, Device, Tensor};

use crate::model::Result;
use crate::weights::Weights;

/// `x / sqrt(mean(x^2) + eps) * weight`.
pub struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    /// Reads `weight` at `weights`, `width` numbers.
    pub fn load(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: weights.tensor("weight", &[width])?, eps: eps as f32 })
    }

    /// `x`: (.., width); the same shape and type comes out.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        in_f32(x, |x| candle_nn::ops::rms_norm(x, &self.weight, self.eps))
    }
}

/// `(x - mean(x)) / sqrt(var(x) + eps)`, without weight or bias of its own.
pub struct LayerNorm {
    ones: Tensor,
    zeros: Tensor,
    eps: f32,
}

impl LayerNorm {
    pub fn new(width: usize, eps: f64) -> Result<Self> {
        let ones = Tensor::ones(width, DType::F32, &Device::Cpu)?;
        Ok(Self { zeros: ones.zeros_like()?, ones, eps: eps as f32 })
    }

    /// `x`: (.., width); the same shape and type comes out.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        in_f32(x, |x| candle_nn::ops::layer_norm(x, &self.ones, &self.zeros, self.eps))
    }
}

fn in_f32(x: &Tensor, norm: impl Fn(&Tensor) -> candle_core::Result<Tensor>) -> Result<Tensor> {
    Ok(norm(&x.to_dtype(DType::F32)?.contiguous()?)?.to_dtype(x.dtype())?)
}
