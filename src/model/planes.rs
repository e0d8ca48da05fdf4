//! Pictures as planes of numbers, and the convolutions of small networks that work on them.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::device::ops::{Numbers, PlaneConv, Resize, Term};
use crate::model::Result;
use crate::model::parts::with_slices;
use crate::weights::Weights;

/// Channels one after another, each row by row.
#[derive(Clone)]
pub struct Planes {
    pub values: Vec<f32>,
    pub size: (usize, usize),
}

impl Planes {
    /// Of (channels, h, w).
    pub fn from_tensor(x: &Tensor) -> Result<Self> {
        let (_, h, w) = x.dims3()?;
        Ok(Self { values: with_slices([x], |[values]| values.to_vec())?, size: (h, w) })
    }

    pub fn to_tensor(&self) -> Result<Tensor> {
        let (h, w) = self.size;
        Ok(Tensor::from_slice(&self.values, (self.channels(), h, w), &Device::Cpu)?)
    }

    pub fn cells(&self) -> usize {
        self.size.0 * self.size.1
    }

    pub fn channels(&self) -> usize {
        self.values.len() / self.cells().max(1)
    }

    /// `self += factor * other`.
    pub fn add(&mut self, other: &[f32], factor: f32) {
        self.values.par_iter_mut().zip(other).with_min_len(1 << 14).for_each(|(value, other)| {
            *value += factor * other;
        });
    }

    /// Squares of `side` by `side` cells become channels: the row within the square counts before the column.
    #[must_use]
    pub fn unshuffled(&self, side: usize) -> Self {
        let (h, w) = (self.size.0 / side, self.size.1 / side);
        let mut values = Vec::with_capacity(self.values.len());
        for plane in self.values.chunks(self.cells()) {
            for (down, across) in squares(side) {
                for y in 0..h {
                    let row = &plane[(y * side + down) * self.size.1..][..self.size.1];
                    values.extend(row.iter().skip(across).step_by(side).take(w));
                }
            }
        }
        Self { values, size: (h, w) }
    }

    /// The way back from [`Planes::unshuffled`].
    #[must_use]
    pub fn shuffled(&self, side: usize) -> Self {
        let ((h, w), cells) = (self.size, self.cells());
        let mut values = vec![0.0; self.values.len()];
        for (plane, channels) in
            values.chunks_mut(cells * side * side).zip(self.values.chunks(cells * side * side))
        {
            for ((down, across), channel) in squares(side).zip(channels.chunks(cells)) {
                for (y, row) in channel.chunks(w).enumerate() {
                    let to = &mut plane[(y * side + down) * w * side..][..w * side];
                    to.iter_mut().skip(across).step_by(side).zip(row).for_each(|(to, from)| *to = *from);
                }
            }
        }
        Self { values, size: (h * side, w * side) }
    }

    /// Each cell becomes a square of `side` by `side`.
    #[must_use]
    pub fn repeated(&self, side: usize) -> Self {
        let (h, w) = self.size;
        let mut values = Vec::with_capacity(self.values.len() * side * side);
        for row in self.values.chunks(w) {
            let wide: Vec<f32> = row.iter().flat_map(|value| std::iter::repeat_n(*value, side)).collect();
            (0..side).for_each(|_| values.extend_from_slice(&wide));
        }
        Self { values, size: (h * side, w * side) }
    }

    /// The first `h` rows and `w` columns.
    #[must_use]
    pub fn cut(&self, (h, w): (usize, usize)) -> Self {
        if self.size == (h, w) {
            return self.clone();
        }
        let planes = self.values.chunks(self.cells());
        let rows = planes.flat_map(|plane| plane.chunks(self.size.1).take(h));
        Self { values: rows.flat_map(|row| &row[..w]).copied().collect(), size: (h, w) }
    }

    /// Rows and columns mirrored at the far edges, up to multiples of `side`.
    #[must_use]
    pub fn padded_to(&self, side: usize) -> Self {
        let (h, w) = self.size;
        let size = (h.next_multiple_of(side), w.next_multiple_of(side));
        if size == self.size {
            return self.clone();
        }
        let mirrored = |place: usize, length: usize| {
            if place < length { place } else { (2 * length).saturating_sub(place + 2).min(length - 1) }
        };
        let mut values = Vec::with_capacity(self.channels() * size.0 * size.1);
        for plane in self.values.chunks(self.cells()) {
            for y in 0..size.0 {
                let row = &plane[mirrored(y, h) * w..][..w];
                values.extend((0..size.1).map(|x| row[mirrored(x, w)]));
            }
        }
        Self { values, size }
    }
}

fn squares(side: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..side).flat_map(move |down| (0..side).map(move |across| (down, across)))
}

/// A convolution with square kernels.
pub struct Conv {
    inputs: usize,
    side: usize,
    /// (outputs, side * side, inputs)
    kernel: Vec<f32>,
    bias: Vec<f32>,
}

impl Conv {
    /// Reads `weight` (outputs, inputs, side, side) and, where there is one, `bias` at `weights`.
    pub fn load(weights: &Weights, [inputs, outputs]: [usize; 2], side: usize) -> Result<Self> {
        let wide = weights.stored("weight", &[outputs, inputs, side, side])?.to_vec();
        let cells = side * side;
        let mut kernel = vec![0.0; wide.len()];
        for (to, from) in kernel.chunks_mut(cells * inputs).zip(wide.chunks(cells * inputs)) {
            for (index, value) in to.iter_mut().enumerate() {
                *value = from[index % inputs * cells + index / inputs];
            }
        }
        let bias = if weights.has("bias") {
            weights.stored("bias", &[outputs])?.to_vec()
        } else {
            vec![0.0; outputs]
        };
        Ok(Self { inputs, side, kernel, bias })
    }

    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Reads the first channels of `x`, as many as it knows.
    pub fn forward(&self, x: &Planes) -> Planes {
        self.resized(x, Resize::No)
    }

    /// After each cell has become two by two.
    pub fn doubled(&self, x: &Planes) -> Planes {
        self.resized(x, Resize::Double)
    }

    fn resized(&self, x: &Planes, resize: Resize) -> Planes {
        let conv = PlaneConv {
            inputs: self.inputs,
            outputs: self.outputs(),
            side: self.side,
            size: x.size,
            resize,
            numbers: Numbers::Exact,
            narrow_kernels: false,
        };
        let plane = &x.values[..self.inputs * x.cells()];
        let kernel = |output: usize, to: &mut [f32]| {
            to.copy_from_slice(&self.kernel[output * to.len()..][..to.len()]);
        };
        Planes {
            values: conv.run(&[Term { plane, kernel: &kernel }], &self.bias, None),
            size: conv.out_size(),
        }
    }
}

/// Values below zero count nothing.
pub fn relu(mut x: Planes) -> Planes {
    x.values.par_iter_mut().with_min_len(1 << 14).for_each(|value| *value = value.max(0.0));
    x
}

/// Values below zero count a fifth.
pub fn leaky(mut x: Planes) -> Planes {
    x.values.par_iter_mut().with_min_len(1 << 14).for_each(|value| {
        if *value < 0.0 {
            *value *= 0.2;
        }
    });
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_become_channels_and_back() {
        let planes = Planes { values: (0..32).map(|value| value as f32).collect(), size: (4, 4) };
        let channels = planes.unshuffled(2);
        assert_eq!((channels.size, channels.channels()), ((2, 2), 8));
        assert_eq!(channels.values[..8], [0.0, 2.0, 8.0, 10.0, 1.0, 3.0, 9.0, 11.0]);
        assert_eq!(channels.shuffled(2).values, planes.values);
    }

    #[test]
    fn edges_are_mirrored_without_repeating_the_last_line() {
        let planes = Planes { values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], size: (2, 3) };
        let padded = planes.padded_to(4);
        assert_eq!(padded.values[..4], [1.0, 2.0, 3.0, 2.0]);
        assert_eq!(padded.values[8..12], [1.0, 2.0, 3.0, 2.0]);
        assert_eq!(padded.cut((2, 3)).values, planes.values);
        assert_eq!(planes.repeated(2).values[..6], [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    }
}
