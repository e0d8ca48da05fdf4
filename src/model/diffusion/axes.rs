//! The rotary embedding of the networks here: heads turned by a position on three axes.
//!
//! Axes: (which picture or layer, y, x). Formula: Su et al., "RoFormer" (2021), with interleaved pairs; widths as
//! published with Qwen-Image.

use crate::device::ops::vectorised;
use crate::model::Compute;

/// Channels of a head that each axis turns.
const AXIS_WIDTHS: [usize; 3] = [16, 56, 56];
const THETA: f64 = 10_000.0;

/// Pairs of channels in a head.
pub const PAIRS: usize = (AXIS_WIDTHS[0] + AXIS_WIDTHS[1] + AXIS_WIDTHS[2]) / 2;
/// Channels of a head.
pub const HEAD_WIDTH: usize = 2 * PAIRS;

pub type Position = [f64; 3];

/// Cosines and sines, [`PAIRS`] per position.
pub struct Rotations {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotations {
    /// Angles are computed in f64 and rounded to what `compute` holds.
    pub fn new(positions: &[Position], compute: Compute) -> Self {
        let angles = || {
            positions.iter().flat_map(|position| {
                AXIS_WIDTHS.iter().zip(position).flat_map(|(width, place)| {
                    (0..width / 2).map(move |pair| place * THETA.powf(-2.0 * pair as f64 / *width as f64))
                })
            })
        };
        let rounded = |value: f64| compute.round(value as f32);
        Self {
            cos: angles().map(|angle| rounded(angle.cos())).collect(),
            sin: angles().map(|angle| rounded(angle.sin())).collect(),
        }
    }

    /// Cosines and sines: (positions, [`PAIRS`]) each.
    pub fn tables(&self) -> [&[f32]; 2] {
        [&self.cos, &self.sin]
    }

    /// Turns the head `row` of the token at `position` in place.
    pub fn turn(&self, position: usize, row: &mut [f32]) {
        let angles = position * PAIRS..(position + 1) * PAIRS;
        turn(row, &self.cos[angles.clone()], &self.sin[angles]);
    }
}

vectorised! {
    fn turn(row: &mut [f32], cos: &[f32], sin: &[f32]) {
        let (pairs, _) = row.as_chunks_mut::<2>();
        for ((pair, cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
            *pair = [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos];
        }
    }
}
