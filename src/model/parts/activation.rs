//! Activation functions.
#![expect(clippy::inline_always, reason = "a call in a loop would keep it from becoming vector instructions")]

use std::f32::consts::{FRAC_2_SQRT_PI, SQRT_2};

use candle_core::Tensor;

use crate::device::ops::exp;
use crate::model::Result;

/// `x * sigmoid(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// The exact GELU, `x * Phi(x)`.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    Ok(x.gelu_erf()?)
}

/// GELU by its tanh approximation, written with `(1 + tanh(u)) / 2 = 1 / (1 + exp(-2u))`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const TWICE_ROOT: f32 = FRAC_2_SQRT_PI * SQRT_2; // 2 sqrt(2 / pi)
    x / (1.0 + exp(-TWICE_ROOT * (x + 0.044_715 * x * x * x)))
}
