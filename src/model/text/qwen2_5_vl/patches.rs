//! From a picture to the rows the vision tower reads.
//!
//! Knows the sizes the tower was trained with and nothing of its weights.

use candle_core::{D, Result, Tensor};

/// Side of a patch in pixels.
pub const PATCH: usize = 14;
/// Side of a cell in patches; each cell becomes one token.
pub const CELL: usize = 2;
/// A still picture is shown twice, as the shortest video.
const FRAMES: usize = 2;
/// Values per patch: (channel, frame, y, x).
pub const ROW: usize = 3 * FRAMES * PATCH * PATCH;

/// Both sides of a picture are multiples of a cell's.
const FACTOR: usize = PATCH * CELL;
const MIN_PIXELS: usize = 3_136;
const MAX_PIXELS: usize = 12_845_056;

const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Size of a picture in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub rows: usize,
    pub columns: usize,
}

impl Grid {
    pub fn cells(self) -> usize {
        self.rows * self.columns
    }
}

/// The grid nearest to a picture's own size within the bounds of the tower.
pub fn grid(height: usize, width: usize) -> Grid {
    let cells = |side: f64| side / FACTOR as f64;
    let (h, w) = (height as f64, width as f64);
    let mut sides = [h, w].map(|side| cells(side).round_ties_even());
    let pixels = sides[0] * sides[1] * (FACTOR * FACTOR) as f64;
    if pixels > MAX_PIXELS as f64 {
        let beta = (h * w / MAX_PIXELS as f64).sqrt();
        sides = [h, w].map(|side| cells(side / beta).floor().max(1.0));
    } else if pixels < MIN_PIXELS as f64 {
        let beta = (MIN_PIXELS as f64 / (h * w)).sqrt();
        sides = [h, w].map(|side| cells(side * beta).ceil());
    }
    Grid { rows: sides[0] as usize, columns: sides[1] as usize }
}

/// Cuts `image`, (1 or more, h, w, 3 or more), 0..1, into patches, (patches, [`ROW`]), four to a cell,
/// cells in raster order. Further pictures and channels are not looked at.
pub fn patches(image: &Tensor) -> Result<(Tensor, Grid)> {
    let (_, height, width, _) = image.dims4()?;
    let grid = grid(height, width);
    let Grid { rows, columns } = grid;
    let image = image.narrow(0, 0, 1)?.narrow(D::Minus1, 0, 3)?;
    let image = image.permute((0, 3, 1, 2))?.contiguous()?; // (1, 3, h, w)
    let image = image.upsample_bilinear2d(rows * FACTOR, columns * FACTOR, false)?;
    let mean = Tensor::new(&MEAN, image.device())?.reshape((1, 3, 1, 1))?;
    let std = Tensor::new(&STD, image.device())?.reshape((1, 3, 1, 1))?;
    let image = image.broadcast_sub(&mean)?.broadcast_div(&std)?;
    let patches = image
        .reshape(vec![3, rows, CELL, PATCH, columns, CELL, PATCH])?
        .permute(vec![1, 4, 2, 5, 0, 3, 6])? // row, column, y and x in the cell, channel, y, x
        .reshape((4 * grid.cells(), 3, 1, PATCH * PATCH))?;
    let patches = patches.broadcast_as((4 * grid.cells(), 3, FRAMES, PATCH * PATCH))?;
    Ok((patches.reshape((4 * grid.cells(), ROW))?, grid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_round_half_to_even_cells() {
        assert_eq!(grid(28 * 2 + 14, 28 * 3 + 14), Grid { rows: 2, columns: 4 });
        assert_eq!(grid(315, 469), Grid { rows: 11, columns: 17 });
    }

    #[test]
    fn tiny_pictures_grow_and_huge_ones_shrink() {
        assert_eq!(grid(1, 1), Grid { rows: 2, columns: 2 });
        assert_eq!(grid(13, 2000), Grid { rows: 1, columns: 25 });
        assert_eq!(grid(8000, 8000), Grid { rows: 128, columns: 128 });
        assert_eq!(grid(40, 3_000_000), Grid { rows: 1, columns: 35_054 });
    }
}
