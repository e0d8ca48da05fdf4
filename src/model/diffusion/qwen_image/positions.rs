//! Where tokens sit on the three axes of the rotary embedding, and the table of rotations.
//!
//! Axes: (which picture or layer, y, x). Formula: Su et al., "RoFormer" (2021), with interleaved pairs; widths and the
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

/// The sides of a latent, in cells.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// The layers of a layered picture; one otherwise.
    pub frames: usize,
    pub cells: Grid,
}

impl Extent {
    /// Picture tokens that a latent becomes.
    pub fn tokens(self) -> usize {
        let (rows, columns) = patches(self.cells);
        self.frames * rows * columns
    }
}

/// The patches that cover a latent of so many cells.
pub fn patches((h, w): Grid) -> Grid {
    (h.div_ceil(PATCH), w.div_ceil(PATCH))
}

/// Positions of the text, the target and the references, in this order.
pub fn positions(
    text: usize,
    target: Extent,
    references: &[Extent],
    method: ReferenceMethod,
) -> Vec<Position> {
    let (rows, columns) = patches(target.cells);
    let start = (rows / 2).max(columns / 2);
    let mut all: Vec<Position> = (0..text).map(|token| [(start + token) as f64; 3]).collect();
    add_grids(&mut all, 0.0, target, (0, 0));
    let mut used = (0, 0);
    for (index, reference) in references.iter().copied().enumerate() {
        let number = (index + 1) as f64;
        match method {
            ReferenceMethod::Index | ReferenceMethod::IndexTimestepZero => {
                add_grids(&mut all, number, reference, (0, 0));
            }
            ReferenceMethod::NegativeIndex => add_grids(&mut all, -number, reference, (0, 0)),
            ReferenceMethod::Offset => {
                // References are laid out on one canvas, each below or right of the ones before.
                let (h, w) = reference.cells;
                let right = h + used.0 > w + used.1;
                let offset = if right { (0, used.1) } else { (used.0, 0) };
                used = (used.0.max(h + offset.0), used.1.max(w + offset.1));
                add_grids(&mut all, 1.0, reference, patches(offset));
            }
        }
    }
    all
}

/// Several frames are numbered from 0, whichever picture they are.
fn add_grids(all: &mut Vec<Position>, picture: f64, extent: Extent, (below, right): Grid) {
    let (rows, columns) = patches(extent.cells);
    let centred = |index: usize, offset: usize, size: usize| (index + offset) as f64 - (size / 2) as f64;
    for frame in 0..extent.frames {
        let first = if extent.frames > 1 { frame as f64 } else { picture };
        all.extend((0..rows).flat_map(|row| {
            (0..columns)
                .map(move |column| [first, centred(row, below, rows), centred(column, right, columns)])
        }));
    }
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
