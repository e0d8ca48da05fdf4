//! Products by the units that some processors have for BF16 numbers.
//!
//! Every fp8 number is a BF16 number, and an `f32` is the sum of three, which together hold all of its 24 bits.
//! Products of BF16 numbers are exact and sums are kept in `f32`, so that a matrix of such weights is multiplied as
//! exactly as by `f32` arithmetic, and several times faster where there is a matrix unit.
//!
//! All products are made of squares: 32 rows by 32 columns of sums, over steps of 32 products. Both sides are laid out
//! for that first ([`layout`]); where each step finds them is told by a list of offsets, so that one kernel of each
//! unit serves matrices, convolutions and attention.

mod attention;
mod conv;
mod layout;
mod product;
mod tiles;
mod vectors;

use std::marker::PhantomData;
use std::sync::OnceLock;

pub(super) use attention::attend;
pub(super) use conv::Convolution;
pub use product::{Factor, Finish, LaidOut, UNDIVIDED, multiply};

/// A part of the processor that multiplies BF16 numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// AMX: 16x16 sums of 32 products at a time.
    Tiles,
    /// AVX512-BF16: 16 sums of two products at a time.
    Vectors,
}

/// What becomes of `f32` numbers in a product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// They keep all their bits.
    #[default]
    Exact,
    /// They are rounded to BF16; sums stay `f32`.
    Rounded,
}

impl Unit {
    /// How it is called in logs and figures.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tiles => "amx-bf16",
            Self::Vectors => "avx512-bf16",
        }
    }

    /// The units of this machine, the fastest first.
    pub fn all() -> &'static [Self] {
        static FOUND: OnceLock<Vec<Unit>> = OnceLock::new();
        FOUND.get_or_init(|| {
            let found = [(Self::Tiles, tiles::exist()), (Self::Vectors, vectors::exist())];
            found.into_iter().filter(|(_, exists)| *exists).map(|(unit, _)| unit).collect()
        })
    }

    /// The unit that multiplies such numbers faster than `f32` arithmetic does, if there is one.
    pub fn fastest(numbers: Numbers) -> Option<Self> {
        // Three products of vectors take longer than one of twice their width.
        Self::all().iter().copied().find(|unit| *unit == Self::Tiles || numbers == Numbers::Rounded)
    }

    /// Sets the unit up for this thread.
    fn begin(self) -> Engine {
        assert!(Self::all().contains(&self), "the processor has no such unit: {self:?}");
        Engine {
            unit: self,
            _ready: (self == Self::Tiles).then(tiles::Ready::new),
            _of_this_thread: PhantomData,
        }
    }
}

/// A unit at work in one thread. Nothing that may run other work of the thread pool happens while it lives.
struct Engine {
    unit: Unit,
    _ready: Option<tiles::Ready>,
    _of_this_thread: PhantomData<*const ()>,
}

/// Rows, and columns in pairs, of a tile.
const SIDE: usize = 16;
/// Numbers of a row of a tile: so many products make one sum in a step. Rows and columns of a square as well.
const DEPTH: usize = 2 * SIDE;

/// 16 rows of 64 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tile([u16; SIDE * DEPTH]);

const EMPTY: Tile = Tile([0; SIDE * DEPTH]);
const TILE_BYTES: usize = size_of::<Tile>();

/// Two tiles of one side of a square, and as many more as there are steps.
///
/// A tile of the left side has a row of 32 numbers for each row of sums. One of the right side has a row for each two
/// products: for each of 16 columns of sums the two numbers.
#[derive(Clone, Copy)]
struct Side {
    first: *const u8,
    /// From one row of a tile to the next.
    row_bytes: usize,
    /// From the first tile to the second.
    second: usize,
}

/// Where a step finds its tiles of the left and the right side: bytes from the first ones.
type Step = [usize; 2];

/// Where a square's sums go.
#[derive(Clone, Copy)]
struct Sums {
    first: *mut f32,
    /// From one row to the next.
    row_bytes: usize,
    /// Whether they are added to what is there.
    add: bool,
}

/// 32 rows of 32 sums.
#[derive(Clone)]
#[repr(C, align(64))]
struct Square([f32; DEPTH * DEPTH]);

impl Engine {
    /// # Safety
    ///
    /// All tiles of all steps can be read, and the 32 rows of 32 sums can be written, and read if they are added to.
    #[expect(unsafe_code, reason = "instructions that the baseline lacks")]
    unsafe fn square(&self, steps: &[Step], left: Side, right: Side, sums: Sums) {
        match self.unit {
            // SAFETY: as this function demands; `begin` checked and set up the unit.
            Unit::Tiles => unsafe { tiles::square(steps, left, right, sums) },
            // SAFETY: as this function demands; `begin` checked the unit.
            Unit::Vectors => unsafe { vectors::square(steps, left, right, sums) },
        }
    }
}

/// The pairs of terms whose products count when both sides are sums of so many terms: those of the same size as the
/// last term alone, or larger. Most share a term with the one before, whose tiles are read already.
fn pairs(left: usize, right: usize) -> impl Iterator<Item = [usize; 2]> {
    let most = left.max(right);
    (0..left).flat_map(move |i| {
        let count = right.min(most - i);
        (0..count).map(move |j| [i, if i % 2 == 0 { count - 1 - j } else { j }])
    })
}

#[cfg(test)]
#[expect(unsafe_code, reason = "kernels are called as their callers do")]
mod tests {
    use super::layout::{Order, Packed};
    use super::*;

    /// Numbers between -1 and 1, some of them none.
    pub(super) fn numbers(count: usize, mut seed: u64) -> Vec<f32> {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|index| if index % 31 == 0 { 0.0 } else { next() }).collect()
    }

    /// The plain twin of the kernels, for packed sides.
    fn plain(steps: &[Step], left: &Packed, right: &Packed, sums: &mut Square) {
        let value = |packed: &Packed, offset: usize, tile: usize, place: usize| {
            let bits = packed.tiles[offset / TILE_BYTES + tile].0[place];
            f32::from_bits(u32::from(bits) << 16)
        };
        for (index, sum) in sums.0.iter_mut().enumerate() {
            let (row, column) = (index / DEPTH, index % DEPTH);
            for [a, b] in steps {
                for k in 0..DEPTH {
                    let a = value(left, *a, row / SIDE, row % SIDE * DEPTH + k);
                    let b = value(right, *b, column / SIDE, k / 2 * DEPTH + column % SIDE * 2 + k % 2);
                    *sum += a * b;
                }
            }
        }
    }

    #[test]
    fn every_kernel_agrees_with_its_plain_twin() {
        let (rows, columns) = (numbers(DEPTH * 100, 1), numbers(DEPTH * 100, 2));
        let left = Packed::new(&rows, 100, 3, Order::Rows);
        let right = Packed::new(&columns, 100, 1, Order::Pairs);
        let steps: Vec<Step> = (0..4)
            .flat_map(|step| {
                (0..3).map(move |term| [2 * TILE_BYTES * (3 * step + term), 2 * TILE_BYTES * step])
            })
            .collect();
        for unit in Unit::all() {
            for add in [false, true] {
                let mut expected = Square([if add { 1.5 } else { 0.0 }; DEPTH * DEPTH]);
                plain(&steps, &left, &right, &mut expected);
                let mut found = Square([1.5; DEPTH * DEPTH]);
                let sums = Sums { first: found.0.as_mut_ptr(), row_bytes: 4 * DEPTH, add };
                // SAFETY: both sides have four steps, and the sums a square.
                unsafe { unit.begin().square(&steps, left.side(0), right.side(0), sums) };
                for (found, expected) in found.0.iter().zip(&expected.0) {
                    assert!((found - expected).abs() < 1e-5, "{unit:?}: {found} for {expected}");
                }
            }
        }
    }

    #[test]
    fn terms_too_small_to_count_do_not() {
        assert_eq!(pairs(3, 1).collect::<Vec<_>>(), [[0, 0], [1, 0], [2, 0]]);
        assert_eq!(pairs(1, 3).collect::<Vec<_>>(), [[0, 2], [0, 1], [0, 0]]);
        assert_eq!(pairs(2, 2).collect::<Vec<_>>(), [[0, 1], [0, 0], [1, 0]]);
        assert_eq!(pairs(3, 3).collect::<Vec<_>>(), [[0, 2], [0, 1], [0, 0], [1, 0], [1, 1], [2, 0]]);
    }
}
