//! Convolutions of planes with square kernels, in bands that stay in a processor's cache.
//!
//! A band of the input is copied with its border of zeros; then each cell of the kernel is one matrix
//! product of that copy, shifted, and all of them add up. Nothing is unfolded, and memory stays small.

use rayon::prelude::*;

use super::{Matrix, MatrixMut, Threads, gemm};

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

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct PlaneConv {
    pub inputs: usize,
    pub outputs: usize,
    /// Of the kernel: 1 or 3.
    pub side: usize,
    /// Rows and columns of the input.
    pub size: (usize, usize),
    pub resize: Resize,
}

/// A plane and the kernel it meets. Several of them add up.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    /// (inputs, rows, columns)
    pub plane: &'a [f32],
    /// (outputs, side * side, inputs)
    pub kernel: &'a [f32],
}

impl PlaneConv {
    /// Rows and columns of the output.
    pub fn out_size(&self) -> (usize, usize) {
        let (h, w) = self.size;
        match self.resize {
            Resize::No => (h, w),
            Resize::Half => (h / 2, w / 2),
            Resize::Double => (2 * h, 2 * w),
        }
    }

    /// (outputs, rows, columns): the bias and all terms.
    pub fn run(&self, terms: &[Term<'_>], bias: &[f32]) -> Vec<f32> {
        let (h, w) = self.out_size();
        let mut out = vec![0.0; self.outputs * h * w];
        let band_rows =
            (BAND / (self.inputs * (w + self.side - 1))).saturating_sub(self.side - 1).clamp(1, h);
        let mut bands: Vec<Vec<&mut [f32]>> = (0..h.div_ceil(band_rows)).map(|_| Vec::new()).collect();
        for plane in out.chunks_mut(h * w) {
            for (band, rows) in bands.iter_mut().zip(plane.chunks_mut(band_rows * w)) {
                band.push(rows);
            }
        }
        bands.into_par_iter().enumerate().for_each(|(index, mut band)| {
            let rows = band[0].len() / w;
            let sum = self.band(terms, index * band_rows, rows);
            let stride = sum.len() / self.outputs / rows;
            for ((out, sum), bias) in band.iter_mut().zip(sum.chunks(rows * stride)).zip(bias) {
                for (out, sum) in out.chunks_mut(w).zip(sum.chunks(stride)) {
                    for (out, sum) in out.iter_mut().zip(sum) {
                        *out = sum + bias;
                    }
                }
            }
        });
        out
    }

    /// The sum of all terms over `rows` rows of output from `first` on: (outputs, rows, stride), where the
    /// stride may be a little more than the width.
    fn band(&self, terms: &[Term<'_>], first: usize, rows: usize) -> Vec<f32> {
        let (_, w) = self.out_size();
        let cells = self.side * self.side;
        let (step, border) = if self.resize == Resize::Half { (2, 0) } else { (1, self.side / 2) };
        let (in_rows, in_width) = ((rows - 1) * step + self.side, (w - 1) * step + self.side);
        // With a step of one, all rows are one long product; the cells between rows are computed and dropped.
        let (runs, run, stride) =
            if step == 1 { (1, (rows - 1) * in_width + w, in_width) } else { (rows, w, w) };
        let mut copy = vec![0.0; self.inputs * in_rows * in_width];
        let mut sum = vec![0.0; self.outputs * rows * stride];
        for (index, term) in terms.iter().enumerate() {
            for (channel, copy) in copy.chunks_mut(in_rows * in_width).enumerate() {
                self.copy_rows(term.plane, channel, (first * step, border), copy, in_width);
            }
            for cell in 0..cells {
                for line in 0..runs {
                    let from = (line * step + cell / self.side) * in_width + cell % self.side;
                    let kernel = &term.kernel[cell * self.inputs..];
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

    /// Copies rows of one channel, from `first - border` on, with zeros wherever the plane ends.
    fn copy_rows(
        &self,
        plane: &[f32],
        channel: usize,
        (first, border): (usize, usize),
        copy: &mut [f32],
        width: usize,
    ) {
        let (h, w) = self.size;
        let plane = &plane[channel * h * w..][..h * w];
        let zoom = if self.resize == Resize::Double { 2 } else { 1 };
        for (index, copy) in copy.chunks_mut(width).enumerate() {
            let Some(y) = (first + index).checked_sub(border).map(|y| y / zoom).filter(|y| *y < h) else {
                copy.fill(0.0);
                continue;
            };
            let row = &plane[y * w..][..w];
            let inside = border..(border + w * zoom).min(width);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, cell by cell, in double precision.
    fn reference(conv: &PlaneConv, terms: &[Term<'_>], bias: &[f32]) -> Vec<f64> {
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
            for (term, cell, channel) in terms.iter().flat_map(|term| {
                (0..conv.side * conv.side)
                    .flat_map(move |cell| (0..conv.inputs).map(move |c| (term, cell, c)))
            }) {
                let weight = term.kernel[(output * conv.side * conv.side + cell) * conv.inputs + channel];
                let at = (y * step + cell / conv.side, x * step + cell % conv.side);
                sum += f64::from(weight) * value(term.plane, channel, at.0, at.1).unwrap_or(0.0);
            }
            out.push(sum);
        }
        out
    }

    #[test]
    fn every_kind_follows_the_definition() {
        let numbers =
            |count: usize| (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect::<Vec<_>>();
        for (resize, side) in [(Resize::No, 1), (Resize::No, 3), (Resize::Half, 3), (Resize::Double, 3)] {
            for size in [(4, 6), (6, 4), (90, 60)] {
                let conv = PlaneConv { inputs: 40, outputs: 3, side, size, resize };
                let planes = [numbers(40 * size.0 * size.1), numbers(40 * size.0 * size.1 + 7).split_off(7)];
                let kernel = numbers(3 * side * side * 40);
                let terms = planes.each_ref().map(|plane| Term { plane, kernel: &kernel });
                let bias = [0.5, -1.0, 2.0];
                let expected = reference(&conv, &terms, &bias);
                let found = conv.run(&terms, &bias);
                assert_eq!(found.len(), expected.len());
                let worst =
                    found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-4, "{conv:?} is off by {worst:e}");
            }
        }
    }
}
