//! Convolutions of planes with square kernels, in bands that stay in a processor's cache.
//!
//! A band of the input is copied with its border of zeros; then each cell of the kernel is one matrix
//! product of that copy, shifted, and all of them add up. Nothing is unfolded, and memory stays small.

use rayon::prelude::*;

use super::bf16::{Convolution, Numbers, Unit};
use super::{Matrix, MatrixMut, Threads, gemm, zeros};

/// Input elements of one band.
const BAND: usize = 1 << 18;

/// What happens to a plane on its way through a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// The kernel's border is zeros, so that the size stays.
    No,
    /// Every second row and column; a row and a column of zeros follow the plane.
    Half,
    /// Each cell becomes two by two cells first.
    Double,
}

impl Resize {
    /// Rows and columns that come out.
    pub fn applied(self, (h, w): (usize, usize)) -> (usize, usize) {
        match self {
            Self::No => (h, w),
            Self::Half => (h / 2, w / 2),
            Self::Double => (2 * h, 2 * w),
        }
    }
}

/// The sizes of a convolution, and how it is computed.
#[derive(Clone, Copy, Debug)]
pub struct PlaneConv {
    pub inputs: usize,
    pub outputs: usize,
    /// Of the kernel: 1 or 3.
    pub side: usize,
    /// Rows and columns of the input.
    pub size: (usize, usize),
    pub resize: Resize,
    pub numbers: Numbers,
    /// Whether all numbers of the kernels are BF16 numbers.
    pub narrow_kernels: bool,
}

/// A plane and the kernel it meets. Several of them add up.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    /// (inputs, rows, columns)
    pub plane: &'a [f32],
    /// Writes the kernel of an output: (side * side, inputs).
    pub kernel: &'a (dyn Fn(usize, &mut [f32]) + Sync),
}

/// Where rows of a result go.
type Rows<'a> = Vec<&'a mut [f32]>;

impl PlaneConv {
    /// Rows and columns of the output.
    pub fn out_size(&self) -> (usize, usize) {
        self.resize.applied(self.size)
    }

    /// (outputs, rows, columns): the bias, all terms, and where there is something to add, that.
    pub fn run(&self, terms: &[Term<'_>], bias: &[f32], added: Option<&[f32]>) -> Vec<f32> {
        let (h, w) = self.out_size();
        let mut out = zeros(self.outputs * h * w);
        if out.is_empty() {
            return out;
        }
        let finish = |output: usize, row: usize, sums: &[f32], out: &mut [f32]| {
            let bias = bias[output];
            match added {
                Some(added) => {
                    let added = &added[(output * h + row) * w..][..w];
                    for ((out, sum), added) in out.iter_mut().zip(sums).zip(added) {
                        *out = sum + bias + added;
                    }
                }
                None => out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum + bias),
            }
        };
        match Unit::fastest(self.numbers) {
            Some(unit) => self.run_by_unit(unit, terms, &mut out, &finish),
            None => self.run_plainly(terms, &mut out, &finish),
        }
        out
    }

    fn run_by_unit(
        &self,
        unit: Unit,
        terms: &[Term<'_>],
        out: &mut [f32],
        finish: &(impl Fn(usize, usize, &[f32], &mut [f32]) + Sync),
    ) {
        let w = self.out_size().1;
        let convolution = Convolution::new(unit, self, terms);
        let band_rows = convolution.band_rows();
        self.bands(out, band_rows).into_par_iter().enumerate().for_each_init(
            Default::default,
            |room, (index, mut band)| {
                let first = index * band_rows;
                convolution.run(first..first + band[0].len() / w, room, |output, row, sums| {
                    finish(output, row, sums, &mut band[output][(row - first) * w..][..w]);
                });
            },
        );
    }

    /// By products of `f32` matrices.
    fn run_plainly(
        &self,
        terms: &[Term<'_>],
        out: &mut [f32],
        finish: &(impl Fn(usize, usize, &[f32], &mut [f32]) + Sync),
    ) {
        let (h, w) = self.out_size();
        let row = self.side * self.side * self.inputs;
        let kernels: Vec<Vec<f32>> = terms
            .iter()
            .map(|term| {
                let mut kernel = vec![0.0; self.outputs * row];
                kernel.par_chunks_mut(row).enumerate().for_each(|(output, row)| (term.kernel)(output, row));
                kernel
            })
            .collect();
        let band_rows =
            (BAND / (self.inputs * (w + self.side - 1))).saturating_sub(self.side - 1).clamp(1, h);
        self.bands(out, band_rows).into_par_iter().enumerate().for_each(|(index, mut band)| {
            let rows = band[0].len() / w;
            let sum = self.band(terms, &kernels, index * band_rows, rows);
            let stride = sum.len() / self.outputs / rows;
            for (output, (out, sum)) in band.iter_mut().zip(sum.chunks(rows * stride)).enumerate() {
                for (row, (out, sum)) in out.chunks_mut(w).zip(sum.chunks(stride)).enumerate() {
                    finish(output, index * band_rows + row, &sum[..w], out);
                }
            }
        });
    }

    /// The output in bands of so many rows, each with its part of every plane.
    fn bands<'a>(&self, out: &'a mut [f32], band_rows: usize) -> Vec<Rows<'a>> {
        let (h, w) = self.out_size();
        let mut bands: Vec<Rows<'a>> = (0..h.div_ceil(band_rows)).map(|_| Vec::new()).collect();
        for plane in out.chunks_mut(h * w) {
            for (band, rows) in bands.iter_mut().zip(plane.chunks_mut(band_rows * w)) {
                band.push(rows);
            }
        }
        bands
    }

    /// The sum of all terms over `rows` rows of output from `first` on: (outputs, rows, stride), where the
    /// stride may be a little more than the width.
    fn band(&self, terms: &[Term<'_>], kernels: &[Vec<f32>], first: usize, rows: usize) -> Vec<f32> {
        let (_, w) = self.out_size();
        let cells = self.side * self.side;
        let step = if self.resize == Resize::Half { 2 } else { 1 };
        let (in_rows, in_width) = ((rows - 1) * step + self.side, (w - 1) * step + self.side);
        // With a step of one, all rows are one long product; the cells between rows are computed and dropped.
        let (runs, run, stride) =
            if step == 1 { (1, (rows - 1) * in_width + w, in_width) } else { (rows, w, w) };
        let mut copy = vec![0.0; self.inputs * in_rows * in_width];
        let mut sum = vec![0.0; self.outputs * rows * stride];
        for (index, (term, kernel)) in terms.iter().zip(kernels).enumerate() {
            for (channel, copy) in copy.chunks_mut(in_rows * in_width).enumerate() {
                for (row, copy) in copy.chunks_mut(in_width).enumerate() {
                    self.copy_row(term.plane, channel, first * step + row, copy);
                }
            }
            for cell in 0..cells {
                for line in 0..runs {
                    let from = (line * step + cell / self.side) * in_width + cell % self.side;
                    let kernel = &kernel[cell * self.inputs..];
                    gemm(
                        Matrix::by_rows(kernel, self.outputs, self.inputs, cells * self.inputs),
                        Matrix::strided(&copy[from..], (self.inputs, in_rows * in_width), (run, step)),
                        MatrixMut::by_rows(&mut sum[line * stride..], self.outputs, run, rows * stride),
                        index + cell > 0,
                        Threads::One,
                    );
                }
            }
        }
        sum
    }

    /// Copies a row of one channel, counted with the border above, with zeros wherever the plane ends.
    pub(super) fn copy_row(&self, plane: &[f32], channel: usize, row: usize, copy: &mut [f32]) {
        let (h, w) = self.size;
        let border = if self.resize == Resize::Half { 0 } else { self.side / 2 };
        let zoom = if self.resize == Resize::Double { 2 } else { 1 };
        let Some(y) = row.checked_sub(border).map(|y| y / zoom).filter(|y| *y < h) else {
            copy.fill(0.0);
            return;
        };
        let row = &plane[(channel * h + y) * w..][..w];
        let inside = border..(border + w * zoom).min(copy.len());
        copy[..inside.start].fill(0.0);
        copy[inside.end..].fill(0.0);
        if zoom == 1 {
            copy[inside.clone()].copy_from_slice(&row[..inside.len()]);
        } else {
            for (pair, value) in copy[inside].chunks_mut(2).zip(row) {
                pair.fill(*value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Kernel = [f32];

    /// The definition, cell by cell, in double precision.
    fn reference(conv: &PlaneConv, planes: &[Vec<f32>], kernel: &Kernel, bias: &[f32]) -> Vec<f64> {
        let ((h, w), (out_h, out_w)) = (conv.size, conv.out_size());
        let (step, border, zoom) = match conv.resize {
            Resize::No => (1, conv.side / 2, 1),
            Resize::Half => (2, 0, 1),
            Resize::Double => (1, conv.side / 2, 2),
        };
        let value = |plane: &[f32], channel: usize, y: usize, x: usize| {
            let (y, x) = (y.checked_sub(border)? / zoom, x.checked_sub(border)? / zoom);
            (y < h && x < w).then(|| f64::from(plane[(channel * h + y) * w + x]))
        };
        let mut out = Vec::new();
        for (output, y, x) in
            (0..conv.outputs).flat_map(|o| (0..out_h).flat_map(move |y| (0..out_w).map(move |x| (o, y, x))))
        {
            let mut sum = f64::from(bias[output]);
            for (plane, cell, channel) in planes.iter().flat_map(|plane| {
                (0..conv.side * conv.side)
                    .flat_map(move |cell| (0..conv.inputs).map(move |c| (plane, cell, c)))
            }) {
                let weight = kernel[(output * conv.side * conv.side + cell) * conv.inputs + channel];
                let at = (y * step + cell / conv.side, x * step + cell % conv.side);
                sum += f64::from(weight) * value(plane, channel, at.0, at.1).unwrap_or(0.0);
            }
            out.push(sum);
        }
        out
    }

    /// By each unit with all numbers, and without units.
    fn every_way(conv: &PlaneConv, planes: &[Vec<f32>], kernel: &Kernel, bias: &[f32]) -> Vec<Vec<f32>> {
        let row = conv.side * conv.side * conv.inputs;
        let write = |output: usize, to: &mut [f32]| to.copy_from_slice(&kernel[output * row..][..row]);
        let terms: Vec<_> = planes.iter().map(|plane| Term { plane, kernel: &write }).collect();
        let finish = |output: usize, _: usize, sums: &[f32], out: &mut [f32]| {
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum + bias[output]);
        };
        let (h, w) = conv.out_size();
        let empty = vec![f32::NAN; conv.outputs * h * w];
        let mut found: Vec<Vec<f32>> = Unit::all()
            .iter()
            .map(|unit| {
                let mut out = empty.clone();
                conv.run_by_unit(*unit, &terms, &mut out, &finish);
                out
            })
            .collect();
        let mut out = empty.clone();
        conv.run_plainly(&terms, &mut out, &finish);
        found.push(out);
        found.push(conv.run(&terms, bias, None));
        found
    }

    #[test]
    fn every_kind_follows_the_definition() {
        let numbers =
            |count: usize| (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect::<Vec<_>>();
        for (resize, side) in [(Resize::No, 1), (Resize::No, 3), (Resize::Half, 3), (Resize::Double, 3)] {
            for size in [(4, 6), (6, 4), (90, 60), (5, 7)] {
                let conv = PlaneConv {
                    inputs: 40,
                    outputs: 35,
                    side,
                    size,
                    resize,
                    numbers: Numbers::Exact,
                    narrow_kernels: size.0 == 6,
                };
                let planes = [numbers(40 * size.0 * size.1), numbers(40 * size.0 * size.1 + 7).split_off(7)];
                let mut kernel = numbers(35 * side * side * 40);
                if conv.narrow_kernels {
                    for value in &mut kernel {
                        *value = half::bf16::from_f32(*value).to_f32();
                    }
                }
                let bias: Vec<f32> = (0..35).map(|output| output as f32 - 10.0).collect();
                let expected = reference(&conv, &planes, &kernel, &bias);
                for found in every_way(&conv, &planes, &kernel, &bias) {
                    assert_eq!(found.len(), expected.len());
                    let errors = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs());
                    let worst = errors.fold(0.0, |a: f64, b| if b > a || b.is_nan() { b } else { a });
                    assert!(worst < 1e-4, "{conv:?} is off by {worst:e}");
                }
            }
        }
    }

    #[test]
    fn what_is_added_is_added() {
        let conv = PlaneConv {
            inputs: 1,
            outputs: 1,
            side: 1,
            size: (1, 2),
            resize: Resize::No,
            numbers: Numbers::Exact,
            narrow_kernels: true,
        };
        let twice = |_: usize, to: &mut [f32]| to.fill(2.0);
        let out = conv.run(&[Term { plane: &[3.0, 4.0], kernel: &twice }], &[1.0], Some(&[100.0, 200.0]));
        assert_eq!(out, [107.0, 209.0]);
    }
}
