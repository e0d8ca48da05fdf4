//! The largest singular values of a matrix, and their vectors.
//!
//! A block Krylov space holds them (Musco and Musco, "Randomized block Krylov methods for stronger and faster
//! approximate singular value decomposition", 2015); inside it they are found by one-sided Jacobi rotations (Hestenes,
//! 1958). Small matrices are decomposed as they are.

use rayon::prelude::*;

use crate::device::MersenneTwister;
use crate::device::ops::{Matrix, MatrixMut, Threads, gemm, matmul};
use crate::stop::{Stop, Stopped};

/// A matrix of low rank: `up @ down`.
pub struct Factors {
    pub rank: usize,
    /// (rows, rank): left vectors times their singular values, which fall.
    pub up: Vec<f32>,
    /// (rank, columns): right vectors, of length 1.
    pub down: Vec<f32>,
}

/// The best approximation of a matrix, row by row in `values`, by one of a rank that is no more than its sides; or
/// nothing, where it holds what are no numbers.
pub fn truncated_svd(
    values: &[f32],
    [rows, columns]: [usize; 2],
    rank: usize,
    stop: &Stop,
) -> Result<Option<Factors>, Stopped> {
    let rank = rank.min(rows).min(columns);
    if !values.iter().all(|value| value.is_finite()) || rank == 0 {
        return Ok(None);
    }
    let high = rows > columns;
    let matrix = if high { transposed(values, rows, columns) } else { values.to_vec() };
    let (short, long) = (rows.min(columns), rows.max(columns));
    let basis = Basis::of(&matrix, [short, long], rank, stop)?;
    let vectors = rotated_apart(&basis.products, basis.count(), long, rank, stop)?;
    // Of the short side, of length 1; of the long side, times their singular values.
    let left = matmul((&vectors, [rank, basis.count()]), (&basis.vectors, [basis.count(), short]));
    let right = matmul((&vectors, [rank, basis.count()]), (&basis.products, [basis.count(), long]));
    Ok(Some(if high {
        Factors { rank, up: transposed(&right, rank, long), down: left }
    } else {
        let mut up = left;
        let mut down = right;
        let values = normalised(&mut down, long);
        up.chunks_mut(short).zip(values).for_each(|(row, value)| row.iter_mut().for_each(|x| *x *= value));
        Factors { rank, up: transposed(&up, rank, short), down }
    }))
}

/// Orthonormal vectors, and their products with the matrix: row by row.
struct Basis {
    vectors: Vec<f32>,
    products: Vec<f32>,
    short: usize,
}

impl Basis {
    /// A space in which the first singular vectors of the short side lie.
    fn of(matrix: &[f32], [short, long]: [usize; 2], rank: usize, stop: &Stop) -> Result<Self, Stopped> {
        let block = rank + rank / 4 + 8;
        let blocks = if block <= 32 { 8 } else { 4 };
        if block * blocks >= short {
            let unit = (0..short * short).map(|i| f32::from(u8::from(i / short == i % short))).collect();
            return Ok(Self { vectors: unit, products: matrix.to_vec(), short });
        }
        let mut dice = MersenneTwister::new(0);
        let mut drawn = vec![0.0; block * long];
        drawn.fill_with(|| dice.uniform() - 0.5);
        let mut basis = Self { vectors: Vec::new(), products: Vec::new(), short };
        for _ in 0..blocks {
            stop.check()?;
            // What was found last, seen by the matrix once more.
            let last = basis.products.len().saturating_sub(block * long);
            let last = if basis.products.is_empty() { &drawn[..] } else { &basis.products[last..] };
            let mut next = vec![0.0; last.len() / long * short];
            gemm(
                Matrix::by_rows(last, last.len() / long, long, long),
                Matrix::by_rows(matrix, short, long, long).transposed(),
                MatrixMut::by_rows(&mut next, last.len() / long, short, short),
                false,
                Threads::All,
            );
            let before = basis.count();
            next.chunks(short).for_each(|vector| basis.add(vector));
            let new = &basis.vectors[before * short..];
            if new.is_empty() {
                break;
            }
            let seen = matmul((new, [new.len() / short, short]), (matrix, [short, long]));
            basis.products.extend(seen);
        }
        // A matrix of lower rank than is asked for has no more; any others do for the rest.
        while basis.count() < rank {
            let before = basis.count();
            let vector: Vec<f32> = (0..short).map(|_| dice.uniform() - 0.5).collect();
            basis.add(&vector);
            let new = &basis.vectors[before * short..];
            basis.products.extend(matmul((new, [new.len() / short, short]), (matrix, [short, long])));
        }
        Ok(basis)
    }

    fn count(&self) -> usize {
        self.vectors.len() / self.short
    }

    /// Adds what of a vector is not among the others yet.
    fn add(&mut self, vector: &[f32]) {
        let size = dot(vector, vector).sqrt();
        let mut rest: Vec<f64> = vector.iter().map(|x| f64::from(*x) / size.max(f64::MIN_POSITIVE)).collect();
        // Twice is enough.
        for _ in 0..2 {
            for other in self.vectors.chunks(self.short) {
                let share: f64 = rest.iter().zip(other).map(|(x, y)| x * f64::from(*y)).sum();
                rest.iter_mut().zip(other).for_each(|(x, y)| *x -= share * f64::from(*y));
            }
        }
        let left = rest.iter().map(|x| x * x).sum::<f64>().sqrt();
        if left > 1e-6 {
            self.vectors.extend(rest.iter().map(|x| (x / left) as f32));
        }
    }
}

/// Rotations of all pairs are done no more often than this; ten times are many.
const SWEEPS: usize = 30;

/// The rotations, one a row, that turn `count` rows of `long` numbers into rows that are orthogonal to each other: those
/// that give the `rank` longest ones, longest first.
fn rotated_apart(
    products: &[f32],
    count: usize,
    long: usize,
    rank: usize,
    stop: &Stop,
) -> Result<Vec<f32>, Stopped> {
    // How rows lie to each other is all that matters, and is less to rotate than they are.
    let row = |index: usize| &products[index * long..][..long];
    let mut lying: Vec<Vec<f64>> =
        (0..count).into_par_iter().map(|a| (0..count).map(|b| dot(row(a), row(b))).collect()).collect();
    let mut turns: Vec<Vec<f64>> =
        (0..count).map(|a| (0..count).map(|b| f64::from(u8::from(a == b))).collect()).collect();
    let all: f64 = (0..count).map(|index| lying[index][index]).sum();
    for _ in 0..SWEEPS {
        let mut turned = false;
        for one in 0..count {
            stop.check()?;
            for other in one + 1..count {
                let [[a, b], [t, u]] = [pair(&mut lying, one, other), pair(&mut turns, one, other)];
                turned |= turn(a, b, t, u, 1e-30 * all * all);
            }
        }
        if !turned {
            break;
        }
    }
    let mut lengths: Vec<(usize, f64)> =
        lying.iter().map(|row| row.iter().map(|x| x * x).sum()).enumerate().collect();
    lengths.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(lengths[..rank].iter().flat_map(|(index, _)| turns[*index].iter().map(|x| *x as f32)).collect())
}

/// Turns two rows until they are orthogonal, and two others with them; whether they were not. `least`: what of a product
/// of two rows is nothing.
fn turn(a: &mut [f64], b: &mut [f64], t: &mut [f64], u: &mut [f64], least: f64) -> bool {
    let [aa, bb, ab] = [(&*a, &*a), (&*b, &*b), (&*a, &*b)].map(|(x, y)| wide_dot(x, y));
    if ab.abs() <= (1e-10 * (aa * bb).sqrt()).max(least) {
        return false;
    }
    let zeta = (bb - aa) / (2.0 * ab);
    let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = cosine * tangent;
    for (x, y) in a.iter_mut().zip(b).chain(t.iter_mut().zip(u)) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
    true
}

/// Two rows at once, the second of which comes later.
fn pair(rows: &mut [Vec<f64>], one: usize, other: usize) -> [&mut [f64]; 2] {
    let (before, after) = rows.split_at_mut(other);
    [&mut before[one], &mut after[0]]
}

/// Gives rows the length 1, and tells which they had. Rows of nothing become any that are orthogonal to all others.
fn normalised(rows: &mut [f32], long: usize) -> Vec<f32> {
    let count = rows.len() / long;
    let mut dice = MersenneTwister::new(1);
    let mut lengths = Vec::with_capacity(count);
    for index in 0..count {
        let (before, row) = rows.split_at_mut(index * long);
        let row = &mut row[..long];
        let length = dot(row, row).sqrt();
        let least = 1e-7 * lengths.first().copied().map_or(0.0, f64::from);
        lengths.push(length as f32);
        if length > least.max(f64::from(f32::MIN_POSITIVE)) {
            for x in row.iter_mut() {
                *x = (f64::from(*x) / length) as f32;
            }
            continue;
        }
        row.fill_with(|| dice.uniform() - 0.5);
        for _ in 0..2 {
            for other in before.chunks(long) {
                let share = dot(row, other) as f32;
                row.iter_mut().zip(other).for_each(|(x, y)| *x -= share * y);
            }
            let length = dot(row, row).sqrt() as f32;
            for x in row.iter_mut() {
                *x /= length;
            }
        }
    }
    lengths
}

fn wide_dot(a: &[f64], b: &[f64]) -> f64 {
    let mut partial = [0.0; 8];
    let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((partial, a), b) in partial.iter_mut().zip(a).zip(b) {
            *partial += a * b;
        }
    }
    partial.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut partial = [0.0f64; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((partial, a), b) in partial.iter_mut().zip(a).zip(b) {
            *partial += f64::from(*a) * f64::from(*b);
        }
    }
    partial.iter().sum()
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|index| values[index % rows * columns + index / rows]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u32, count: usize) -> Vec<f32> {
        let mut dice = MersenneTwister::new(seed);
        (0..count).map(|_| dice.uniform() - 0.5).collect()
    }

    /// A matrix with singular values 1, 1/2, 1/3, ... along random directions that are nearly orthogonal.
    fn falling(rows: usize, columns: usize) -> Vec<f32> {
        let directions = |seed, side: usize| {
            let mut vectors = drawn(seed, side.min(40) * side);
            normalised(&mut vectors, side);
            vectors
        };
        let (left, right) = (directions(1, rows), directions(2, columns));
        let count = (left.len() / rows).min(right.len() / columns);
        let mut sum = vec![0.0; rows * columns];
        for number in 0..count {
            let value = 1.0 / (number + 1) as f32;
            for row in 0..rows {
                for column in 0..columns {
                    sum[row * columns + column] +=
                        value * left[number * rows + row] * right[number * columns + column];
                }
            }
        }
        sum
    }

    fn distance(values: &[f32], factors: &Factors, [rows, columns]: [usize; 2]) -> f64 {
        let made = matmul((&factors.up, [rows, factors.rank]), (&factors.down, [factors.rank, columns]));
        let off: Vec<f32> = made.iter().zip(values).map(|(a, b)| a - b).collect();
        dot(&off, &off).sqrt()
    }

    fn decomposed(values: &[f32], size: [usize; 2], rank: usize) -> Factors {
        truncated_svd(values, size, rank, &Stop::new()).unwrap().unwrap()
    }

    #[test]
    fn all_of_a_small_matrix_comes_back_and_vectors_are_orthonormal() {
        for size in [[7, 12], [12, 7], [9, 9], [1, 5], [5, 1]] {
            let values = drawn(3, size[0] * size[1]);
            let factors = decomposed(&values, size, 99);
            assert_eq!(factors.rank, size[0].min(size[1]));
            assert!(distance(&values, &factors, size) < 1e-5, "{size:?}");
            for (a, one) in factors.down.chunks(size[1]).enumerate() {
                for (b, other) in factors.down.chunks(size[1]).enumerate() {
                    assert!((dot(one, other) - f64::from(u8::from(a == b))).abs() < 1e-5, "{size:?}");
                }
            }
        }
    }

    #[test]
    fn no_other_matrix_of_the_rank_is_nearer() {
        // Large enough for the Krylov space, against the whole decomposition, whose rest is what is left out.
        for size in [[160, 300], [300, 160]] {
            let values = falling(size[0], size[1]);
            let whole = decomposed(&values, size, size[0].min(size[1]));
            let rest: f64 = (4..whole.rank)
                .map(|number| {
                    let column: Vec<f32> =
                        whole.up.iter().skip(number).step_by(whole.rank).copied().collect();
                    dot(&column, &column)
                })
                .sum();
            let found = distance(&values, &decomposed(&values, size, 4), size);
            assert!((found / rest.sqrt() - 1.0).abs() < 1e-4, "{found} and {}", rest.sqrt());
        }
    }

    #[test]
    fn what_has_a_lower_rank_than_asked_for_is_exact() {
        let (up, down) = (drawn(4, 200 * 3), drawn(5, 3 * 220));
        let values = matmul((&up, [200, 3]), (&down, [3, 220]));
        let factors = decomposed(&values, [200, 220], 8);
        assert!(distance(&values, &factors, [200, 220]) < 1e-4);
        let nothing = decomposed(&vec![0.0; 200 * 220], [200, 220], 8);
        assert!(nothing.up.iter().all(|x| x.abs() <= 0.0));
        assert!(nothing.down.chunks(220).all(|row| (dot(row, row) - 1.0).abs() < 1e-5));
    }

    #[test]
    fn what_is_no_number_is_not_decomposed_and_work_stops() {
        let stop = Stop::new();
        assert!(truncated_svd(&[1.0, f32::NAN], [1, 2], 1, &stop).unwrap().is_none());
        stop.request();
        assert!(truncated_svd(&[1.0, 2.0], [1, 2], 1, &stop).is_err());
    }
}
