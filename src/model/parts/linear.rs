//! Linear layers: the one owner of weight precision, fp8 scales and LoRA.

use candle_core::{DType, Tensor};

use super::rows::expect_width;
use crate::model::Result;
use crate::weights::{Patch, Stored, Weights};

/// `y = scale * x Wᵀ + b`, plus `factor * (x downᵀ) upᵀ` for each LoRA.
///
/// The matrix stays in its file and is widened into a temporary per call, so a network costs no memory of
/// its own and every network over the same file shares it. A LoRA is two thin products instead of a changed
/// matrix, for the same reason.
pub struct Linear {
    weight: Stored,
    scale: Option<f32>,
    bias: Option<Tensor>,
    patches: Vec<Patch>,
}

impl Linear {
    /// Reads `weight` (outputs, inputs) and `bias` at `weights`.
    pub fn load(weights: &Weights, inputs: usize, outputs: usize) -> Result<Self> {
        let bias = weights.stored("bias", &[outputs])?;
        let bias = rounded(bias, weights).to_tensor()?;
        Ok(Self { bias: Some(bias), ..Self::without_bias(weights, inputs, outputs)? })
    }

    /// Reads `weight` (outputs, inputs) at `weights`.
    pub fn without_bias(weights: &Weights, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = rounded(weights.stored("weight", &[outputs, inputs])?, weights);
        // Two spellings of the scale of an fp8 matrix; the second is the newer one.
        let scale = weights.scalar("scale_weight")?.or(weights.scalar("weight_scale")?);
        Ok(Self { weight, scale, bias: None, patches: weights.patches("weight").to_vec() })
    }

    pub fn inputs(&self) -> usize {
        self.weight.shape()[1]
    }

    pub fn outputs(&self) -> usize {
        self.weight.shape()[0]
    }

    /// `x`: (.., inputs); gives (.., outputs) in the type of `x`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        expect_width(x, self.inputs())?;
        let mut shape = x.dims().to_vec();
        let rows = x.elem_count() / self.inputs();
        let wide = x.to_dtype(DType::F32)?.reshape((rows, self.inputs()))?;
        let mut y = wide.matmul(&widened(&self.weight, x.dtype())?.t()?)?;
        if let Some(scale) = self.scale {
            y = (y * f64::from(scale))?;
        }
        for patch in &self.patches {
            let low = wide.matmul(&patch.down.to_tensor()?.t()?)?;
            y = (y + (low.matmul(&patch.up.to_tensor()?.t()?)? * patch.factor)?)?;
        }
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(&bias.to_dtype(x.dtype())?.to_dtype(DType::F32)?)?;
        }
        if let Some(last) = shape.last_mut() {
            *last = self.outputs();
        }
        Ok(y.to_dtype(x.dtype())?.reshape(shape)?)
    }
}

/// In a file marked as scaled fp8 ComfyUI creates all parameters of linear layers as fp8, so that loading
/// rounds them, biases stored as BF16 included. Results differ visibly without this.
fn rounded(stored: Stored, weights: &Weights) -> Stored {
    match weights.linear_format() {
        Some(format) => stored.rounded_to(format),
        None => stored,
    }
}

/// The matrix as `f32`, with only the values that `compute` can hold.
fn widened(weight: &Stored, compute: DType) -> Result<Tensor> {
    let weight_tensor = weight.to_tensor()?;
    let exact = compute == DType::F32 || weight.dtype().width_bytes() == 1;
    Ok(if exact { weight_tensor } else { weight_tensor.to_dtype(compute)?.to_dtype(DType::F32)? })
}
