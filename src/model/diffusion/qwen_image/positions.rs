//! Where tokens sit on the three axes of the rotary embedding, and the table of rotations.
//!
//! Axes: (which picture, y, x). Formula: Su et al., "RoFormer" (2021), with interleaved pairs; widths and the
//! centring of pictures as published with Qwen-Image.

use super::patches::PATCH;
use crate::device::ops::vectorised;
use crate::model::{Compute, ReferenceMethod};

/// Channels of a head that each axis turns.
const AXIS_WIDTHS: [usize; 3] = [16, 56, 56];
const THETA: f64 = 10_000.0;

/// Pairs of channels in a head.
pub const PAIRS: usize = (AXIS_WIDTHS[0] + AXIS_WIDTHS[1] + AXIS_WIDTHS[2]) / 2;

pub type Position = [f64; 3];

/// Rows and columns, of patches or of latent cells.
pub type Grid = (usize, usize);

/// The patches that cover a latent of so many cells.
pub fn patches((h, w): Grid) -> Grid {
    (h.div_ceil(PATCH), w.div_ceil(PATCH))
}

/// Positions of the text, the target and the references, in this order. Sizes are in latent cells.
pub fn positions(text: usize, target: Grid, references: &[Grid], method: ReferenceMethod) -> Vec<Position> {
    let (rows, columns) = patches(target);
    let start = (rows / 2).max(columns / 2);
    let mut all: Vec<Position> = (0..text).map(|token| [(start + token) as f64; 3]).collect();
    add_grid(&mut all, 0, (rows, columns), (0, 0));
    let mut extent = (0, 0);
    for (index, (h, w)) in references.iter().copied().enumerate() {
        match method {
            ReferenceMethod::Index | ReferenceMethod::IndexTimestepZero => {
                add_grid(&mut all, index + 1, patches((h, w)), (0, 0));
            }
            ReferenceMethod::Offset => {
                // References are laid out on one canvas, each below or right of the ones before.
                let right = h + extent.0 > w + extent.1;
                let offset = if right { (0, extent.1) } else { (extent.0, 0) };
                extent = (extent.0.max(h + offset.0), extent.1.max(w + offset.1));
                add_grid(&mut all, 1, patches((h, w)), patches(offset));
            }
        }
    }
    all
}

fn add_grid(all: &mut Vec<Position>, picture: usize, (rows, columns): Grid, (below, right): Grid) {
    let centred = |index: usize, offset: usize, size: usize| (index + offset) as f64 - (size / 2) as f64;
    all.extend((0..rows).flat_map(|row| {
        (0..columns)
            .map(move |column| [picture as f64, centred(row, below, rows), centred(column, right, columns)])
    }));
}

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
