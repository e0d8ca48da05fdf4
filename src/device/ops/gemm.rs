//! Matrix products of `f32`, by the `gemm` crate.

/// A matrix in a slice: element (i, j) lies at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after the other, `stride` elements apart.
    pub fn by_rows(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self::strided(data, (rows, stride), (columns, 1))
    }

    /// `(rows, row_stride)` and `(columns, column_stride)`.
    pub fn strided(
        data: &'a [f32],
        (rows, row_stride): (usize, usize),
        (columns, column_stride): (usize, usize),
    ) -> Self {
        let matrix = Self { data, rows, columns, row_stride, column_stride };
        assert!(matrix.end() <= data.len(), "{rows}x{columns} matrix in {} elements", data.len());
        matrix
    }

    /// The same elements with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn end(&self) -> usize {
        if self.rows == 0 || self.columns == 0 {
            return 0;
        }
        (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride + 1
    }
}

/// A matrix to write to, row by row.
pub struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// Rows one after the other, `stride` elements apart.
    pub fn by_rows(data: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(stride >= columns || rows <= 1, "rows of a matrix overlap");
        let end = if rows == 0 { 0 } else { (rows - 1) * stride + columns };
        assert!(end <= data.len(), "{rows}x{columns} matrix in {} elements", data.len());
        Self { data, rows, columns, stride }
    }
}

/// Who does the work: the calling thread, which is right inside a parallel loop, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    One,
    All,
}

/// `out = a b`, or `out += a b` when `add` is set.
#[expect(unsafe_code, reason = "the gemm crate takes pointers")]
pub fn gemm(a: Matrix<'_>, b: Matrix<'_>, out: MatrixMut<'_>, add: bool, threads: Threads) {
    assert_eq!((a.columns, a.rows, b.columns), (b.rows, out.rows, out.columns), "shapes of a matrix product");
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: all elements of the three matrices lie inside their slices, as their constructors checked; the
    // output is borrowed mutably, so it overlaps neither input, and its rows do not overlap each other.
    unsafe {
        gemm::gemm(
            out.rows,
            out.columns,
            a.columns,
            out.data.as_mut_ptr(),
            1,
            out.stride as isize,
            add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `a b` of matrices whose rows follow each other, told with rows and columns; on all threads.
pub fn matmul(
    (a, [rows, middle]): (&[f32], [usize; 2]),
    (b, [_, columns]): (&[f32], [usize; 2]),
) -> Vec<f32> {
    let mut out = vec![0.0; rows * columns];
    let [a, b] = [Matrix::by_rows(a, rows, middle, middle), Matrix::by_rows(b, middle, columns, columns)];
    gemm(a, b, MatrixMut::by_rows(&mut out, rows, columns, columns), false, Threads::All);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_strided_and_transposed_matrices() {
        let a = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0];
        let b = [5.0, 7.0, 6.0, 8.0];
        let mut out = [100.0; 5];
        let product = |out: &mut [f32], add| {
            let a = Matrix::by_rows(&a, 2, 2, 3);
            let b = Matrix::by_rows(&b, 2, 2, 2).transposed();
            gemm(a, b, MatrixMut::by_rows(out, 2, 2, 3), add, Threads::One);
        };
        product(&mut out, false);
        assert_eq!(out.to_vec(), [19.0, 22.0, 100.0, 43.0, 50.0]);
        product(&mut out, true);
        assert_eq!(out.to_vec(), [38.0, 44.0, 100.0, 86.0, 100.0]);
    }
}
