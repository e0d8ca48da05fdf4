//! From a picture to the rows a vision tower reads.
//!
//! Knows nothing of towers but how each wants its pictures: a [`Cut`].

use candle_core::{D, Result, Tensor};

/// Side of a cell in patches; each cell becomes one token.
pub const CELL: usize = 2;
/// Patches per cell.
pub const AREA: usize = CELL * CELL;
/// A still picture is shown twice, as the shortest video.
pub const FRAMES: usize = 2;

/// How a tower wants its pictures.
pub struct Cut {
    /// Side of a patch in pixels.
    pub patch: usize,
    /// The fewest and the most pixels of a picture.
    pub pixels: [usize; 2],
    /// What is taken off each channel, and what it is divided by then.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

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

    /// Where each patch stands, row and column, in the order of [`Cut::patches`].
    pub fn patches(self) -> impl Iterator<Item = [usize; 2]> {
        (0..self.cells()).flat_map(move |cell| self.patches_of(cell))
    }

    /// The same for the patches of one cell.
    pub fn patches_of(self, cell: usize) -> impl Iterator<Item = [usize; 2]> {
        let (row, column) = (cell / self.columns, cell % self.columns);
        (0..AREA).map(move |patch| [CELL * row + patch / CELL, CELL * column + patch % CELL])
    }
}

impl Cut {
    /// Both sides of a picture are multiples of this.
    const fn factor(&self) -> usize {
        self.patch * CELL
    }

    /// Values per patch: (channel, frame, y, x).
    pub const fn row(&self) -> usize {
        3 * FRAMES * self.patch * self.patch
    }

    /// The grid nearest to a picture's own size within the bounds of the tower.
    pub fn grid(&self, height: usize, width: usize) -> Grid {
        let factor = self.factor() as f64;
        let [fewest, most] = self.pixels.map(|pixels| pixels as f64);
        let (h, w) = (height as f64, width as f64);
        let mut sides = [h, w].map(|side| (side / factor).round_ties_even());
        let pixels = sides[0] * sides[1] * factor * factor;
        if pixels > most {
            let beta = (h * w / most).sqrt();
            sides = [h, w].map(|side| (side / beta / factor).floor().max(1.0));
        } else if pixels < fewest {
            let beta = (fewest / (h * w)).sqrt();
            sides = [h, w].map(|side| (side * beta / factor).ceil());
        }
        Grid { rows: sides[0] as usize, columns: sides[1] as usize }
    }

    /// Cuts `image`, (1 or more, h, w, 3 or more), 0..1, into patches, (patches, [`Cut::row`]), four to a cell,
    /// cells in raster order. Further pictures and channels are not looked at.
    pub fn patches(&self, image: &Tensor) -> Result<(Tensor, Grid)> {
        let (_, height, width, _) = image.dims4()?;
        let (grid, patch) = (self.grid(height, width), self.patch);
        let Grid { rows, columns } = grid;
        let image = image.narrow(0, 0, 1)?.narrow(D::Minus1, 0, 3)?;
        let image = image.permute((0, 3, 1, 2))?.contiguous()?; // (1, 3, h, w)
        let image = image.upsample_bilinear2d(rows * self.factor(), columns * self.factor(), false)?;
        let mean = Tensor::new(&self.mean, image.device())?.reshape((1, 3, 1, 1))?;
        let std = Tensor::new(&self.std, image.device())?.reshape((1, 3, 1, 1))?;
        let image = image.broadcast_sub(&mean)?.broadcast_div(&std)?;
        let patches = image
            .reshape(vec![3, rows, CELL, patch, columns, CELL, patch])?
            .permute(vec![1, 4, 2, 5, 0, 3, 6])? // row, column, y and x in the cell, channel, y, x
            .reshape((AREA * grid.cells(), 3, 1, patch * patch))?;
        let patches = patches.broadcast_as((AREA * grid.cells(), 3, FRAMES, patch * patch))?;
        Ok((patches.reshape((AREA * grid.cells(), self.row()))?, grid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::text::{qwen2_5_vl, qwen3_vl};

    #[test]
    fn sides_round_half_to_even_cells() {
        let grid = |height, width| qwen2_5_vl::PICTURES.grid(height, width);
        assert_eq!(grid(28 * 2 + 14, 28 * 3 + 14), Grid { rows: 2, columns: 4 });
        assert_eq!(grid(315, 469), Grid { rows: 11, columns: 17 });
    }

    #[test]
    fn tiny_pictures_grow_and_huge_ones_shrink() {
        let grid = |height, width| qwen2_5_vl::PICTURES.grid(height, width);
        assert_eq!(grid(1, 1), Grid { rows: 2, columns: 2 });
        assert_eq!(grid(13, 2000), Grid { rows: 1, columns: 25 });
        assert_eq!(grid(8000, 8000), Grid { rows: 128, columns: 128 });
        assert_eq!(grid(40, 3_000_000), Grid { rows: 1, columns: 35_054 });
    }

    #[test]
    fn the_third_generation_has_bounds_of_its_own() {
        let grid = |height, width| qwen3_vl::PICTURES.grid(height, width);
        assert_eq!(grid(64, 96), Grid { rows: 7, columns: 10 });
        assert_eq!(grid(256, 256), Grid { rows: 8, columns: 8 });
        assert_eq!(grid(1056, 992), Grid { rows: 33, columns: 31 });
        assert_eq!(grid(8192, 4096), Grid { rows: 181, columns: 90 });
    }

    #[test]
    fn patches_stand_cell_by_cell() {
        let places: Vec<_> = Grid { rows: 1, columns: 2 }.patches().collect();
        assert_eq!(places, [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]);
    }
}
