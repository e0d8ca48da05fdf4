//! Linear layers: the one owner of weight precision, fp8 scales and LoRA.

use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::rows::{expect_width, round_to, with_slices};
use crate::device::MersenneTwister;
use crate::device::ops::{Left, Matrix, MatrixMut, Threads, Unit, gemm, multiply_bf16};
use crate::model::Result;
use crate::weights::{Fp8, Patched, Stored, Weights};

/// Widened weights held at a time, in elements: enough rows for a matrix product to run at full speed, and
/// far less than the largest matrix.
const PANEL: usize = 1 << 23;

/// Up to this many rows of input, reading the weights costs more than the arithmetic.
const FEW_ROWS: usize = 4;

/// `y = scale * x Wᵀ + b`, plus `factor * (x downᵀ) upᵀ` for each LoRA.
///
/// The matrix stays in its file and is widened panel by panel in each call, so a network costs no memory of
/// its own and every network over the same file shares it. A LoRA is two thin products instead of a changed
/// matrix, for the same reason; only a matrix kept in fp8 is added up with it, since the sum is rounded.
pub struct Linear {
    weight: Stored,
    scale: Option<f32>,
    bias: Option<Vec<f32>>,
    patched: Option<Patched>,
    /// What the sum of matrix and patches is kept in.
    sum_format: Option<Fp8>,
}

impl Linear {
    /// Reads `weight` (outputs, inputs) and `bias` at `weights`.
    pub fn load(weights: &Weights, inputs: usize, outputs: usize) -> Result<Self> {
        let bias = rounded(weights.stored("bias", &[outputs])?, weights).to_vec();
        Ok(Self { bias: Some(bias), ..Self::without_bias(weights, inputs, outputs)? })
    }

    /// Reads `weight` (outputs, inputs) at `weights`.
    pub fn without_bias(weights: &Weights, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = rounded(weights.stored("weight", &[outputs, inputs])?, weights);
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
        match (&self.patched, self.sum_format) {
            (Some(patched), Some(format)) => self.multiply_rounded(x, patched, format, &mut y),
            _ => multiply(x, &self.weight, compute, &mut y),
        }
        if self.scale.is_some() || self.bias.is_some() {
            let scale = self.scale.unwrap_or(1.0);
            let mut bias = self.bias.clone().unwrap_or_else(|| vec![0.0; outputs]);
            round_to(compute, &mut bias);
            y.par_chunks_mut(outputs).with_min_len(PANEL.div_ceil(outputs) >> 8).for_each(|row| {
                for (y, bias) in row.iter_mut().zip(&bias) {
                    *y = *y * scale + bias;
                }
            });
        }
        let beside = self.patched.iter().filter(|_| self.sum_format.is_none());
        for patch in beside.flat_map(|patched| &patched.patches) {
            let rank = patch.down.shape()[0];
            let mut low = vec![0.0; rows * rank];
            multiply(x, &patch.down, DType::F32, &mut low);
            for value in &mut low {
                *value *= patch.factor as f32;
            }
            let up = patch.up.to_vec();
            let up = Matrix::by_rows(&up, outputs, rank, rank).transposed();
            let y = MatrixMut::by_rows(&mut y, rows, outputs, outputs);
            gemm(Matrix::by_rows(&low, rows, rank, rank), up, y, true, Threads::All);
        }
        y
    }

    /// `y = x W'ᵀ` with the sum W' of matrix and patches rounded back to the format of the matrix, by chance as
    /// in ComfyUI. The sum is made panel by panel in each call: kept, it would be a second copy of the matrix.
    fn multiply_rounded(&self, x: &[f32], patched: &Patched, format: Fp8, y: &mut [f32]) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let (rows, scale) = (x.len() / inputs, self.scale.unwrap_or(1.0));
        let factors: Vec<_> = patched
            .patches
            .iter()
            .map(|patch| (patch.up.to_vec(), patch.down.to_vec(), patch.down.shape()[0], patch.factor as f32))
            .collect();
        // One draw for each element of the matrix, in order.
        let mut noise = MersenneTwister::new(patched.seed);
        let panel_rows = (PANEL / inputs).clamp(1, outputs.max(1));
        let mut panel = vec![0.0; panel_rows * inputs];
        let mut delta = panel.clone();
        for first in (0..outputs).step_by(panel_rows) {
            let count = panel_rows.min(outputs - first);
            let (panel, delta) = (&mut panel[..count * inputs], &mut delta[..count * inputs]);
            self.weight.widen_into(first * inputs, panel);
            for value in panel.iter_mut() {
                *value *= scale;
            }
            for (up, down, rank, factor) in &factors {
                let up = Matrix::by_rows(&up[first * rank..], count, *rank, *rank);
                let down = Matrix::by_rows(down, *rank, inputs, inputs);
                gemm(up, down, MatrixMut::by_rows(delta, count, inputs, inputs), false, Threads::All);
                panel.iter_mut().zip(&*delta).for_each(|(value, delta)| *value += factor * delta);
            }
            delta.fill_with(|| noise.uniform());
            panel.par_iter_mut().zip(&*delta).with_min_len(1 << 12).for_each(|(value, chance)| {
                *value = format.round_by_chance(*value / scale, *chance);
            });
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

/// `y = x Wᵀ`. `x`: (rows, inputs), `y`: (rows, outputs).
fn multiply(x: &[f32], weight: &Stored, compute: DType, y: &mut [f32]) {
    let (outputs, inputs) = (weight.shape()[0], weight.shape()[1]);
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
    let (outputs, inputs) = (weight.shape()[0], weight.shape()[1]);
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

/// In a file marked as scaled fp8 ComfyUI creates all parameters of linear layers as fp8, so that loading
/// rounds them, biases stored as BF16 included. Results differ visibly without this.
fn rounded(stored: Stored, weights: &Weights) -> Stored {
    match weights.linear_format() {
        Some(format) => stored.rounded_to(format),
        None => stored,
    }
}

/// Weights from element `first` on, with only the values that `compute` can hold.
fn widen(weight: &Stored, first: usize, compute: DType, out: &mut [f32]) {
    weight.widen_into(first, out);
    // Every fp8 value is a BF16 value.
    if weight.dtype().width_bytes() > 1 {
        round_to(compute, out);
    }
}
