//! What the kinds of adapters add to a matrix, each computed from the few tensors that a LoRA file holds of it.
//!
//! LoRA: Hu et al. (2021). LoHa and LoKr: Yeh et al., "Navigating text-to-image customization" (2023). GLoRA:
//! Chavan et al., "One-for-all" (2023). OFT: Qiu et al. (2023). BOFT: Liu et al. (2023).

use crate::device::ops::{Matrix, MatrixMut, Threads, gemm, matmul};
use crate::weights::Stored;

/// A matrix to add, in the form a file has it.
pub(super) enum Delta {
    /// LoRA: up @ down.
    LowRank([Stored; 2]),
    /// LoHa: two products, multiplied element by element.
    Hadamard([[Stored; 2]; 2]),
    /// LoKr: the Kronecker product of two matrices.
    Kronecker([Factor; 2]),
    /// GLoRA: W @ first @ second, plus a product of two.
    Generalised { beside: [Stored; 2], added: [Stored; 2] },
    /// OFT: blocks of rows are rotated. (blocks, side, side)
    Rotation(Turns),
    /// BOFT: all rows are rotated, in stages of blocks. (stages, blocks, side, side)
    Butterfly { turns: Turns, rescale: Option<Stored> },
}

/// A matrix, whole or as the product of two.
pub(super) enum Factor {
    Whole(Stored),
    Product([Stored; 2]),
}

/// Square blocks, of which each becomes a rotation.
pub(super) struct Turns {
    pub blocks: Stored,
    /// How far all of them may be from standing still; no limit where it is 0.
    pub limit: f32,
}

impl Delta {
    /// Whether it can be added to a matrix of this size.
    pub fn fits(&self, size: [usize; 2]) -> bool {
        match self {
            Self::LowRank(factors) => product_size(factors) == Some(size),
            Self::Hadamard([one, two]) => product_size(one) == Some(size) && product_size(two) == Some(size),
            Self::Kronecker([left, right]) => match (left.size(), right.size()) {
                (Some(left), Some(right)) => [left[0] * right[0], left[1] * right[1]] == size,
                _ => false,
            },
            Self::Generalised { beside, added } => {
                product_size(beside) == Some([size[1]; 2]) && product_size(added) == Some(size)
            }
            Self::Rotation(turns) => turns.rows() == size[0] && turns.square(),
            Self::Butterfly { turns, rescale } => {
                let stages = turns.blocks.shape()[0] as u32;
                let widest = turns.side().checked_shl(stages.saturating_sub(1)).unwrap_or(0);
                turns.rows() == size[0]
                    && turns.square()
                    && turns.side().is_multiple_of(2)
                    && widest > 0
                    && size[0].is_multiple_of(widest)
                    && rescale.as_ref().is_none_or(|scale| [1, size[0]].contains(&scale.elements()))
            }
        }
    }

    /// Whether it turns rows.
    pub fn turns(&self) -> bool {
        matches!(self, Self::Rotation(_) | Self::Butterfly { .. })
    }

    /// The matrix to add to one of this size that holds `values`. What turns rows turns less for less `strength`.
    pub fn for_matrix(&self, values: &[f32], size: [usize; 2], strength: f32) -> Vec<f32> {
        match self {
            Self::LowRank(factors) => product(factors),
            Self::Hadamard([one, two]) => {
                let mut delta = product(one);
                delta.iter_mut().zip(product(two)).for_each(|(value, factor)| *value *= factor);
                delta
            }
            Self::Kronecker([left, right]) => kronecker(left, right),
            Self::Generalised { beside: [first, second], added } => {
                let mut delta = product(added);
                let low = matmul((values, size), (&first.to_vec(), first.matrix()));
                let low_size = [size[0], first.matrix()[1]];
                let beside = matmul((&low, low_size), (&second.to_vec(), second.matrix()));
                delta.iter_mut().zip(beside).for_each(|(value, beside)| *value += beside);
                delta
            }
            Self::Rotation(turns) => turns.rotate_blocks(values, size, strength),
            Self::Butterfly { turns, rescale } => {
                let mut rows = turns.rotate_in_stages(values, size, strength);
                let rescale = rescale.as_ref().map_or_else(|| vec![1.0], Stored::to_vec);
                for (index, (row, before)) in rows.chunks_mut(size[1]).zip(values.chunks(size[1])).enumerate()
                {
                    let scale = rescale[index % rescale.len()];
                    row.iter_mut().zip(before).for_each(|(value, before)| *value = *value * scale - before);
                }
                rows
            }
        }
    }
}

impl Factor {
    fn size(&self) -> Option<[usize; 2]> {
        match self {
            Self::Whole(matrix) => Some(matrix.matrix()),
            Self::Product(factors) => product_size(factors),
        }
    }

    /// The rank of the product.
    pub fn rank(&self) -> Option<usize> {
        match self {
            Self::Whole(_) => None,
            Self::Product([_, down]) => Some(down.matrix()[0]),
        }
    }

    fn values(&self) -> Vec<f32> {
        match self {
            Self::Whole(matrix) => matrix.to_vec(),
            Self::Product(factors) => product(factors),
        }
    }
}

impl Turns {
    fn side(&self) -> usize {
        self.blocks.shape().last().copied().unwrap_or(0)
    }

    fn square(&self) -> bool {
        let shape = self.blocks.shape();
        shape.len() >= 2 && shape[shape.len() - 2] == self.side()
    }

    /// Rows of the matrix that the blocks (of one stage) are for.
    fn rows(&self) -> usize {
        let shape = self.blocks.shape();
        shape.iter().nth_back(2).map_or(0, |blocks| blocks * self.side())
    }

    /// Each block as a rotation: (1 + q) (1 - q)⁻¹ with the antisymmetric part q of the block (Cayley).
    fn rotations(&self) -> Vec<f32> {
        let side = self.side();
        let blocks = self.blocks.to_vec();
        let mut skew = vec![0.0; blocks.len()];
        for (skew, block) in skew.chunks_mut(side * side).zip(blocks.chunks(side * side)) {
            for row in 0..side {
                for column in 0..side {
                    skew[row * side + column] = block[row * side + column] - block[column * side + row];
                }
            }
        }
        let norm = skew.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt() as f32 + 1e-8;
        if self.limit > 0.0 && norm > self.limit {
            for value in &mut skew {
                *value = *value * self.limit / norm;
            }
        }
        skew.chunks(side * side).flat_map(|skew| cayley(skew, side)).collect()
    }

    fn rotate_blocks(&self, values: &[f32], [_, columns]: [usize; 2], strength: f32) -> Vec<f32> {
        let side = self.side();
        let mut delta = vec![0.0; values.len()];
        let rotations = self.rotations();
        let strips = values.chunks(side * columns).zip(delta.chunks_mut(side * columns));
        for ((strip, delta), rotation) in strips.zip(rotations.chunks(side * side)) {
            let mut change: Vec<f32> = rotation.iter().map(|value| value * strength).collect();
            (0..side).for_each(|index| change[index * side + index] -= strength);
            gemm(
                Matrix::by_rows(&change, side, side, side).transposed(),
                Matrix::by_rows(strip, side, columns, columns),
                MatrixMut::by_rows(delta, side, columns, columns),
                false,
                Threads::All,
            );
        }
        delta
    }

    /// In stage i, rows that lie 2ⁱ * side / 2 apart are neighbours.
    fn rotate_in_stages(&self, values: &[f32], size: [usize; 2], strength: f32) -> Vec<f32> {
        let ([rows, columns], side) = (size, self.side());
        let mut now = values.to_vec();
        for (stage, mut rotations) in self.rotations().chunks(rows * side).map(<[f32]>::to_vec).enumerate() {
            for (index, value) in rotations.iter_mut().enumerate() {
                let diagonal = index / side % side == index % side;
                *value = *value * strength + if diagonal { 1.0 - strength } else { 0.0 };
            }
            let apart = (side / 2) << stage;
            // Where the row comes from that is number `row` in this stage's order.
            let source = |row: usize| {
                let (group, within) = (row / (2 * apart), row % (2 * apart));
                group * 2 * apart + within % 2 * apart + within / 2
            };
            let mut strip = vec![0.0; side * columns];
            let mut turned = strip.clone();
            for (block, rotation) in rotations.chunks(side * side).enumerate() {
                for (index, row) in strip.chunks_mut(columns).enumerate() {
                    row.copy_from_slice(&now[source(block * side + index) * columns..][..columns]);
                }
                gemm(
                    Matrix::by_rows(rotation, side, side, side),
                    Matrix::by_rows(&strip, side, columns, columns),
                    MatrixMut::by_rows(&mut turned, side, columns, columns),
                    false,
                    Threads::All,
                );
                for (index, row) in turned.chunks(columns).enumerate() {
                    now[source(block * side + index) * columns..][..columns].copy_from_slice(row);
                }
            }
        }
        now
    }
}

fn product_size([up, down]: &[Stored; 2]) -> Option<[usize; 2]> {
    let ([rows, rank], [also_rank, columns]) = (up.matrix(), down.matrix());
    (rank == also_rank).then_some([rows, columns])
}

fn product([up, down]: &[Stored; 2]) -> Vec<f32> {
    matmul((&up.to_vec(), up.matrix()), (&down.to_vec(), down.matrix()))
}

fn kronecker(left: &Factor, right: &Factor) -> Vec<f32> {
    let (Some([_, left_columns]), Some([right_rows, right_columns])) = (left.size(), right.size()) else {
        return Vec::new();
    };
    let (left, right) = (left.values(), right.values());
    let mut out = Vec::with_capacity(left.len() * right.len());
    for left_row in left.chunks(left_columns) {
        for right_row in right.chunks(right_columns).take(right_rows) {
            for factor in left_row {
                out.extend(right_row.iter().map(|value| factor * value));
            }
        }
    }
    out
}

/// (1 + q) (1 - q)⁻¹ of an antisymmetric q, which always exists: by elimination, with the largest pivots.
fn cayley(skew: &[f32], side: usize) -> Vec<f32> {
    let at = |row: usize, column: usize| row * side + column;
    let unit = |row: usize, column: usize| f64::from(u8::from(row == column));
    // (1 + q) (1 - q)⁻¹ = (1 - q)⁻¹ (1 + q), so solve (1 - q) r = 1 + q.
    let mut left: Vec<f64> =
        (0..side * side).map(|i| unit(i / side, i % side) - f64::from(skew[i])).collect();
    let mut right: Vec<f64> =
        (0..side * side).map(|i| unit(i / side, i % side) + f64::from(skew[i])).collect();
    for pivot in 0..side {
        let largest = (pivot..side)
            .max_by(|a, b| left[at(*a, pivot)].abs().total_cmp(&left[at(*b, pivot)].abs()))
            .unwrap_or(pivot);
        for column in 0..side {
            left.swap(at(pivot, column), at(largest, column));
            right.swap(at(pivot, column), at(largest, column));
        }
        let divisor = left[at(pivot, pivot)];
        for column in 0..side {
            left[at(pivot, column)] /= divisor;
            right[at(pivot, column)] /= divisor;
        }
        for row in (0..side).filter(|row| *row != pivot) {
            let factor = left[at(row, pivot)];
            for column in 0..side {
                left[at(row, column)] -= factor * left[at(pivot, column)];
                right[at(row, column)] -= factor * right[at(pivot, column)];
            }
        }
    }
    right.into_iter().map(|value| value as f32).collect()
}
