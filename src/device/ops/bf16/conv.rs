//! Convolutions of planes: one product over all cells of the kernel and all channels, without unfolding anything.
//!
//! A band of the input is laid out as a right side whose columns are the places of its rows, one after the other with
//! the border between them. A cell of the kernel sees the same numbers some columns further, so each step of the
//! product is told where it begins. Sums for the border are computed and dropped.

use std::ops::Range;

use rayon::prelude::*;

use super::layout::{Aligned, MOST_TERMS, Order, Packed, interleave};
use super::{DEPTH, Engine, Numbers, SIDE, Side, Step, Sums, Unit, pairs};
use crate::device::ops::conv::{PlaneConv, Resize, Term};

/// The most bytes of a band, laid out.
const BAND: usize = 3 << 20;

/// The most bytes of kernels that a thread works with at a time, for each of its threads: they stay in a cache.
const KERNELS: usize = 512 << 10;

/// A convolution with its kernels laid out: the left side.
pub struct Convolution<'a> {
    unit: Unit,
    conv: &'a PlaneConv,
    terms: &'a [Term<'a>],
    kernels: Vec<Packed>,
    /// Terms of kernels and of planes.
    split: [usize; 2],
    /// Planes that a band is laid out as: one, or one for each parity of rows and columns.
    phases: usize,
}

/// A band being worked on: its sizes, and room that is used again for the next one.
#[derive(Default)]
pub struct Room {
    strips: Aligned<u32>,
    sums: Aligned<f32>,
    lines: [Vec<f32>; 2],
}

/// The places of a band.
struct Band {
    /// Of the output.
    rows: Range<usize>,
    /// Places in a row as laid out, and rows.
    size: [usize; 2],
    /// Places of a channel pair's phase, with room at the end.
    strip: usize,
    /// Places from one channel pair to the next.
    distance: usize,
}

impl<'a> Convolution<'a> {
    pub fn new(unit: Unit, conv: &'a PlaneConv, terms: &'a [Term<'a>]) -> Self {
        let exact = conv.numbers == Numbers::Exact;
        let split =
            [if exact && !conv.narrow_kernels { MOST_TERMS } else { 1 }, if exact { MOST_TERMS } else { 1 }];
        let cells = conv.side * conv.side;
        // Channels are padded to whole steps for each cell.
        let padded = conv.inputs.next_multiple_of(DEPTH);
        let kernels = terms.iter().map(|term| {
            let mut wide = vec![0.0; conv.outputs * cells * padded];
            wide.par_chunks_mut(cells * padded).enumerate().for_each_init(
                || vec![0.0; cells * conv.inputs],
                |row, (output, wide)| {
                    (term.kernel)(output, row);
                    for (wide, row) in wide.chunks_mut(padded).zip(row.chunks(conv.inputs)) {
                        wide[..row.len()].copy_from_slice(row);
                    }
                },
            );
            Packed::new(&wide, cells * padded, split[0], Order::Rows)
        });
        let phases = if conv.resize == Resize::Half { 4 } else { 1 };
        Self { unit, conv, terms, kernels: kernels.collect(), split, phases }
    }

    /// Rows of output that a band has.
    pub fn band_rows(&self) -> usize {
        let (h, w) = self.conv.out_size();
        let place = 2 * self.split[1] * self.conv.inputs.next_multiple_of(DEPTH);
        let row = place * (w + self.conv.side - 1) * self.phases;
        let most = (BAND / row).saturating_sub(self.conv.side - 1).clamp(1, h);
        // As many bands as all threads can share evenly, where there are few.
        let threads = rayon::current_num_threads();
        h.div_ceil(h.div_ceil(most).next_multiple_of(threads)).max(1)
    }

    /// Hands each row of sums to `put`, with the output and the row.
    pub fn run(&self, rows: Range<usize>, room: &mut Room, mut put: impl FnMut(usize, usize, &[f32])) {
        let w = self.conv.out_size().1;
        let band = self.band(rows);
        let run = (band.rows.len() - 1) * band.size[0] + w;
        let run_padded = run.next_multiple_of(DEPTH);
        let block_bytes = self.kernels[0].steps * self.split[0] * 2 * super::TILE_BYTES;
        let blocks = self.conv.outputs.div_ceil(DEPTH);
        let at_a_time = (KERNELS / block_bytes).clamp(1, blocks);
        let Room { strips, sums, lines } = room;
        for first in (0..blocks).step_by(at_a_time) {
            let panel = first..blocks.min(first + at_a_time);
            let sums = sums.sized(panel.len() * DEPTH * run_padded);
            for (index, (term, kernel)) in self.terms.iter().zip(&self.kernels).enumerate() {
                // The strips of one term stay as they are for all panels.
                if self.terms.len() > 1 || first == 0 {
                    self.lay_out(term.plane, &band, strips, lines);
                }
                self.sum(&band, strips.all(), (kernel, panel.clone()), (sums, run_padded), index > 0);
            }
            for output in panel.start * DEPTH..self.conv.outputs.min(panel.end * DEPTH) {
                let sums = &sums[(output - panel.start * DEPTH) * run_padded..][..run];
                for (row, sums) in band.rows.clone().zip(sums.chunks(band.size[0])) {
                    put(output, row, &sums[..w]);
                }
            }
        }
    }

    fn band(&self, rows: Range<usize>) -> Band {
        let w = self.conv.out_size().1;
        // A phase has one row and column more than the output; a plane as many as the kernel has beyond one.
        let more = if self.phases == 1 { self.conv.side - 1 } else { 1 };
        let size = [w + more, rows.len() + more];
        let strip = (size[0] * size[1] + 2 * DEPTH).next_multiple_of(SIDE);
        let lines = strip * self.phases / SIDE;
        // An even number of cache lines between rows of a tile would press them into part of the cache.
        Band { rows, size, strip, distance: (lines | 1) * SIDE }
    }

    /// The sums of some blocks of outputs.
    fn sum(
        &self,
        band: &Band,
        strips: &[u32],
        (kernel, blocks): (&Packed, Range<usize>),
        (sums, width): (&mut [f32], usize),
        add: bool,
    ) {
        let ksteps = self.conv.inputs.div_ceil(DEPTH);
        let steps = self.steps(kernel, band, ksteps);
        let reach = steps.iter().map(|step| step[1]).max().unwrap_or(0) / 4;
        assert!(reach + (SIDE - 1) * band.distance + width <= strips.len(), "a band is too short");
        let engine: Engine = self.unit.begin();
        for place in (0..width).step_by(DEPTH) {
            let right = Side {
                first: strips[place..].as_ptr().cast(),
                row_bytes: 4 * band.distance,
                second: 4 * SIDE,
            };
            for (index, block) in blocks.clone().enumerate() {
                let to = &mut sums[index * DEPTH * width + place..][..(DEPTH - 1) * width + DEPTH];
                let sums = Sums { first: to.as_mut_ptr(), row_bytes: 4 * width, add };
                #[expect(unsafe_code, reason = "a kernel of the unit")]
                // SAFETY: the strips reach as far as was asserted, the kernels have all the steps that were listed,
                // and the sums have 32 rows of at least 32 places.
                unsafe {
                    engine.square(&steps, kernel.side(block), right, sums);
                }
            }
        }
    }

    /// All steps, those that read the same tiles after each other.
    fn steps(&self, kernel: &Packed, band: &Band, ksteps: usize) -> Vec<Step> {
        let side = self.conv.side;
        let mut steps = Vec::new();
        for kstep in 0..ksteps {
            for cell in 0..side * side {
                let (dy, dx) = (cell / side, cell % side);
                let place = if self.phases == 1 {
                    dy * band.size[0] + dx
                } else {
                    (dy % 2 * 2 + dx % 2) * band.strip + dy / 2 * band.size[0] + dx / 2
                };
                for [left, right] in pairs(self.split[0], self.split[1]) {
                    let right = (kstep * self.split[1] + right) * SIDE * band.distance + place;
                    steps.push([kernel.offset(cell * ksteps + kstep, left), 4 * right]);
                }
            }
        }
        steps
    }

    /// Lays out a band of a plane: for each 32 channels, for each term, for each two channels, for each phase, a strip.
    fn lay_out(&self, plane: &[f32], band: &Band, strips: &mut Aligned<u32>, lines: &mut [Vec<f32>; 2]) {
        let (inputs, terms) = (self.conv.inputs, self.split[1]);
        let ksteps = inputs.div_ceil(DEPTH);
        let strips = strips.sized(ksteps * terms * SIDE * band.distance);
        let [width, rows] = band.size;
        for line in &mut *lines {
            line.resize(width, 0.0);
        }
        for pair in 0..ksteps * SIDE {
            let at = (pair / SIDE * terms * SIDE + pair % SIDE) * band.distance;
            for phase in 0..self.phases {
                for row in 0..rows {
                    for (half, line) in lines.iter_mut().enumerate() {
                        self.line(plane, 2 * pair + half, (band.rows.start, row, phase), line);
                    }
                    let to = &mut strips[at + phase * band.strip + row * width..];
                    interleave([&lines[0], &lines[1]], terms, to, SIDE * band.distance);
                }
            }
        }
    }

    /// One row of a channel as it is laid out.
    fn line(
        &self,
        plane: &[f32],
        channel: usize,
        (first, row, phase): (usize, usize, usize),
        to: &mut [f32],
    ) {
        if channel >= self.conv.inputs {
            return to.fill(0.0);
        }
        let (h, w) = self.conv.size;
        if self.phases == 1 {
            self.conv.copy_row(plane, channel, first + row, to);
            return;
        }
        let (y, odd) = (2 * (first + row) + phase / 2, phase % 2);
        if y >= h {
            return to.fill(0.0);
        }
        let from = plane[(channel * h + y) * w..][..w].iter().skip(odd).step_by(2);
        let count = w.saturating_sub(odd).div_ceil(2).min(to.len());
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        to[count..].fill(0.0);
    }
}
