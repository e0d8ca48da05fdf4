//! Products with weights that are BF16 numbers, by the units some processors have for them.
//!
//! Every fp8 number is a BF16 number. The left side is taken as it is where it is BF16 too, or as the sum of three
//! BF16 numbers, which together hold all 24 bits of an `f32`: products of BF16 numbers are exact, and sums are kept in
//! `f32`, so that nothing is lost in comparison with a product of `f32` matrices.
//!
//! Both sides are laid out in tiles of 16 rows of 32 numbers first, as the matrix unit reads them.

mod tiles;
mod vectors;

use std::sync::OnceLock;

use half::bf16;
use rayon::prelude::*;

/// A part of the processor that multiplies BF16 numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// AMX: 16x16 sums of 32 products at a time.
    Tiles,
    /// AVX512-BF16: 16 sums of two products at a time.
    Vectors,
}

/// What the left side holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// BF16 numbers, widened.
    Narrow,
    /// Any numbers; three times the work.
    Wide,
}

impl Left {
    fn terms(self) -> usize {
        match self {
            Self::Narrow => 1,
            Self::Wide => 3,
        }
    }
}

impl Unit {
    /// The units of this machine, the fastest first.
    pub fn all() -> &'static [Self] {
        static FOUND: OnceLock<Vec<Unit>> = OnceLock::new();
        FOUND.get_or_init(|| {
            let found = [(Self::Tiles, tiles::exist()), (Self::Vectors, vectors::exist())];
            found.into_iter().filter(|(_, exists)| *exists).map(|(unit, _)| unit).collect()
        })
    }

    /// The unit that multiplies such a left side faster than `f32` arithmetic does, if there is one.
    pub fn for_left(left: Left) -> Option<Self> {
        // Three products of vectors take longer than one of twice their width.
        Self::all().iter().copied().find(|unit| *unit == Self::Tiles || left == Left::Narrow)
    }

    /// # Safety
    ///
    /// The unit exists and, if it is the one of tiles, is set up for this thread; the tiles are as in
    /// [`Packed`] and [`Panel`], `steps` of them with `terms` terms on the right.
    #[expect(unsafe_code, reason = "instructions that the baseline lacks")]
    unsafe fn square(self, weights: &[Tile], x: &[Tile], terms: usize, out: &mut Square) {
        debug_assert_eq!(weights.len() * terms, x.len());
        match self {
            // SAFETY: as this function demands.
            Self::Tiles => unsafe { tiles::square(weights, x, terms, out) },
            // SAFETY: as this function demands.
            Self::Vectors => unsafe { vectors::square(weights, x, terms, out) },
        }
    }
}

/// Rows, and columns in pairs, of a tile.
const SIDE: usize = 16;
/// Numbers of a row of a tile: so many products make one sum.
const DEPTH: usize = 2 * SIDE;

/// 16 rows of 32 BF16 numbers. Of the left side: 16 pairs of numbers for each of 16 rows, the first pairs of all
/// rows first.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tile([u16; SIDE * DEPTH]);

const EMPTY: Tile = Tile([0; SIDE * DEPTH]);

/// The sums of two tiles of weights (down) and two of the left side (across).
#[derive(Clone)]
#[repr(C, align(64))]
struct Square([f32; 4 * SIDE * SIDE]);

/// The most bytes of the left side that are laid out at a time.
const MOST_PACKED: usize = 64 << 20;

/// The most bytes of weights that are laid out at a time by each thread: what its cache holds beside the rest.
const MOST_PANEL: usize = 1 << 20;

/// `y = x Wᵀ`, on all threads. `x`: (rows, inputs), `y`: (rows, outputs).
///
/// `weights` writes a row of W, of `inputs` numbers.
pub fn multiply_bf16(
    unit: Unit,
    (x, left): (&[f32], Left),
    [inputs, outputs]: [usize; 2],
    weights: impl Fn(usize, &mut [bf16]) + Sync,
    y: &mut [f32],
) {
    assert!(Unit::all().contains(&unit), "the processor has no such unit: {unit:?}");
    assert_eq!(x.len() * outputs, y.len() * inputs, "shapes of a matrix product");
    if inputs == 0 || outputs == 0 {
        y.fill(0.0);
        return;
    }
    let rows = MOST_PACKED / (2 * inputs.next_multiple_of(DEPTH) * left.terms());
    let rows = (rows / DEPTH * DEPTH).max(DEPTH);
    for (x, y) in x.chunks(rows * inputs).zip(y.chunks_mut(rows * outputs)) {
        Packed::new(x, inputs, left).multiply(unit, outputs, &weights, y);
    }
}

/// The left side, laid out: for each two tiles of rows, for each step of 32 numbers, for each term, both tiles.
struct Packed {
    tiles: Vec<Tile>,
    inputs: usize,
    rows: usize,
    terms: usize,
}

impl Packed {
    fn new(x: &[f32], inputs: usize, left: Left) -> Self {
        let (rows, terms) = (x.len() / inputs, left.terms());
        let mut tiles = vec![EMPTY; rows.div_ceil(DEPTH) * inputs.div_ceil(DEPTH) * terms * 2];
        let band = inputs.div_ceil(DEPTH) * terms * 2;
        tiles.par_chunks_mut(band).zip(x.par_chunks(DEPTH * inputs)).for_each(|(band, x)| {
            for (row, x) in x.chunks(inputs).enumerate() {
                for (step, x) in band.chunks_mut(terms * 2).zip(x.chunks(DEPTH)) {
                    for (index, value) in x.iter().enumerate() {
                        let place = index / 2 * DEPTH + row % SIDE * 2 + index % 2;
                        for (both, term) in step.chunks_mut(2).zip(split(*value)) {
                            both[row / SIDE].0[place] = term.to_bits();
                        }
                    }
                }
            }
        });
        Self { tiles, inputs, rows, terms }
    }

    #[expect(unsafe_code, reason = "threads write to columns of one matrix")]
    fn multiply(
        &self,
        unit: Unit,
        outputs: usize,
        weights: &(impl Fn(usize, &mut [bf16]) + Sync),
        y: &mut [f32],
    ) {
        let steps = self.inputs.div_ceil(DEPTH);
        let columns = (MOST_PANEL / (2 * steps * DEPTH) / DEPTH * DEPTH).clamp(DEPTH, 4 * DEPTH);
        let y = Columns { first: y.as_mut_ptr(), width: outputs };
        let panels = (0..outputs.div_ceil(columns)).into_par_iter();
        panels.for_each_init(Panel::default, |panel, index| {
            let columns = index * columns..outputs.min((index + 1) * columns);
            panel.fill(self.inputs, columns.clone(), weights);
            let _ready = (unit == Unit::Tiles).then(tiles::Ready::new);
            let mut sums = Square([0.0; 4 * SIDE * SIDE]);
            for (across, x) in self.tiles.chunks(steps * self.terms * 2).enumerate() {
                let rows = across * DEPTH..self.rows.min((across + 1) * DEPTH);
                for (down, weights) in panel.tiles.chunks(steps * 2).enumerate() {
                    let first = columns.start + down * DEPTH;
                    let width = DEPTH.min(columns.end - first);
                    // SAFETY: the unit exists, as `multiply_bf16` checked, and was set up above; the tiles are
                    // those of as many steps on both sides.
                    unsafe { unit.square(weights, x, self.terms, &mut sums) };
                    for (column, row) in rows.clone().enumerate() {
                        // SAFETY: the row lies in the matrix, and no other thread has these columns.
                        let y = unsafe { y.part(row, first, width) };
                        for (y, sums) in y.iter_mut().zip(sums.0.chunks(DEPTH)) {
                            *y = sums[column];
                        }
                    }
                }
            }
        });
    }
}

/// A number as a sum of three, the first of which is the nearest.
fn split(value: f32) -> [bf16; 3] {
    let first = bf16::from_f32(value);
    if !first.is_finite() {
        return [first, bf16::ZERO, bf16::ZERO];
    }
    let rest = value - first.to_f32();
    let second = bf16::from_f32(rest);
    [first, second, bf16::from_f32(rest - second.to_f32())]
}

/// Some rows of weights, laid out: for each two tiles of rows, for each step of 32 numbers, both tiles.
#[derive(Default)]
struct Panel {
    tiles: Vec<Tile>,
    row: Vec<bf16>,
}

impl Panel {
    fn fill(&mut self, inputs: usize, rows: std::ops::Range<usize>, weights: impl Fn(usize, &mut [bf16])) {
        let steps = inputs.div_ceil(DEPTH);
        // Empty rows and columns at the ends stay empty.
        self.tiles.clear();
        self.tiles.resize(rows.len().div_ceil(DEPTH) * steps * 2, EMPTY);
        self.row.resize(inputs, bf16::ZERO);
        for (index, row) in rows.enumerate() {
            weights(row, &mut self.row);
            let band = &mut self.tiles[index / DEPTH * steps * 2..][..steps * 2];
            for (step, numbers) in band.chunks_mut(2).zip(self.row.chunks(DEPTH)) {
                let to = &mut step[index % DEPTH / SIDE].0[index % SIDE * DEPTH..][..numbers.len()];
                for (to, number) in to.iter_mut().zip(numbers) {
                    *to = number.to_bits();
                }
            }
        }
    }
}

/// A matrix of which each thread writes its own columns.
#[derive(Clone, Copy)]
struct Columns {
    first: *mut f32,
    width: usize,
}

#[expect(unsafe_code, reason = "threads write to columns of one matrix")]
// SAFETY: `part` demands that no two threads have the same columns.
unsafe impl Sync for Columns {}

impl Columns {
    /// # Safety
    ///
    /// The part lies in the matrix, which outlives it, and nobody else uses it meanwhile.
    #[expect(unsafe_code, reason = "threads write to columns of one matrix")]
    unsafe fn part<'a>(self, row: usize, column: usize, count: usize) -> &'a mut [f32] {
        // SAFETY: as this function demands.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.width + column), count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1, some of them subnormal, none or large.
    fn numbers(count: usize, mut seed: u64) -> Vec<f32> {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|index| if index % 31 == 0 { 0.0 } else { next() }).collect()
    }

    fn narrowed(values: &[f32]) -> Vec<f32> {
        values.iter().map(|value| bf16::from_f32(*value).to_f32()).collect()
    }

    /// Products and sums in `f64`, and the sum of the sizes of the products, which bounds what rounding does.
    fn plain(x: &[f32], w: &[f32], [inputs, outputs]: [usize; 2]) -> Vec<(f64, f64)> {
        let pairs = x.chunks(inputs).flat_map(|x| w.chunks(inputs).map(move |w| (x, w)));
        let sums: Vec<_> = pairs
            .map(|(x, w)| {
                let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()))
            })
            .collect();
        assert_eq!(sums.len(), x.len() / inputs * outputs);
        sums
    }

    #[test]
    fn every_unit_agrees_with_the_plain_product_whatever_the_size() {
        for unit in Unit::all() {
            for (rows, inputs, outputs) in [
                (1, 1, 1),
                (3, 31, 33),
                (16, 32, 16),
                (32, 64, 32),
                (33, 65, 31),
                (70, 300, 200),
                (5, 4096, 40),
            ] {
                let w = narrowed(&numbers(inputs * outputs, 7));
                for left in [Left::Narrow, Left::Wide] {
                    let x = numbers(rows * inputs, 3);
                    let x = if left == Left::Narrow { narrowed(&x) } else { x };
                    let mut y = vec![f32::NAN; rows * outputs];
                    let read = |row: usize, out: &mut [bf16]| {
                        for (out, value) in out.iter_mut().zip(&w[row * inputs..]) {
                            *out = bf16::from_f32(*value);
                        }
                    };
                    multiply_bf16(*unit, (&x, left), [inputs, outputs], read, &mut y);
                    for (y, (sum, size)) in y.iter().zip(plain(&x, &w, [inputs, outputs])) {
                        let error = (f64::from(*y) - sum).abs();
                        assert!(
                            error <= 2e-6 * size,
                            "{unit:?} {left:?} {rows}x{inputs}x{outputs}: {y} for {sum}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_left_side_that_is_laid_out_in_parts_gives_the_same() {
        let (inputs, outputs) = (32, 1);
        let rows = MOST_PACKED / (2 * inputs) + 40;
        let x: Vec<f32> = (0..rows * inputs).map(|index| (index / inputs % 256) as f32).collect();
        for unit in Unit::all() {
            let mut y = vec![f32::NAN; rows];
            let ones = |_: usize, out: &mut [bf16]| out.fill(bf16::ONE);
            multiply_bf16(*unit, (&x, Left::Narrow), [inputs, outputs], ones, &mut y);
            assert!(
                y.iter().enumerate().all(|(row, y)| y.to_bits() == ((row % 256 * inputs) as f32).to_bits())
            );
        }
    }

    #[test]
    fn three_terms_hold_every_bit() {
        for value in numbers(10_000, 11).into_iter().chain([f32::MAX / 2.0, 1e-20, 16_777_215.0]) {
            let sum: f64 = split(value).iter().map(|term| f64::from(term.to_f32())).sum();
            assert_eq!(sum.to_bits(), f64::from(value).to_bits());
        }
        assert_eq!(split(f32::INFINITY), [bf16::INFINITY, bf16::ZERO, bf16::ZERO]);
    }
}
