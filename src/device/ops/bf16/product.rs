//! Products of matrices.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::layout::{MOST_TERMS, Order, Packed, transpose, write_bf16_row};
use super::{DEPTH, EMPTY, Engine, Numbers, Square, Step, Sums, TILE_BYTES, Tile, Unit, pairs};

/// The most bytes of the left side that are laid out at a time.
const MOST_PACKED: usize = 256 << 20;

/// Steps that are summed up before the next ones, so that what they read stays in a cache; and the most columns of
/// weights that a thread works on at a time, for the same reason.
const STEPS: usize = 32;
const COLUMNS: usize = 512;

/// The right side of a product, W of `x Wᵀ`: called with a row and a first column, it writes the numbers from there
/// on. It is asked for each of them once for each part of the left side.
pub enum Factor<'a> {
    /// Of BF16 numbers.
    Narrow(&'a (dyn Fn(usize, usize, &mut [bf16]) + Sync)),
    Wide(&'a (dyn Fn(usize, usize, &mut [f32]) + Sync)),
}

impl Factor<'_> {
    fn terms(&self, numbers: Numbers) -> usize {
        match (self, numbers) {
            (Self::Wide(_), Numbers::Exact) => MOST_TERMS,
            _ => 1,
        }
    }
}

/// What is done with sums when they are complete: told the row, the first column, and the sums. Parts of rows begin at
/// multiples of [`UNDIVIDED`] columns.
pub type Finish<'a> = dyn Fn(usize, usize, &mut [f32]) + Sync + 'a;

/// So many columns, from a multiple of as many on, are finished together.
pub const UNDIVIDED: usize = 128;

/// The left side of products, laid out once for several of them.
#[derive(Default)]
pub struct LaidOut {
    packed: Packed,
    numbers: Numbers,
    rows: usize,
    inputs: usize,
}

impl LaidOut {
    /// Lays out rows of `inputs` numbers in place of what was here before.
    pub fn fill(&mut self, x: &[f32], inputs: usize, numbers: Numbers) {
        (self.numbers, self.rows, self.inputs) = (numbers, x.len() / inputs.max(1), inputs);
        let terms = if numbers == Numbers::Exact { MOST_TERMS } else { 1 };
        self.packed.fill(self.rows, inputs, terms, Order::Rows, |row| &x[row * inputs..][..inputs]);
    }

    /// `y = x Wᵀ`, on all threads. `y`: (rows, outputs).
    pub fn multiply(
        &self,
        unit: Unit,
        outputs: usize,
        weights: &Factor<'_>,
        y: &mut [f32],
        finish: &Finish<'_>,
    ) {
        assert_eq!(self.rows * outputs, y.len(), "shapes of a matrix product");
        let (left, inputs, rows) = (&self.packed, self.inputs, self.rows);
        let terms = [left.terms, weights.terms(self.numbers)];
        Product { unit, left, terms, inputs, rows, weights, finish }.run(outputs, y);
    }
}

/// `y = x Wᵀ`, on all threads. `x`: (rows, inputs), `y`: (rows, outputs).
pub fn multiply(
    unit: Unit,
    (x, numbers): (&[f32], Numbers),
    [inputs, outputs]: [usize; 2],
    weights: &Factor<'_>,
    y: &mut [f32],
    finish: &Finish<'_>,
) {
    assert_eq!(x.len() * outputs, y.len() * inputs, "shapes of a matrix product");
    if y.is_empty() {
        return;
    }
    let rows = MOST_PACKED / (2 * inputs.next_multiple_of(DEPTH) * MOST_TERMS);
    let rows = (rows / DEPTH * DEPTH).max(DEPTH);
    let mut left = LaidOut::default();
    for (part, (x, y)) in x.chunks(rows * inputs).zip(y.chunks_mut(rows * outputs)).enumerate() {
        let finish = |row: usize, column: usize, sums: &mut [f32]| finish(part * rows + row, column, sums);
        left.fill(x, inputs, numbers);
        left.multiply(unit, outputs, weights, y, &finish);
    }
}

struct Product<'a> {
    unit: Unit,
    left: &'a Packed,
    terms: [usize; 2],
    inputs: usize,
    rows: usize,
    weights: &'a Factor<'a>,
    finish: &'a Finish<'a>,
}

impl Product<'_> {
    fn run(&self, outputs: usize, y: &mut [f32]) {
        // Enough parts for all threads, as far as that leaves them wide.
        let columns = (outputs / (4 * rayon::current_num_threads())).next_multiple_of(UNDIVIDED);
        let columns = columns.clamp(UNDIVIDED, COLUMNS);
        let y = Columns { first: y.as_mut_ptr(), width: outputs };
        (0..outputs.div_ceil(columns)).into_par_iter().for_each_init(Panel::default, |panel, index| {
            let columns = index * columns..outputs.min((index + 1) * columns);
            let steps = self.left.steps;
            for first in (0..steps).step_by(STEPS) {
                let some = first..steps.min(first + STEPS);
                panel.fill(self, columns.clone(), some.clone());
                self.add(panel, columns.clone(), some, y);
            }
        });
    }

    /// Adds some steps to some columns.
    fn add(&self, panel: &Panel, columns: Range<usize>, steps: Range<usize>, y: Columns) {
        let offsets: Vec<Step> = (0..steps.len())
            .flat_map(|step| {
                pairs(self.terms[0], self.terms[1]).map(move |[left, right]| {
                    let right = (step * self.terms[1] + right) * 2 * TILE_BYTES;
                    [self.left.offset(steps.start + step, left), right]
                })
            })
            .collect();
        let (add, last) = (steps.start > 0, steps.end == self.left.steps);
        let engine = self.unit.begin();
        for block in 0..self.rows.div_ceil(DEPTH) {
            let rows = block * DEPTH..self.rows.min((block + 1) * DEPTH);
            for (index, first) in columns.clone().step_by(DEPTH).enumerate() {
                let columns = first..columns.end.min(first + DEPTH);
                let sides = [self.left.side(block), panel.packed.side(index)];
                Part { rows: rows.clone(), columns, y }.sum(&engine, &offsets, sides, add);
            }
            for row in rows.filter(|_| last) {
                #[expect(unsafe_code, reason = "threads write to columns of one matrix")]
                // SAFETY: the row lies in the matrix, and no other thread has these columns.
                let sums = unsafe { std::slice::from_raw_parts_mut(y.at(row, columns.start), columns.len()) };
                (self.finish)(row, columns.start, sums);
            }
        }
    }
}

/// Up to 32 rows and columns of a result.
struct Part {
    rows: Range<usize>,
    columns: Range<usize>,
    y: Columns,
}

impl Part {
    #[expect(unsafe_code, reason = "threads write to columns of one matrix")]
    fn sum(&self, engine: &Engine, steps: &[Step], [left, right]: [super::Side; 2], add: bool) {
        let Self { rows, columns, y } = self;
        if rows.len() == DEPTH && columns.len() == DEPTH {
            let sums = Sums { first: y.at(rows.start, columns.start), row_bytes: 4 * y.width, add };
            // SAFETY: the offsets are those of both sides, and the part lies in the matrix, as a whole.
            unsafe { engine.square(steps, left, right, sums) };
            return;
        }
        let mut square = Square([0.0; DEPTH * DEPTH]);
        let sums = Sums { first: square.0.as_mut_ptr(), row_bytes: 4 * DEPTH, add: false };
        // SAFETY: the offsets are those of both sides.
        unsafe { engine.square(steps, left, right, sums) };
        for (row, sums) in rows.clone().zip(square.0.chunks(DEPTH)) {
            // SAFETY: the row lies in the matrix, and no other thread has these columns.
            let y = unsafe { std::slice::from_raw_parts_mut(y.at(row, columns.start), columns.len()) };
            for (y, sum) in y.iter_mut().zip(sums) {
                *y = if add { *y + sum } else { *sum };
            }
        }
    }
}

/// Some columns of the right side, laid out, and the numbers of one of them.
#[derive(Default)]
struct Panel {
    packed: Packed,
    narrow: Vec<bf16>,
    wide: Vec<f32>,
}

impl Panel {
    fn fill(&mut self, product: &Product<'_>, columns: Range<usize>, steps: Range<usize>) {
        let terms = product.terms[1];
        let (first, end) = (steps.start * DEPTH, product.inputs.min(steps.end * DEPTH));
        match product.weights {
            Factor::Narrow(read) => {
                self.narrow.resize(end - first, bf16::ZERO);
                self.place(columns.len(), steps.len(), 1);
                let block = 2 * steps.len();
                for (index, column) in columns.enumerate() {
                    read(column, first, &mut self.narrow);
                    let tiles = &mut self.packed.tiles[index / DEPTH * block..][..block];
                    write_bf16_row(&self.narrow, index % DEPTH, tiles);
                }
                self.packed.tiles.iter_mut().for_each(transpose);
            }
            Factor::Wide(read) => {
                let width = end - first;
                self.wide.resize(columns.len() * width, 0.0);
                for (column, numbers) in columns.clone().zip(self.wide.chunks_mut(width)) {
                    read(column, first, numbers);
                }
                let row = |row: usize| &self.wide[row * width..][..width];
                self.packed.fill(columns.len(), width, terms, Order::Pairs, row);
            }
        }
    }

    /// Makes room; what is beyond the last column is empty.
    fn place(&mut self, columns: usize, steps: usize, terms: usize) {
        (self.packed.steps, self.packed.terms) = (steps, terms);
        let tiles: &mut Vec<Tile> = &mut self.packed.tiles;
        tiles.resize(columns.div_ceil(DEPTH) * steps * terms * 2, EMPTY);
        if !columns.is_multiple_of(DEPTH) {
            let last = tiles.len() - steps * terms * 2;
            tiles[last..].fill(EMPTY);
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
// SAFETY: those who write to it have columns of their own.
unsafe impl Sync for Columns {}

#[expect(unsafe_code, reason = "threads write to columns of one matrix")]
// SAFETY: as above.
unsafe impl Send for Columns {}

impl Columns {
    fn at(self, row: usize, column: usize) -> *mut f32 {
        self.first.wrapping_add(row * self.width + column)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::numbers;
    use super::*;

    fn narrowed(values: &[f32]) -> Vec<f32> {
        values.iter().map(|value| bf16::from_f32(*value).to_f32()).collect()
    }

    /// Products and sums in `f64`, and the sum of the sizes of the products, which bounds what rounding does.
    fn plain(x: &[f32], w: &[f32], inputs: usize) -> Vec<(f64, f64)> {
        let pairs = x.chunks(inputs).flat_map(|x| w.chunks(inputs).map(move |w| (x, w)));
        let sums = pairs.map(|(x, w)| {
            let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()))
        });
        sums.collect()
    }

    /// The product, with its own row and column added at the end.
    fn product(
        unit: Unit,
        x: (&[f32], Numbers),
        [inputs, outputs]: [usize; 2],
        w: &[f32],
        narrow: bool,
    ) -> Vec<f32> {
        let mut y = vec![f32::NAN; x.0.len() / inputs * outputs];
        let wide = |row: usize, first: usize, out: &mut [f32]| {
            out.copy_from_slice(&w[row * inputs + first..][..out.len()]);
        };
        let bf16s = |row: usize, first: usize, out: &mut [bf16]| {
            for (out, value) in out.iter_mut().zip(&w[row * inputs + first..]) {
                *out = bf16::from_f32(*value);
            }
        };
        let weights = if narrow { Factor::Narrow(&bf16s) } else { Factor::Wide(&wide) };
        let finish = |row: usize, first: usize, sums: &mut [f32]| {
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum += (1000 * row + first + column) as f32;
            }
        };
        multiply(unit, x, [inputs, outputs], &weights, &mut y, &finish);
        y
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
                (40, 1056, 64),
                (5, 4096, 40),
            ] {
                let (x, w) = (numbers(rows * inputs, 3), numbers(inputs * outputs, 7));
                let (narrow_x, narrow_w) = (narrowed(&x), narrowed(&w));
                for (x, exact, w, narrow) in [
                    (&narrow_x, Numbers::Rounded, &narrow_w, true),
                    (&x, Numbers::Exact, &narrow_w, true),
                    (&narrow_x, Numbers::Rounded, &narrow_w, false),
                    (&x, Numbers::Exact, &w, false),
                ] {
                    let y = product(*unit, (x, exact), [inputs, outputs], w, narrow);
                    for (place, (y, (sum, size))) in y.iter().zip(plain(x, w, inputs)).enumerate() {
                        let own = (1000 * (place / outputs) + place % outputs) as f64;
                        let error = (f64::from(*y) - sum - own).abs();
                        assert!(
                            error <= 2e-6 * size + 1e-7 * own,
                            "{unit:?} {exact:?} {rows}x{inputs}x{outputs}: {y} for {sum} + {own}"
                        );
                    }
                }
            }
        }
    }
}
