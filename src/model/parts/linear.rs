//! Linear layers: the one owner of weight precision, fp8 scales and LoRA.

mod on_card;

pub use on_card::{LinearOnCard, Scratch, Spread, Then};

use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::rows::{expect_width, round_to, with_slices};
use crate::device::ops::{
    self, Factor, Finish, LaidOut, Matrix, MatrixMut, Numbers, Threads, UNDIVIDED, Unit, gemm, vectorised,
    zeros,
};
use crate::model::Result;
use crate::weights::{Fp8, Kept, Patch, Patched, Stored, Weights};

/// Widened weights held at a time, in elements: enough rows for a matrix product to run at full speed, and
/// far less than the largest matrix.
const PANEL: usize = 1 << 23;

/// Up to this many rows of input, reading the weights costs more than the arithmetic.
const FEW_ROWS: usize = 4;

/// `y = scales * x Wᵀ + b`, plus `factor * (x downᵀ) upᵀ` for each LoRA.
///
/// The matrix stays in its file and is widened, or laid out for the processor, panel by panel in each call, so a
/// network costs no memory of its own and every network over the same file shares it. A LoRA is two thin products
/// instead of a changed matrix, for the same reason. The changed matrix is made, anew in each call, where it is more
/// than such a sum, and where it is kept in fp8, since the sum is rounded.
pub struct Linear {
    weight: Stored,
    kept: Kept,
    bias: Option<Bias>,
    patched: Option<Patched>,
    /// What changed parameters are kept in.
    sum_format: Option<Fp8>,
    /// What becomes of `f32` input.
    numbers: Numbers,
    /// Whether graphics cards round the matrix to eight bits.
    eight_bits_on_cards: bool,
}

/// Rows of numbers on their way into layers.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub values: &'a [f32],
    /// The same, laid out for the processor's unit: worth it where several layers read them.
    pub laid_out: Option<&'a LaidOut>,
    /// Whether everything is rounded to BF16: what comes in has been, and what comes out is.
    pub rounded: bool,
}

impl<'a> Input<'a> {
    /// Lays rows of `width` numbers out, where there is a unit.
    pub fn laid_out(
        values: &'a [f32],
        width: usize,
        (numbers, rounded): (Numbers, bool),
        room: &'a mut LaidOut,
    ) -> Self {
        let numbers = if rounded { Numbers::Rounded } else { numbers };
        let worth = Unit::fastest(numbers).is_some() && values.len() > FEW_ROWS * width;
        let laid_out = worth.then(|| {
            room.fill(values, width, numbers);
            &*room
        });
        Self { values, laid_out, rounded }
    }
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
        let kept = Kept::read(weights, [outputs, inputs])?;
        let patched = weights.patches("weight").cloned();
        let (sum_format, numbers) = (weights.sum_format(), weights.numbers());
        Ok(Self { weight, kept, bias: None, patched, sum_format, numbers, eight_bits_on_cards: false })
    }

    /// The same layer, whose matrix graphics cards round to eight bits, if so.
    #[must_use]
    pub fn in_eight_bits_on_cards(self, eight_bits_on_cards: bool) -> Self {
        Self { eight_bits_on_cards, ..self }
    }

    pub fn inputs(&self) -> usize {
        self.weight.shape()[1]
    }

    pub fn outputs(&self) -> usize {
        self.weight.shape()[0]
    }

    /// `x`: (.., inputs); gives (.., outputs) in the type of `x`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_then(x, |y| y)
    }

    /// [`Linear::forward`], and then a function of every element.
    pub fn forward_then(&self, x: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
        expect_width(x, self.inputs())?;
        let mut shape = x.dims().to_vec();
        shape.pop();
        shape.push(self.outputs());
        let rounded = x.dtype() == DType::BF16;
        let mut y = zeros(shape.iter().product());
        with_slices([x], |[values]| {
            let input = Input { values, laid_out: None, rounded };
            self.apply(input, &mut y, &|_, _, y| activate(&f, y));
        })?;
        Ok(Tensor::from_vec(y, shape, &Device::Cpu)?.to_dtype(x.dtype())?)
    }

    /// Writes what comes of rows of input to `y`, finished by `then`, which is told rows in parts of whole multiples of
    /// [`UNDIVIDED`] columns.
    pub fn apply(&self, x: Input<'_>, y: &mut [f32], then: &Finish<'_>) {
        let outputs = self.outputs();
        let changed = self.patched.iter().find(|patched| self.sum_format.is_some() || patched.needs_all());
        let beside = if changed.is_none() { self.beside(x) } else { None };
        let scales = self.kept.scales(outputs);
        let mut bias = self.bias_values();
        if x.rounded {
            round(&mut bias);
        }
        let finish = |row: usize, first: usize, y: &mut [f32]| {
            scale_and_shift(y, &scales[first..], &bias[first..]);
            if let Some(beside) = &beside {
                add(&beside[row * outputs + first..], y);
            }
            if x.rounded {
                round(y);
            }
            then(row, first, y);
            if x.rounded {
                round(y);
            }
        };
        if let Some(patched) = changed {
            return self.multiply_changed(x, patched, y, &finish);
        }
        let turned = self.kept.turned(x.values, self.inputs());
        let x = turned.as_ref().map_or(x, |values| Input { values, laid_out: None, ..x });
        multiply(x, self.numbers(x), &self.weight, y, &finish);
    }

    /// What low-rank patches add: `factor * (x downᵀ) upᵀ` of all of them.
    fn beside(&self, x: Input<'_>) -> Option<Vec<f32>> {
        let (rows, outputs) = (x.values.len() / self.inputs(), self.outputs());
        let mut sum: Option<Vec<f32>> = None;
        for patch in self.patched.iter().flat_map(|patched| &patched.patches) {
            let Patch::LowRank { up, down, factor } = patch else { continue };
            let factor = *factor as f32;
            let mut low = vec![0.0; rows * down.matrix()[0]];
            let scaled = |_: usize, _: usize, low: &mut [f32]| low.iter_mut().for_each(|low| *low *= factor);
            multiply(x, self.numbers(x), down, &mut low, &scaled);
            let onto = |row: usize, first: usize, next: &mut [f32]| {
                if let Some(sum) = &sum {
                    add(&sum[row * outputs + first..], next);
                }
            };
            let mut next = zeros(rows * outputs);
            multiply(Input { values: &low, laid_out: None, ..x }, self.numbers(x), up, &mut next, &onto);
            sum = Some(next);
        }
        sum
    }

    /// What becomes of the numbers of some input.
    fn numbers(&self, x: Input<'_>) -> Numbers {
        if x.rounded { Numbers::Rounded } else { self.numbers }
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
    fn multiply_changed(&self, x: Input<'_>, patched: &Patched, y: &mut [f32], finish: &Finish<'_>) {
        let (inputs, outputs, rows) = (self.inputs(), self.outputs(), x.values.len() / self.inputs());
        let mut noise = patched.noise();
        let some = (PANEL / inputs / UNDIVIDED).max(1) * UNDIVIDED;
        let panel_rows = if patched.needs_all() { outputs } else { some.min(outputs) };
        let mut panel = vec![0.0; panel_rows * inputs];
        let mut sums = vec![0.0; if panel_rows < outputs { rows * panel_rows } else { 0 }];
        for first in (0..outputs).step_by(panel_rows.max(1)) {
            let count = panel_rows.min(outputs - first);
            let panel = &mut panel[..count * inputs];
            self.weight.widen_into(first * inputs, panel);
            self.kept.restore(first, panel, inputs);
            patched.apply(first, panel, inputs);
            self.kept.divide(first, panel, inputs);
            if let Some(format) = self.sum_format {
                format.round_all_by_chance(panel, &mut noise);
            } else {
                round_to(if x.rounded { DType::BF16 } else { DType::F32 }, panel);
            }
            let narrow = self.sum_format.is_some() || x.rounded;
            if count == outputs {
                multiply_panel((x, self.numbers(x)), panel, inputs, narrow, y, finish);
                continue;
            }
            let sums = &mut sums[..rows * count];
            let finish = |row: usize, column: usize, sums: &mut [f32]| finish(row, first + column, sums);
            multiply_panel((x, self.numbers(x)), panel, inputs, narrow, sums, &finish);
            for (y, sums) in y.chunks_mut(outputs).zip(sums.chunks(count)) {
                y[first..][..count].copy_from_slice(sums);
            }
        }
    }
}

vectorised! {
    fn scale_and_shift(y: &mut [f32], scales: &[f32], bias: &[f32]) {
        for ((y, scale), bias) in y.iter_mut().zip(scales).zip(bias) {
            *y = *y * scale + bias;
        }
    }
}

vectorised! {
    fn add(added: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(added).for_each(|(y, added)| *y += added);
    }
}

vectorised! {
    fn activate(f: &impl Fn(f32) -> f32, y: &mut [f32]) {
        for y in y {
            *y = f(*y);
        }
    }
}

fn round(y: &mut [f32]) {
    for y in y {
        *y = bf16::from_f32(*y).to_f32();
    }
}

/// `y = x Wᵀ`, finished. `x`: (rows, inputs), `y`: (rows, outputs).
fn multiply(x: Input<'_>, numbers: Numbers, weight: &Stored, y: &mut [f32], finish: &Finish<'_>) {
    let [outputs, inputs] = weight.matrix();
    let rows = x.values.len() / inputs;
    if rows <= FEW_ROWS {
        return multiply_few((x.values, numbers), weight, y, finish);
    }
    if let Some(unit) = Unit::fastest(numbers) {
        let narrow = |row: usize, first: usize, to: &mut [bf16]| weight.narrow_into(row * inputs + first, to);
        let wide = |row: usize, first: usize, to: &mut [f32]| weight.widen_few_into(row * inputs + first, to);
        let weights = if weight.is_bf16() { Factor::Narrow(&narrow) } else { Factor::Wide(&wide) };
        return multiply_by_unit(unit, (x, numbers), [inputs, outputs], &weights, y, finish);
    }
    let panel_rows = (PANEL / inputs).clamp(1, outputs.max(1));
    let mut panel = vec![0.0; panel_rows * inputs];
    for first in (0..outputs).step_by(panel_rows) {
        let count = panel_rows.min(outputs - first);
        let panel = &mut panel[..count * inputs];
        widen(weight, first * inputs, numbers, panel);
        gemm(
            Matrix::by_rows(x.values, rows, inputs, inputs),
            Matrix::by_rows(panel, count, inputs, inputs).transposed(),
            MatrixMut::by_rows(&mut y[first..], rows, count, outputs),
            false,
            Threads::All,
        );
    }
    finish_rows(outputs, y, finish);
}

fn multiply_by_unit(
    unit: Unit,
    (x, numbers): (Input<'_>, Numbers),
    sizes: [usize; 2],
    weights: &Factor<'_>,
    y: &mut [f32],
    finish: &Finish<'_>,
) {
    match x.laid_out {
        Some(laid_out) => laid_out.multiply(unit, sizes[1], weights, y, finish),
        None => ops::multiply(unit, (x.values, numbers), sizes, weights, y, finish),
    }
}

/// [`multiply`] with a matrix in memory; `narrow`: whether its numbers are all BF16 numbers.
fn multiply_panel(
    (x, numbers): (Input<'_>, Numbers),
    panel: &[f32],
    inputs: usize,
    narrow: bool,
    y: &mut [f32],
    finish: &Finish<'_>,
) {
    let outputs = panel.len() / inputs;
    if let Some(unit) = Unit::fastest(numbers) {
        let from = |row: usize, first: usize, count: usize| &panel[row * inputs + first..][..count];
        let bf16s = |row: usize, first: usize, to: &mut [bf16]| {
            let values = from(row, first, to.len());
            to.iter_mut().zip(values).for_each(|(to, value)| *to = bf16::from_f32(*value));
        };
        let wide = |row: usize, first: usize, to: &mut [f32]| to.copy_from_slice(from(row, first, to.len()));
        let weights = if narrow { Factor::Narrow(&bf16s) } else { Factor::Wide(&wide) };
        return multiply_by_unit(unit, (x, numbers), [inputs, outputs], &weights, y, finish);
    }
    let rows = x.values.len() / inputs;
    gemm(
        Matrix::by_rows(x.values, rows, inputs, inputs),
        Matrix::by_rows(panel, outputs, inputs, inputs).transposed(),
        MatrixMut::by_rows(y, rows, outputs, outputs),
        false,
        Threads::All,
    );
    finish_rows(outputs, y, finish);
}

fn finish_rows(outputs: usize, y: &mut [f32], finish: &Finish<'_>) {
    let rows = y.par_chunks_mut(outputs).with_min_len(PANEL.div_ceil(outputs) >> 8);
    rows.enumerate().for_each(|(row, y)| finish(row, 0, y));
}

/// [`multiply`] for a few rows: each weight is widened into the cache, used and forgotten.
fn multiply_few((x, numbers): (&[f32], Numbers), weight: &Stored, y: &mut [f32], finish: &Finish<'_>) {
    let [outputs, inputs] = weight.matrix();
    let rows = x.len() / inputs;
    let mut columns = vec![0.0; y.len()];
    columns.par_chunks_mut(rows.max(1)).with_min_len(64).enumerate().for_each_init(
        || vec![0.0; inputs],
        |row, (index, sums)| {
            widen(weight, index * inputs, numbers, row);
            sums.iter_mut().zip(x.chunks(inputs)).for_each(|(sum, x)| *sum = dot(x, row));
        },
    );
    for (index, column) in columns.chunks(rows.max(1)).enumerate() {
        for (row, value) in column.iter().enumerate() {
            y[row * outputs + index] = *value;
        }
    }
    finish_rows(outputs, y, finish);
}

vectorised! {
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
}

/// Weights from element `first` on, with only the values that count.
fn widen(weight: &Stored, first: usize, numbers: Numbers, out: &mut [f32]) {
    weight.widen_few_into(first, out);
    // Every fp8 value is a BF16 value.
    if weight.dtype().width_bytes() > 1 && numbers == Numbers::Rounded {
        round(out);
    }
}
