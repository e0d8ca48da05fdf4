//! Ways around a stage that have no weights: squares of pixels are averaged into channels, or channels are spread over
//! squares of pixels.

use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::names::Direction;
use crate::device::ops::zeros;
use crate::model::Result;
use crate::model::estimate::Work;
use crate::model::parts::with_slices;

#[derive(Clone, Copy, Debug)]
pub struct Shortcut {
    direction: Direction,
    /// Inputs and outputs.
    channels: [usize; 2],
    /// Of the squares.
    side: usize,
    /// Frames that go with a square of pixels. Of one picture it is the last; those before it are empty.
    frames: usize,
}

impl Shortcut {
    /// None where channels cannot be shared out evenly.
    pub fn new(direction: Direction, channels: [usize; 2], side: usize, frames: usize) -> Option<Self> {
        let new = Self { direction, channels, side, frames };
        let (many, few) = match direction {
            Direction::Down => (channels[0] * new.cells(), channels[1]),
            Direction::Up => (channels[1] * new.cells(), channels[0]),
        };
        (few > 0 && many.is_multiple_of(few)).then_some(new)
    }

    /// Pixels of a square, of all frames.
    fn cells(&self) -> usize {
        self.frames * self.side * self.side
    }

    /// The place of a cell of a square in the picture; none for those of the frames before it.
    fn place(&self, cell: usize) -> Option<(usize, usize)> {
        let cell = cell.checked_sub((self.frames - 1) * self.side * self.side)?;
        Some((cell / self.side, cell % self.side))
    }

    /// What it costs where so many pixels come out.
    pub fn work(&self, size: (usize, usize)) -> Work {
        Work::passes(3.0, size.0 * size.1, self.channels[1])
    }

    /// `frame`, (outputs, h', w'), and what the stage began with, (inputs, h, w).
    pub fn onto(&self, frame: &Tensor, begun: &Tensor) -> Result<Tensor> {
        let size = (begun.dim(1)?, begun.dim(2)?);
        let (outputs, h, w) = frame.dims3()?;
        let mut out = zeros(outputs * h * w);
        if !out.is_empty() {
            let rounded = frame.dtype() == DType::BF16;
            with_slices([frame, begun], |[added, from]| {
                let planes = out.par_chunks_mut(h * w).zip(added.par_chunks(h * w)).enumerate();
                planes.for_each(|(output, (out, added))| {
                    match self.direction {
                        Direction::Down => self.average(from, size, (output, w), out),
                        Direction::Up => self.spread(from, size, (output, w), out),
                    }
                    for (out, added) in out.iter_mut().zip(added) {
                        *out = added + if rounded { bf16::from_f32(*out).to_f32() } else { *out };
                    }
                });
            })?;
        }
        Ok(Tensor::from_vec(out, frame.shape(), &Device::Cpu)?.to_dtype(frame.dtype())?)
    }

    /// Writes one channel, of rows so wide: the mean of equally many cells of squares.
    fn average(
        &self,
        from: &[f32],
        (h, w): (usize, usize),
        (output, width): (usize, usize),
        out: &mut [f32],
    ) {
        let cells = self.cells();
        let count = self.channels[0] * cells / self.channels[1];
        for index in output * count..(output + 1) * count {
            let Some((y, x)) = self.place(index % cells) else { continue };
            let plane = &from[index / cells * h * w..][..h * w];
            for (rows, out) in plane.chunks(self.side * w).zip(out.chunks_mut(width)) {
                let row = rows[y * w + x..].iter().step_by(self.side);
                out.iter_mut().zip(row).for_each(|(out, value)| *out += value);
            }
        }
        for out in out {
            *out /= count as f32;
        }
    }

    /// Writes one channel, of rows so wide: each cell of its squares is one of the inputs.
    fn spread(&self, from: &[f32], (h, w): (usize, usize), (output, width): (usize, usize), out: &mut [f32]) {
        let cells = self.cells();
        let times = self.channels[1] * cells / self.channels[0];
        for cell in 0..cells {
            let Some((y, x)) = self.place(cell) else { continue };
            let plane = &from[(output * cells + cell) / times * h * w..][..h * w];
            for (row, rows) in plane.chunks(w).zip(out.chunks_mut(self.side * width)) {
                let to = rows[y * width + x..].iter_mut().step_by(self.side);
                to.zip(row).for_each(|(out, value)| *out = *value);
            }
        }
    }
}
