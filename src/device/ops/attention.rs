//! Scaled dot-product attention, without ever having all scores at once.

use rayon::prelude::*;

use super::bf16::{self, Numbers, Unit};
use super::{Matrix, MatrixMut, Softmax, Threads, gemm};

/// Queries a thread looks at together, and keys in one block. Their scores stay in its cache; the whole
/// score matrix of a long sequence would be gigabytes.
const CHUNK: usize = 128;
const BLOCK: usize = 1024;

/// Rows of numbers in heads, in batches: (batch, heads, rows, width), anywhere in a slice.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    pub data: &'a [f32],
    pub size: [usize; 4],
    /// From one batch, head and row to the next. The numbers of a row follow each other.
    pub strides: [usize; 3],
}

/// The rows of one head.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
    pub count: usize,
    pub width: usize,
}

impl<'a> Heads<'a> {
    fn head(&self, batch: usize, head: usize) -> Rows<'a> {
        let [_, _, count, width] = self.size;
        let data = &self.data[batch * self.strides[0] + head * self.strides[1]..];
        Rows { data, stride: self.strides[2], count, width }
    }
}

impl<'a> Rows<'a> {
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.width]
    }

    /// Some of the rows as a matrix.
    fn matrix(&self, first: usize, count: usize) -> Matrix<'a> {
        Matrix::by_rows(&self.data[first * self.stride..], count, self.width, self.stride)
    }
}

/// One head, whoever computes it.
pub struct Head<'a> {
    pub queries: Rows<'a>,
    pub keys: Rows<'a>,
    pub values: Rows<'a>,
    pub scale: f32,
    /// (queries, keys), added to the scores.
    mask: Option<&'a [f32]>,
}

impl Head<'_> {
    /// What is added to the scores of a query for some keys.
    pub fn mask(&self, query: usize, key: usize, count: usize) -> Option<&[f32]> {
        self.mask.map(|mask| &mask[query * self.keys.count + key..][..count])
    }
}

/// Where the rows of one head go. Each query's row is written by the one thread that has it.
pub struct Output {
    first: *mut f32,
    stride: usize,
    width: usize,
}

#[expect(unsafe_code, reason = "threads write to rows of their own")]
// SAFETY: those who write have queries of their own.
unsafe impl Sync for Output {}

impl Output {
    #[expect(clippy::mut_from_ref, reason = "threads write to rows of their own")]
    #[expect(unsafe_code, reason = "threads write to rows of their own")]
    pub fn row(&self, query: usize) -> &mut [f32] {
        // SAFETY: `run` has checked that the rows of all queries of all heads lie in its output, and those of a head
        // are asked for once each.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(query * self.stride), self.width) }
    }
}

/// `softmax(scale * q kᵀ + mask) v`.
pub struct Attention<'a> {
    pub queries: Heads<'a>,
    /// Their number of heads divides that of the queries: each serves consecutive heads.
    pub keys: Heads<'a>,
    pub values: Heads<'a>,
    pub scale: f32,
    /// (queries, keys), added to the scores.
    pub mask: Option<&'a [f32]>,
    pub numbers: Numbers,
}

impl Attention<'_> {
    /// Writes (batch, queries, heads, width), on all threads.
    pub fn run(&self, out: &mut [f32]) {
        self.run_by(Unit::fastest(self.numbers), out);
    }

    fn run_by(&self, unit: Option<Unit>, out: &mut [f32]) {
        let [batches, heads, queries, _] = self.queries.size;
        let [_, key_heads, keys, width] = self.values.size;
        assert_eq!(out.len(), batches * heads * queries * width, "rows of attention");
        assert_eq!(self.queries.size[3], self.keys.size[3], "widths of queries and keys");
        assert!(self.keys.size[2] == keys && self.mask.is_none_or(|mask| mask.len() == queries * keys));
        let (out, stride) = (Shared(out.as_mut_ptr()), heads * width);
        (0..batches * heads).into_par_iter().for_each(|index| {
            let (batch, head) = (index / heads, index % heads);
            let served = head * key_heads / heads;
            let first = (batch * queries * heads + head) * width;
            let out = Output { first: out.at(first), stride, width };
            let head = Head {
                queries: self.queries.head(batch, head),
                keys: self.keys.head(batch, served),
                values: self.values.head(batch, served),
                scale: self.scale,
                mask: self.mask,
            };
            match unit {
                Some(unit) => bf16::attend(unit, self.numbers, &head, &out),
                None => head.attend(&out),
            }
        });
    }
}

/// The start of an output.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

#[expect(unsafe_code, reason = "threads write to rows of their own")]
// SAFETY: only what [`Output`] allows is done with it.
unsafe impl Sync for Shared {}

impl Shared {
    fn at(self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}

impl Head<'_> {
    /// By products of `f32` matrices.
    fn attend(&self, out: &Output) {
        (0..self.queries.count.div_ceil(CHUNK)).into_par_iter().for_each(|chunk| {
            let first = chunk * CHUNK;
            self.attend_some(first, CHUNK.min(self.queries.count - first), out);
        });
    }

    /// A chunk of queries against all keys, block by block.
    fn attend_some(&self, first: usize, queries: usize, out: &Output) {
        let (keys, width) = (self.keys.count, self.values.width);
        let mut softmax = vec![Softmax::default(); queries];
        let mut scores = vec![0.0; queries * BLOCK.min(keys)];
        let mut sums = vec![0.0; queries * width];
        for key in (0..keys).step_by(BLOCK) {
            let count = BLOCK.min(keys - key);
            let scores = &mut scores[..queries * count];
            gemm(
                self.queries.matrix(first, queries),
                self.keys.matrix(key, count).transposed(),
                MatrixMut::by_rows(scores, queries, count, count),
                false,
                Threads::One,
            );
            let rows = scores.chunks_mut(count).zip(sums.chunks_mut(width)).zip(&mut softmax);
            for (index, ((scores, sums), softmax)) in rows.enumerate() {
                let factor = softmax.absorb(scores, self.scale, self.mask(first + index, key, count));
                for sum in sums {
                    *sum *= factor;
                }
            }
            gemm(
                Matrix::by_rows(scores, queries, count, count),
                self.values.matrix(key, count),
                MatrixMut::by_rows(&mut sums, queries, width, width),
                true,
                Threads::One,
            );
        }
        for (index, (sums, softmax)) in sums.chunks(width).zip(softmax).enumerate() {
            for (out, sum) in out.row(first + index).iter_mut().zip(sums) {
                *out = sum / softmax.sum();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step % 101) as f32 - 50.0) / 25.0).collect()
    }

    /// The definition in double precision: (batch, queries, heads, width).
    fn reference(attention: &Attention<'_>) -> Vec<f64> {
        let [batches, heads, queries, _] = attention.queries.size;
        let [_, key_heads, keys, width] = attention.values.size;
        let mut out = Vec::new();
        for (batch, query, head) in (0..batches)
            .flat_map(|b| (0..queries).flat_map(move |q| (0..heads).map(move |head| (b, q, head))))
        {
            let served = head * key_heads / heads;
            let q = attention.queries.head(batch, head).row(query);
            let scores: Vec<f64> = (0..keys)
                .map(|key| {
                    let k = attention.keys.head(batch, served).row(key);
                    let product: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    let mask = attention.mask.map_or(0.0, |mask| f64::from(mask[query * keys + key]));
                    product * f64::from(attention.scale) + mask
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for column in 0..width {
                let value = |key: usize| f64::from(attention.values.head(batch, served).row(key)[column]);
                out.push((0..keys).map(|key| weights[key] * value(key)).sum::<f64>() / total);
            }
        }
        out
    }

    #[test]
    fn every_way_follows_the_definition() {
        // Of batches, heads, key heads, queries, keys, width.
        for [batches, heads, key_heads, queries, keys, width] in
            [[1, 2, 2, 5, 5, 8], [2, 4, 2, 40, 33, 80], [1, 3, 3, 130, 1100, 64], [3, 2, 1, 1, 600, 32]]
        {
            let [q, k, v] = [(heads, queries, 37), (key_heads, keys, 41), (key_heads, keys, 29)]
                .map(|(heads, rows, step)| numbers(batches * heads * rows * width, step));
            // Rows of all heads beside each other.
            let by_rows = |data, heads, rows| Heads {
                data,
                size: [batches, heads, rows, width],
                strides: [heads * rows * width, width, heads * width],
            };
            let mask: Vec<f32> = (0..queries * keys)
                .map(|i| if i % keys > 0 && i % 3 == 0 { f32::NEG_INFINITY } else { 0.5 })
                .collect();
            for mask in [None, Some(mask.as_slice())] {
                let attention = Attention {
                    queries: by_rows(&q, heads, queries),
                    keys: by_rows(&k, key_heads, keys),
                    values: by_rows(&v, key_heads, keys),
                    scale: 0.3,
                    mask,
                    numbers: Numbers::Exact,
                };
                let expected = reference(&attention);
                for unit in Unit::all().iter().copied().map(Some).chain([None]) {
                    let mut out = vec![f32::NAN; expected.len()];
                    attention.run_by(unit, &mut out);
                    let errors = out.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs());
                    let worst = errors.fold(0.0, |a: f64, b| if b > a || b.is_nan() { b } else { a });
                    assert!(worst < 5e-5, "{unit:?}, {heads} heads, {keys} keys: off by {worst:e}");
                }
            }
        }
    }
}
