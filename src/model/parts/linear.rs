//! Linear layers: the one owner of weight precision, fp8 scales and LoRA.

use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::rows::{expect_width, round_to, with_slices};
use crate::device::MersenneTwister;
use crate::device::ops::{Left, Matrix, MatrixMut, Threads, Unit, gemm, multiply_bf16};
use crate::model::Result;
use crate::weights::{Fp8, Patch, Patched, Stored, Weights};

/// Widened weights held at a time, in elements: enough rows for a matrix product to run at full speed, and
/// far less than the largest matrix.
const PANEL: usize = 1 << 23;

/// Up to this many rows of input, reading the weights costs more than the arithmetic.
const FEW_ROWS: usize = 4;

/// `y = scale * x Wᵀ + b`, plus `factor * (x downᵀ) upᵀ` for each LoRA.
///
/// The matrix stays in its file and is widened, or laid out for the processor, panel by panel in each call, so a
/// network costs no memory of its own and every network over the same file shares it. A LoRA is two thin products
/// instead of a changed matrix, for the same reason. The changed matrix is made, anew in each call, where it is more
/// than such a sum, and where it is kept in fp8, since the sum is rounded.
pub struct Linear {
    weight: Stored,
    scale: Option<f32>,
    bias: Option<Bias>,
    patched: Option<Patched>,
    /// What changed parameters are kept in.
    sum_format: Option<Fp8>,
}

/// A bias, which stays in its file like the matrix.
struct Bias {
    values: Stored,
    patched: Option<Patched>,
}

impl Linear {
    /// Reads `weight` (outputs, inputs) and `bias` at `weights`.
    pub fn load(weights: &Weights, inputs: usize, outputs: usize) -> Result<Self> {
        let values = weights.linear_parameter("bias", &[outputs])?;
        let bias = Bias { values, patched: weights.patches("bias").cloned() };
        Ok(Self { bias: Some(bias), ..Self::without_bias(weights, inputs, outputs)? })
    }

    /// Reads `weight` (outputs, inputs) at `weights`.
    pub fn without_bias(weights: &Weights, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = weights.linear_parameter("weight", &[outputs, inputs])?;
        // Two spellings of the scale of an fp8 matrix; the second is the newer one.
        let scale = weights.scalar("scale_weight")?.or(weights.scalar("weight_scale")?);
        let patched = weights.patches("weight").cloned();
        Ok(Self { weight, scale, bias: None, patched, sum_format: weights.sum_format() })
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
        shape.pop();
        shape.push(self.outputs());
        let y = with_slices([x], |[values]| self.apply(values, x.dtype()))?;
        Ok(Tensor::from_vec(y, shape, &Device::Cpu)?.to_dtype(x.dtype())?)
    }

    fn apply(&self, x: &[f32], compute: DType) -> Vec<f32> {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let rows = x.len() / inputs;
        let mut y = vec![0.0; rows * outputs];
        let changed = self.patched.iter().find(|patched| self.sum_format.is_some() || patched.needs_all());
        match changed {
            Some(patched) => self.multiply_changed(x, patched, compute, &mut y),
            None => multiply(x, &self.weight, compute, &mut y),
        }
        if self.scale.is_some() || self.bias.is_some() {
            let scale = self.scale.unwrap_or(1.0);
            let mut bias = self.bias_values();
            round_to(compute, &mut bias);
            y.par_chunks_mut(outputs).with_min_len(PANEL.div_ceil(outputs) >> 8).for_each(|row| {
                for (y, bias) in row.iter_mut().zip(&bias) {
                    *y = *y * scale + bias;
                }
            });
        }
        let beside = self.patched.iter().filter(|_| changed.is_none());
        for patch in beside.flat_map(|patched| &patched.patches) {
            if let Patch::LowRank { up, down, factor } = patch {
                add_low_rank(x, [up, down], *factor as f32, &mut y);
            }
        }
        y
    }

    fn bias_values(&self) -> Vec<f32> {
        let Some(bias) = &self.bias else { return vec![0.0; self.outputs()] };
        let mut values = bias.values.to_vec();
        if let Some(patched) = &bias.patched {
            patched.apply_rounded(&mut values, 1, self.sum_format);
        }
        values
    }

    /// `y = x W'ᵀ` with the matrix W' that the patches make of W. One kept in eight bits is rounded back by
    /// chance, as in ComfyUI. It is made panel by panel in each call: kept, it would be a second copy of the matrix.
    fn multiply_changed(&self, x: &[f32], patched: &Patched, compute: DType, y: &mut [f32]) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let (rows, scale) = (x.len() / inputs, self.scale.unwrap_or(1.0));
        // One draw for each element of the matrix, in order.
        let mut noise = MersenneTwister::new(patched.seed);
        let panel_rows =
            if patched.needs_all() { outputs } else { (PANEL / inputs).clamp(1, outputs.max(1)) };
        let mut panel = vec![0.0; panel_rows * inputs];
        for first in (0..outputs).step_by(panel_rows.max(1)) {
            let count = panel_rows.min(outputs - first);
            let panel = &mut panel[..count * inputs];
            self.weight.widen_into(first * inputs, panel);
            for value in panel.iter_mut() {
                *value *= scale;
            }
            patched.apply(first, panel, inputs);
            if let Some(format) = self.sum_format {
                let chances: Vec<f32> = panel.iter().map(|_| noise.uniform()).collect();
                panel.par_iter_mut().zip(&chances).with_min_len(1 << 12).for_each(|(value, chance)| {
                    *value = format.round_by_chance(*value / scale, *chance);
                });
            } else {
                panel.par_iter_mut().with_min_len(1 << 14).for_each(|value| *value /= scale);
                round_to(compute, panel);
            }
            gemm(
                Matrix::by_rows(x, rows, inputs, inputs),
                Matrix::by_rows(panel, count, inputs, inputs).transposed(),
                MatrixMut::by_rows(&mut y[first..], rows, count, outputs),
                false,
                Threads::All,
            );
        }
    }
}

/// `y += factor * (x downᵀ) upᵀ`.
fn add_low_rank(x: &[f32], [up, down]: [&Stored; 2], factor: f32, y: &mut [f32]) {
    let ([outputs, rank], [_, inputs]) = (up.matrix(), down.matrix());
    let rows = x.len() / inputs;
    let mut low = vec![0.0; rows * rank];
    multiply(x, down, DType::F32, &mut low);
    for value in &mut low {
        *value *= factor;
    }
    let up = up.to_vec();
    let up = Matrix::by_rows(&up, outputs, rank, rank).transposed();
    let y = MatrixMut::by_rows(y, rows, outputs, outputs);
    gemm(Matrix::by_rows(&low, rows, rank, rank), up, y, true, Threads::All);
}

/// `y = x Wᵀ`. `x`: (rows, inputs), `y`: (rows, outputs).
fn multiply(x: &[f32], weight: &Stored, compute: DType, y: &mut [f32]) {
    let [outputs, inputs] = weight.matrix();
    let rows = x.len() / inputs;
    if rows <= FEW_ROWS {
        return multiply_few(x, weight, compute, y);
    }
    let left = if compute == DType::BF16 { Left::Narrow } else { Left::Wide };
    if let Some(unit) = Unit::for_left(left).filter(|_| weight.is_bf16()) {
        let row = |index: usize, row: &mut [bf16]| weight.narrow_into(index * inputs, row);
        return multiply_bf16(unit, (x, left), [inputs, outputs], row, y);
    }
    let panel_rows = (PANEL / inputs).clamp(1, outputs.max(1));
    let mut panel = vec![0.0; panel_rows * inputs];
    for first in (0..outputs).step_by(panel_rows) {
        let count = panel_rows.min(outputs - first);
        let panel = &mut panel[..count * inputs];
        widen(weight, first * inputs, compute, panel);
        gemm(
            Matrix::by_rows(x, rows, inputs, inputs),
            Matrix::by_rows(panel, count, inputs, inputs).transposed(),
            MatrixMut::by_rows(&mut y[first..], rows, count, outputs),
            false,
            Threads::All,
        );
    }
}

/// [`multiply`] for a few rows: each weight is widened into the cache, used and forgotten.
fn multiply_few(x: &[f32], weight: &Stored, compute: DType, y: &mut [f32]) {
    let [outputs, inputs] = weight.matrix();
    let columns: Vec<Vec<f32>> = (0..outputs)
        .into_par_iter()
        .map_init(
            || vec![0.0; inputs],
            |row, index| {
                widen(weight, index * inputs, compute, row);
                x.chunks(inputs).map(|x| dot(x, row)).collect()
            },
        )
        .collect();
    for (index, column) in columns.iter().enumerate() {
        for (row, value) in column.iter().enumerate() {
            y[row * outputs + index] = *value;
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut partial = [0.0f32; 16];
    let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((partial, a), b) in partial.iter_mut().zip(a).zip(b) {
            *partial += a * b;
        }
    }
    partial.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Weights from element `first` on, with only the values that `compute` can hold.
fn widen(weight: &Stored, first: usize, compute: DType, out: &mut [f32]) {
    weight.widen_into(first, out);
    // Every fp8 value is a BF16 value.
    if weight.dtype().width_bytes() > 1 {
        round_to(compute, out);
    }
}
