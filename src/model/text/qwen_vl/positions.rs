//! Where each row of an encoder's input stands: the three axes of its rotary embedding.

use std::ops::Range;

use super::picture::Grid;

/// A picture within the sequence: its first row and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub grid: Grid,
}

impl Span {
    /// The rows it takes up.
    pub fn rows(&self) -> Range<usize> {
        self.start..self.start + self.grid.cells()
    }
}

/// Positions on the axes time, height and width for `length` rows, some of them pictures.
///
/// Text advances along all three axes at once. A picture stands still in time, spreads its cells over
/// the other two in raster order, and takes up as many positions as its longer side.
pub fn positions(length: usize, pictures: &[Span]) -> [Vec<f32>; 3] {
    let mut axes: [Vec<f32>; 3] = std::array::from_fn(|_| Vec::with_capacity(length));
    let mut push = |at: [usize; 3]| {
        for (axis, at) in axes.iter_mut().zip(at) {
            axis.push(at as f32);
        }
    };
    let (mut row, mut next) = (0, 0);
    for Span { start, grid } in pictures {
        let first = next + start - row;
        (next..first).for_each(|at| push([at; 3]));
        for cell in 0..grid.cells() {
            push([first, first + cell / grid.columns, first + cell % grid.columns]);
        }
        row = start + grid.cells();
        next = first + grid.rows.max(grid.columns);
    }
    (next..next + length - row).for_each(|at| push([at; 3]));
    axes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_take_as_many_positions_as_their_longer_side() {
        let span = Span { start: 1, grid: Grid { rows: 2, columns: 3 } };
        let [time, height, width] = positions(9, &[span]);
        assert_eq!(time, [0., 1., 1., 1., 1., 1., 1., 4., 5.]);
        assert_eq!(height, [0., 1., 1., 1., 2., 2., 2., 4., 5.]);
        assert_eq!(width, [0., 1., 2., 3., 1., 2., 3., 4., 5.]);
    }
}
