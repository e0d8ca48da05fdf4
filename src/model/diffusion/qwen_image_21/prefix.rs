//! Keys and values of the tokens before the target: no timestep changes them, so the first step keeps them for the
//! others.

use std::ops::Range;

use candle_core::{Tensor, TensorId};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::device::ops::Numbers;
use crate::model::diffusion::axes::HEAD_WIDTH;
use crate::model::{Cond, Precision};

/// What was kept of one conditioning.
pub struct Kept {
    of: Source,
    pub blocks: Blocks,
}

/// For each block that is there and each text of the batch: keys, then values.
pub type Blocks = Vec<Vec<[Packed; 2]>>;

/// What it was made of: tensors never change.
#[derive(PartialEq, Eq)]
struct Source {
    tensors: Vec<TensorId>,
    pictures: Vec<Range<usize>>,
}

impl Source {
    fn new(cond: &Cond) -> Self {
        let tensors = std::iter::once(&cond.text).chain(&cond.references).map(Tensor::id).collect();
        Self { tensors, pictures: cond.pictures.clone() }
    }
}

impl Kept {
    pub fn new(cond: &Cond, blocks: Blocks) -> Self {
        Self { of: Source::new(cond), blocks }
    }

    /// Whether the conditioning is still the same: clones of one share notes, whatever becomes of them.
    pub fn is_of(&self, cond: &Cond) -> bool {
        self.of == Source::new(cond)
    }
}

/// Numbers of heads, kept.
pub enum Packed {
    Wide(Vec<f32>),
    Narrow(Vec<bf16>),
    /// One number a byte, and the size of a step for each head.
    Int8(Vec<i8>, Vec<f32>),
    /// Two numbers a byte, the first in its lower half.
    Int4(Vec<u8>, Vec<f32>),
}

/// The largest code of each sign.
const MOST_8: f32 = 127.0;
const MOST_4: f32 = 7.0;

/// Bytes that the numbers of a head take.
pub fn bytes_of_head(precision: Precision, numbers: Numbers) -> usize {
    const STEP: usize = size_of::<f32>();
    match (precision, numbers) {
        (Precision::Whole, Numbers::Exact) => HEAD_WIDTH * size_of::<f32>(),
        (Precision::Whole, Numbers::Rounded) => HEAD_WIDTH * size_of::<bf16>(),
        (Precision::Int8, _) => HEAD_WIDTH + STEP,
        (Precision::Int4, _) => HEAD_WIDTH / 2 + STEP,
    }
}

/// The steps that the numbers of a head are counted in.
fn step(head: &[f32], most: f32) -> f32 {
    head.iter().fold(0.0f32, |largest, number| largest.max(number.abs())) / most
}

fn steps(values: &[f32], most: f32) -> Vec<f32> {
    values.par_chunks(HEAD_WIDTH).map(|head| step(head, most)).collect()
}

/// A head of zeros has steps of no size.
fn code(number: f32, step: f32) -> i8 {
    if step > 0.0 { (number / step).round_ties_even() as i8 } else { 0 }
}

impl Packed {
    pub fn new(values: &[f32], precision: Precision, numbers: Numbers) -> Self {
        match (precision, numbers) {
            (Precision::Whole, Numbers::Exact) => Self::Wide(values.to_vec()),
            (Precision::Whole, Numbers::Rounded) => {
                let mut narrow = vec![bf16::ZERO; values.len()];
                narrow.convert_from_f32_slice(values);
                Self::Narrow(narrow)
            }
            (Precision::Int8, _) => {
                let steps = steps(values, MOST_8);
                let mut codes = vec![0; values.len()];
                let heads = codes.par_chunks_mut(HEAD_WIDTH).zip(values.par_chunks(HEAD_WIDTH));
                heads.zip(&steps).for_each(|((codes, head), step)| {
                    codes.iter_mut().zip(head).for_each(|(to, number)| *to = code(*number, *step));
                });
                Self::Int8(codes, steps)
            }
            (Precision::Int4, _) => {
                let steps = steps(values, MOST_4);
                let mut codes = vec![0; values.len() / 2];
                let heads = codes.par_chunks_mut(HEAD_WIDTH / 2).zip(values.par_chunks(HEAD_WIDTH));
                heads.zip(&steps).for_each(|((codes, head), step)| {
                    let (pairs, _) = head.as_chunks::<2>();
                    for (to, pair) in codes.iter_mut().zip(pairs) {
                        let [low, high] = pair.map(|number| code(number, *step) as u8 & 0xF);
                        *to = low | high << 4;
                    }
                });
                Self::Int4(codes, steps)
            }
        }
    }

    /// Writes the numbers as they were kept.
    pub fn unpack(&self, out: &mut [f32]) {
        match self {
            Self::Wide(values) => out.copy_from_slice(values),
            Self::Narrow(values) => values.convert_to_f32_slice(out),
            Self::Int8(codes, steps) => {
                let heads = out.par_chunks_mut(HEAD_WIDTH).zip(codes.par_chunks(HEAD_WIDTH));
                heads.zip(steps).for_each(|((head, codes), step)| {
                    head.iter_mut().zip(codes).for_each(|(to, code)| *to = f32::from(*code) * step);
                });
            }
            Self::Int4(codes, steps) => {
                let heads = out.par_chunks_mut(HEAD_WIDTH).zip(codes.par_chunks(HEAD_WIDTH / 2));
                heads.zip(steps).for_each(|((head, codes), step)| {
                    let (pairs, _) = head.as_chunks_mut::<2>();
                    for (to, code) in pairs.iter_mut().zip(codes) {
                        // Shifts of signed numbers keep their signs.
                        *to = [(*code << 4) as i8 >> 4, *code as i8 >> 4].map(|code| f32::from(code) * step);
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads of growing size, one of zeros among them.
    fn numbers() -> Vec<f32> {
        let number = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0 * (i / HEAD_WIDTH) as f32;
        (0..5 * HEAD_WIDTH).map(number).collect()
    }

    #[test]
    fn kept_numbers_are_off_by_half_a_step_at_most() {
        let values = numbers();
        let cases = [
            (Precision::Whole, Numbers::Exact, 0.0),
            (Precision::Whole, Numbers::Rounded, 1.0 / 256.0),
            (Precision::Int8, Numbers::Exact, 0.5 / MOST_8),
            (Precision::Int4, Numbers::Rounded, 0.5 / MOST_4),
        ];
        for (precision, numbers, bound) in cases {
            let packed = Packed::new(&values, precision, numbers);
            let mut found = vec![f32::NAN; values.len()];
            packed.unpack(&mut found);
            for (head, found) in values.chunks(HEAD_WIDTH).zip(found.chunks(HEAD_WIDTH)) {
                let largest = head.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                for (value, found) in head.iter().zip(found) {
                    let error = (value - found).abs();
                    assert!(error <= bound * largest * 1.001, "{precision:?}: {value} became {found}");
                }
            }
        }
    }

    #[test]
    fn what_is_kept_takes_the_bytes_that_were_told() {
        let values = numbers();
        for (precision, numbers) in [
            (Precision::Whole, Numbers::Exact),
            (Precision::Whole, Numbers::Rounded),
            (Precision::Int8, Numbers::Exact),
            (Precision::Int4, Numbers::Exact),
        ] {
            let bytes = match Packed::new(&values, precision, numbers) {
                Packed::Wide(values) => size_of_val(&values[..]),
                Packed::Narrow(values) => size_of_val(&values[..]),
                Packed::Int8(codes, steps) => size_of_val(&codes[..]) + size_of_val(&steps[..]),
                Packed::Int4(codes, steps) => size_of_val(&codes[..]) + size_of_val(&steps[..]),
            };
            assert_eq!(bytes, 5 * bytes_of_head(precision, numbers), "{precision:?}");
        }
    }
}
