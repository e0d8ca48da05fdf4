//! How numbers are laid out for the units: split into BF16 terms, in tiles of 16 rows of 64 bytes.
#![expect(clippy::inline_always, reason = "a call in a loop would keep it from becoming vector instructions")]

use half::bf16;
use rayon::prelude::*;

use super::{DEPTH, EMPTY, SIDE, Side, TILE_BYTES, Tile};
use crate::device::ops::{lengthen, vectorised};

/// The most terms a number is split into; three hold all bits.
pub const MOST_TERMS: usize = 3;

/// How tiles hold rows of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One after the other: a left side.
    Rows,
    /// The first two numbers of all rows, then the next two: a right side of which these are the columns.
    Pairs,
}

/// Rows of numbers, laid out: for each 32 rows, for each step of 32 numbers, for each term, two tiles.
#[derive(Default)]
pub struct Packed {
    pub tiles: Vec<Tile>,
    pub steps: usize,
    pub terms: usize,
}

impl Packed {
    /// `values`: rows of `width` numbers.
    pub fn new(values: &[f32], width: usize, terms: usize, order: Order) -> Self {
        let mut packed = Self::default();
        packed.fill(values.len() / width, width, terms, order, |row| &values[row * width..][..width]);
        packed
    }

    /// Lays out `count` rows of `width` numbers in place of what was here, on all threads where it is much.
    pub fn fill<'a>(
        &mut self,
        count: usize,
        width: usize,
        terms: usize,
        order: Order,
        row: impl Fn(usize) -> &'a [f32] + Sync,
    ) {
        (self.steps, self.terms) = (width.div_ceil(DEPTH), terms);
        let block = self.steps * terms * 2;
        let tiles = count.div_ceil(DEPTH) * block;
        lengthen(&mut self.tiles, tiles, EMPTY);
        self.tiles[..tiles]
            .par_chunks_mut(block.max(1))
            .with_min_len(((1 << 16) / (DEPTH * width.max(1))).max(1))
            .enumerate()
            .for_each(|(index, tiles)| {
                for place in 0..DEPTH {
                    let number = index * DEPTH + place;
                    write_row(if number < count { row(number) } else { &[] }, place, terms, tiles);
                }
                if order == Order::Pairs {
                    tiles.iter_mut().for_each(transpose);
                }
            });
    }

    /// 32 rows as one side of a square.
    pub fn side(&self, block: usize) -> Side {
        Side {
            first: self.tiles[block * self.steps * self.terms * 2..].as_ptr().cast(),
            row_bytes: 2 * DEPTH,
            second: TILE_BYTES,
        }
    }

    /// Where a term of a step begins, in bytes from its block.
    pub fn offset(&self, step: usize, term: usize) -> usize {
        (step * self.terms + term) * 2 * TILE_BYTES
    }
}

vectorised! {
    /// Writes a row of numbers to the row `place` of the tiles of a block, zeros after its end.
    fn write_row(row: &[f32], place: usize, terms: usize, tiles: &mut [Tile]) {
        let (whole, rest) = row.as_chunks::<DEPTH>();
        let mut last = [0.0; DEPTH];
        last[..rest.len()].copy_from_slice(rest);
        let ends = std::iter::once(&last).chain(std::iter::repeat(&[0.0; DEPTH]));
        for (tiles, values) in tiles.chunks_mut(2 * terms).zip(whole.iter().chain(ends)) {
            let mut values = *values;
            for tiles in tiles.chunks_mut(2) {
                let to = &mut tiles[place / SIDE].0[place % SIDE * DEPTH..][..DEPTH];
                for (to, value) in to.iter_mut().zip(&mut values) {
                    *to = take_term(value);
                }
            }
        }
    }
}

/// Writes BF16 numbers, 32 to a step of two tiles, to the row `place`.
pub fn write_bf16_row(row: &[bf16], place: usize, tiles: &mut [Tile]) {
    for (tiles, values) in tiles.chunks_mut(2).zip(row.chunks(DEPTH)) {
        let to = &mut tiles[place / SIDE].0[place % SIDE * DEPTH..][..DEPTH];
        for (to, value) in to.iter_mut().zip(values) {
            *to = value.to_bits();
        }
        to[values.len()..].fill(0);
    }
}

vectorised! {
    /// Pairs of the numbers of two rows, for each term: `to` has a row for each of them, `distance` apart.
    pub fn interleave(rows: [&[f32]; 2], terms: usize, to: &mut [u32], distance: usize) {
        let [one, other] = rows;
        let (ones, one_rest) = one.as_chunks::<SIDE>();
        let (others, other_rest) = other.as_chunks::<SIDE>();
        for (block, (one, other)) in ones.iter().zip(others).enumerate() {
            let mut rests = [*one, *other];
            for term in 0..terms {
                let to = &mut to[term * distance + block * SIDE..];
                if let Some(to) = to.first_chunk_mut::<SIDE>() {
                    *to = take_pairs(&mut rests);
                }
            }
        }
        let mut rests = [[0.0; SIDE]; 2];
        rests[0][..one_rest.len()].copy_from_slice(one_rest);
        rests[1][..other_rest.len()].copy_from_slice(other_rest);
        for term in 0..terms {
            let to = &mut to[term * distance + ones.len() * SIDE..];
            to[..one_rest.len()].copy_from_slice(&take_pairs(&mut rests)[..one_rest.len()]);
        }
    }
}

/// The next terms of two rows, beside each other.
#[inline(always)]
fn take_pairs([one, other]: &mut [[f32; SIDE]; 2]) -> [u32; SIDE] {
    let mut pairs = [0; SIDE];
    for ((pair, one), other) in pairs.iter_mut().zip(one).zip(other) {
        *pair = u32::from(take_term(one)) | u32::from(take_term(other)) << 16;
    }
    pairs
}

/// The nearest BF16 number, which is taken off the value.
#[inline(always)]
fn take_term(value: &mut f32) -> u16 {
    let bits = value.to_bits();
    let nearest = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
    let term = if value.is_nan() { bits >> 16 | 0x40 } else { nearest };
    let rest = *value - f32::from_bits(term << 16);
    // Nothing is left of what is infinite, or becomes so.
    *value = if term & 0x7f80 == 0x7f80 { 0.0 } else { rest };
    term as u16
}

/// Elements that begin with a cache line.
#[derive(Default)]
pub struct Aligned<T> {
    buffer: Vec<T>,
    count: usize,
}

impl<T: Copy + Default> Aligned<T> {
    const LINE: usize = 64 / size_of::<T>();

    /// So many elements; what is in them is left from before.
    pub fn sized(&mut self, count: usize) -> &mut [T] {
        lengthen(&mut self.buffer, count + Self::LINE, T::default());
        self.count = count;
        let first = self.first();
        &mut self.buffer[first..][..count]
    }

    /// As many as were asked for last.
    pub fn all(&self) -> &[T] {
        &self.buffer[self.first()..][..self.count]
    }

    fn first(&self) -> usize {
        self.buffer.as_ptr().align_offset(64).min(Self::LINE)
    }
}

/// Rows of pairs become columns, and columns rows.
pub fn transpose(tile: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[expect(unsafe_code, reason = "instructions that the baseline lacks")]
        // SAFETY: the instructions were found to exist.
        return unsafe { avx512::transpose(tile) };
    }
    transpose_plainly(tile);
}

fn transpose_plainly(tile: &mut Tile) {
    for row in 0..SIDE {
        for column in 0..row {
            for half in 0..2 {
                tile.0.swap(row * DEPTH + 2 * column + half, column * DEPTH + 2 * row + half);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_load_si512, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_store_si512,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    use super::{SIDE, Tile};

    type Rows = [__m512i; SIDE];

    /// Elements move between rows whose numbers differ in one bit, bit by bit.
    #[expect(clippy::cast_ptr_alignment, reason = "a tile is as aligned as a vector")]
    #[target_feature(enable = "avx512f")]
    pub fn transpose(tile: &mut Tile) {
        let at = tile.0.as_mut_ptr().cast::<__m512i>();
        let mut rows = [_mm512_setzero_si512(); SIDE];
        for (index, row) in rows.iter_mut().enumerate() {
            #[expect(unsafe_code, reason = "vectors of a tile")]
            // SAFETY: a tile is 16 vectors, and as aligned as one.
            unsafe {
                *row = _mm512_load_si512(at.add(index));
            }
        }
        let rows = pairwise(&rows, 1, |a, b| [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)]);
        let rows = pairwise(&rows, 2, |a, b| [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)]);
        let rows = pairwise(&rows, 4, |a, b| {
            [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b)]
        });
        let rows = pairwise(&rows, 8, |a, b| {
            [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b)]
        });
        for (index, row) in rows.iter().enumerate() {
            #[expect(unsafe_code, reason = "vectors of a tile")]
            // SAFETY: as above.
            unsafe {
                _mm512_store_si512(at.add(place(index)), *row);
            }
        }
    }

    /// The column that a row has become: the first two steps put out what they take in crosswise.
    fn place(row: usize) -> usize {
        row & 0b1100 | (row & 1) << 1 | row >> 1 & 1
    }

    /// Replaces each two rows, `distance` apart, by two mixtures of them.
    #[target_feature(enable = "avx512f")]
    fn pairwise(rows: &Rows, distance: usize, mix: impl Fn(__m512i, __m512i) -> [__m512i; 2]) -> Rows {
        let mut mixed = *rows;
        for first in (0..SIDE).filter(|row| row & distance == 0) {
            [mixed[first], mixed[first + distance]] = mix(rows[first], rows[first + distance]);
        }
        mixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ops::bf16::tests::numbers;

    #[test]
    fn tiles_are_transposed_as_by_hand() {
        let mut tile = Tile(std::array::from_fn(|index| index as u16));
        let mut plain = tile;
        transpose(&mut tile);
        transpose_plainly(&mut plain);
        assert_eq!(tile.0, plain.0);
        assert_eq!(plain.0[..6], [0, 1, 32, 33, 64, 65]);
    }

    #[test]
    fn three_terms_hold_every_bit() {
        for value in numbers(10_000, 11).into_iter().chain([f32::MAX / 2.0, 1e-20, 16_777_215.0]) {
            let mut rest = value;
            let sum: f64 =
                (0..MOST_TERMS).map(|_| f64::from(bf16::from_bits(take_term(&mut rest)).to_f32())).sum();
            assert_eq!(sum.to_bits(), f64::from(value).to_bits());
            assert_eq!(take_term(&mut { value }), bf16::from_f32(value).to_bits());
        }
        for special in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX] {
            let mut rest = special;
            assert_eq!(take_term(&mut rest), bf16::from_f32(special).to_bits());
            assert_eq!(rest.to_bits(), 0);
        }
    }

    #[test]
    fn rows_end_in_zeros_and_pairs_lie_side_by_side() {
        let values = numbers(3 * 40, 5);
        let packed = Packed::new(&values, 40, 2, Order::Rows);
        assert_eq!((packed.steps, packed.tiles.len()), (2, 8));
        let first = |row: usize, column: usize| bf16::from_f32(values[row * 40 + column]).to_bits();
        assert_eq!(packed.tiles[0].0[DEPTH + 5], first(1, 5));
        assert_eq!(packed.tiles[4].0[2 * DEPTH + 7], first(2, 39));
        assert_eq!((packed.tiles[4].0[8], packed.tiles[1].0[0]), (0, 0));
        let pairs = Packed::new(&values, 40, 2, Order::Pairs);
        assert_eq!(pairs.tiles[0].0[2 * DEPTH + 2..][..2], [first(1, 4), first(1, 5)]);
        let mut joined = vec![7; 200];
        interleave([&values[..20], &values[40..60]], 2, &mut joined, 100);
        assert_eq!(joined[3], u32::from(first(0, 3)) | u32::from(first(1, 3)) << 16);
        assert_eq!((joined[20], joined[120]), (7, 7));
    }
}
