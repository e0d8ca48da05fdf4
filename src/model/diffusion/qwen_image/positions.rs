//! Where tokens sit on the three axes of the rotary embedding, (which picture or layer, y, x), with the centring of
//! pictures as published with Qwen-Image.

use super::patches::PATCH;
use crate::model::ReferenceMethod;
use crate::model::diffusion::axes::Position;

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
