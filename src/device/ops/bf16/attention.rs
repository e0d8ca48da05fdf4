//! Attention of one head, block by block: scores, weights and sums stay in a processor's cache.

use rayon::prelude::*;

use super::layout::{Aligned, Order, Packed, interleave};
use super::{DEPTH, Numbers, SIDE, Side, Step, Sums, Unit, pairs};
use crate::device::ops::Softmax;
use crate::device::ops::attention::{Head, Output};

/// Queries that a thread looks at together, and keys in a block.
const CHUNK: usize = 128;
const BLOCK: usize = 512;
/// From one row of scores to the next: a power of two would press them into part of the cache.
const SCORES: usize = BLOCK + SIDE;

/// Terms of queries and keys, whose products become exponents, and those of weights and values, which become sums.
fn terms(numbers: Numbers) -> [usize; 2] {
    match numbers {
        Numbers::Exact => [3, 2],
        Numbers::Rounded => [1, 1],
    }
}

/// Writes what all queries of a head see to `out`.
pub fn attend(unit: Unit, numbers: Numbers, head: &Head<'_>, out: &Output) {
    let terms = terms(numbers);
    let mut keys = Packed::default();
    keys.fill(head.keys.count, head.keys.width, terms[0], Order::Pairs, |key| head.keys.row(key));
    let prepared = Prepared { unit, head, terms, keys, values: Values::new(head, terms[1]) };
    (0..head.queries.count.div_ceil(CHUNK))
        .into_par_iter()
        .for_each_init(Room::default, |room, chunk| prepared.attend(chunk * CHUNK, room, out));
}

/// A head whose keys and values are laid out.
struct Prepared<'a> {
    unit: Unit,
    head: &'a Head<'a>,
    terms: [usize; 2],
    keys: Packed,
    values: Values,
}

/// Values as a right side: for each 32 keys, for each term, for each two keys, a row of pairs of their numbers.
struct Values {
    rows: Aligned<u32>,
    /// Numbers of a value, padded.
    width: usize,
    terms: usize,
}

/// What a thread works with.
#[derive(Default)]
struct Room {
    queries: Packed,
    scores: Aligned<f32>,
    weights: Packed,
    sums: Aligned<f32>,
    softmax: Vec<Softmax>,
}

impl Values {
    fn new(head: &Head<'_>, terms: usize) -> Self {
        let (count, width) = (head.values.count, head.values.width.next_multiple_of(DEPTH));
        let (steps, distance) = (count.div_ceil(DEPTH), SIDE * width);
        let none = vec![0.0; head.values.width];
        let row = |key: usize| if key < count { head.values.row(key) } else { &none };
        let mut rows = Aligned::default();
        let to = rows.sized(steps * terms * distance);
        for pair in 0..steps * SIDE {
            let to = &mut to[pair / SIDE * terms * distance + pair % SIDE * width..];
            interleave([row(2 * pair), row(2 * pair + 1)], terms, to, distance);
        }
        Self { rows, width, terms }
    }

    /// 32 numbers of the values, from a column on.
    fn side(&self, column: usize) -> Side {
        Side { first: self.rows.all()[column..].as_ptr().cast(), row_bytes: 4 * self.width, second: 4 * SIDE }
    }

    /// Where a term of a step begins, in bytes.
    fn offset(&self, step: usize, term: usize) -> usize {
        (step * self.terms + term) * SIDE * self.width * 4
    }
}

impl Prepared<'_> {
    fn attend(&self, first: usize, room: &mut Room, out: &Output) {
        let queries = &self.head.queries;
        let count = CHUNK.min(queries.count - first);
        room.queries.fill(count, queries.width, self.terms[0], Order::Rows, |row| queries.row(first + row));
        room.softmax.clear();
        room.softmax.resize(count, Softmax::default());
        room.sums.sized(count.next_multiple_of(DEPTH) * self.values.width).fill(0.0);
        for key in (0..self.head.keys.count).step_by(BLOCK) {
            let keys = BLOCK.min(self.head.keys.count - key);
            self.score([count, keys], key, room);
            self.weigh([count, keys], [first, key], room);
            room.weights.fill(count, keys, self.terms[1], Order::Rows, {
                let scores = room.scores.all();
                move |row| &scores[row * SCORES..][..keys]
            });
            self.add([count, keys], key, room);
        }
        for (row, softmax) in room.softmax.iter().enumerate() {
            let to = out.row(first + row);
            for (to, sum) in to.iter_mut().zip(&room.sums.all()[row * self.values.width..]) {
                *to = sum / softmax.sum();
            }
        }
    }

    /// Products of the queries and the keys from `key` on.
    fn score(&self, [count, keys]: [usize; 2], key: usize, room: &mut Room) {
        let queries = &room.queries;
        let steps: Vec<Step> = (0..self.keys.steps)
            .flat_map(|step| {
                pairs(self.terms[0], self.terms[0])
                    .map(move |[a, b]| [queries.offset(step, a), self.keys.offset(step, b)])
            })
            .collect();
        let scores = room.scores.sized(count.next_multiple_of(DEPTH) * SCORES);
        let engine = self.unit.begin();
        for row in (0..count).step_by(DEPTH) {
            for column in (0..keys).step_by(DEPTH) {
                let to = &mut scores[row * SCORES + column..][..(DEPTH - 1) * SCORES + DEPTH];
                let sums = Sums { first: to.as_mut_ptr(), row_bytes: 4 * SCORES, add: false };
                let sides = [queries.side(row / DEPTH), self.keys.side((key + column) / DEPTH)];
                #[expect(unsafe_code, reason = "a kernel of the unit")]
                // SAFETY: both sides have these steps, and the sums 32 rows of 32.
                unsafe {
                    engine.square(&steps, sides[0], sides[1], sums);
                }
            }
        }
    }

    /// Turns scores into weights, and shrinks what was summed up before accordingly.
    fn weigh(&self, [count, keys]: [usize; 2], [query, key]: [usize; 2], room: &mut Room) {
        let width = self.values.width;
        let sums = room.sums.sized(count.next_multiple_of(DEPTH) * width);
        let scores = room.scores.sized(count.next_multiple_of(DEPTH) * SCORES);
        for (row, softmax) in room.softmax.iter_mut().enumerate() {
            let scores = &mut scores[row * SCORES..][..keys];
            let factor = softmax.absorb(scores, self.head.scale, self.head.mask(query + row, key, keys));
            if factor.to_bits() != 1f32.to_bits() {
                sums[row * width..][..width].iter_mut().for_each(|sum| *sum *= factor);
            }
        }
    }

    /// Adds the values from `key` on by their weights.
    fn add(&self, [count, keys]: [usize; 2], key: usize, room: &mut Room) {
        let weights = &room.weights;
        let steps: Vec<Step> = (0..keys.div_ceil(DEPTH))
            .flat_map(|step| {
                pairs(self.terms[1], self.terms[1])
                    .map(move |[a, b]| [weights.offset(step, a), self.values.offset(key / DEPTH + step, b)])
            })
            .collect();
        let width = self.values.width;
        let to = room.sums.sized(count.next_multiple_of(DEPTH) * width);
        let engine = self.unit.begin();
        for row in (0..count).step_by(DEPTH) {
            for column in (0..width).step_by(DEPTH) {
                let to = &mut to[row * width + column..][..(DEPTH - 1) * width + DEPTH];
                let sums = Sums { first: to.as_mut_ptr(), row_bytes: 4 * width, add: true };
                #[expect(unsafe_code, reason = "a kernel of the unit")]
                // SAFETY: weights and values have these steps, and the sums 32 rows of 32.
                unsafe {
                    engine.square(&steps, weights.side(row / DEPTH), self.values.side(column), sums);
                }
            }
        }
    }
}
