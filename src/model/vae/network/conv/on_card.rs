//! A convolution of pictures whose weights are on a graphics card: columns of a band of rows, and a matrix product.
//!
//! Channels lie together there, and where they are no multiple of 8 zeros follow them.

use std::borrow::Cow;

use rayon::prelude::*;

use super::Conv;
use crate::device::cuda;
use crate::device::cuda::launch::{self, Address, CHANNELS, Convolution, Size};
use crate::device::cuda::machine::{Buffer, Machine, Numbers, Product, bf16_bytes};
use crate::device::cuda::store::Parcel;
use crate::device::ops::Resize;
use crate::model::Result;
use crate::model::parts::Spread;

/// How so many channels lie.
pub fn channels(count: usize) -> Spread {
    Spread { of: count, to: count.next_multiple_of(CHANNELS) }
}

pub struct ConvOnCard {
    /// (outputs, side, side, inputs)
    weight: Address,
    bias: Address,
    inputs: usize,
    outputs: usize,
    side: usize,
    resize: Resize,
}

/// Memory that convolutions of a picture take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// Numbers of the largest picture between layers.
    pub plane: usize,
    /// Bytes of what cannot be done in smaller pieces.
    pub least: usize,
}

impl Needs {
    /// Counts a picture in.
    pub fn hold(&mut self, (h, w): (usize, usize), channels: usize) {
        self.plane = self.plane.max(h * w * channels);
    }
}

impl Conv {
    /// Counts in what it takes for a picture of this size; gives the size of what comes out.
    pub fn needs(&self, size: (usize, usize), needs: &mut Needs) -> (usize, usize) {
        let (inputs, outputs) = (channels(self.weight.shape()[1]).to, channels(self.bias.len()).to);
        let out = self.resize.applied(size);
        needs.hold(size, inputs);
        needs.hold(out, outputs);
        // A row of columns.
        needs.least = needs.least.max(size_of::<half::bf16>() * out.1 * self.side * self.side * inputs);
        out
    }

    /// Lays out for a card what pictures alone meet: of taps over time, the last.
    pub fn pack(&self, parcel: &mut Parcel<'_, '_>) -> cuda::Result<ConvOnCard> {
        const BF16: usize = size_of::<half::bf16>();
        let (inputs, outputs) = (channels(self.weight.shape()[1]), channels(self.bias.len()));
        let kernel_bytes = BF16 * self.side * self.side * inputs.to;
        let kernels = || {
            let mut bytes = vec![0; kernel_bytes * outputs.to];
            let of_outputs = bytes.par_chunks_mut(kernel_bytes).enumerate().take(outputs.of);
            of_outputs.for_each(|(output, to)| {
                let mut kernel = vec![0.0; self.side * self.side * inputs.of];
                self.kernel((self.time - 1, false), output, &mut kernel);
                to.copy_from_slice(&inputs.apply(Cow::Owned(bf16_bytes(&kernel)), BF16));
            });
            Cow::Owned(bytes)
        };
        let weight = parcel.add(kernel_bytes * outputs.to, kernels)?;
        let bias = || outputs.apply(Cow::Owned(bf16_bytes(&self.bias)), BF16);
        let bias = parcel.add(BF16 * outputs.to, bias)?;
        let (inputs, outputs) = (inputs.to, outputs.to);
        Ok(ConvOnCard { weight, bias, inputs, outputs, side: self.side, resize: self.resize })
    }
}

impl ConvOnCard {
    /// The convolution that gives some of the outputs.
    pub fn giving(&self, first: usize, outputs: usize) -> Self {
        let taps = self.side * self.side * self.inputs;
        Self { weight: number(self.weight, first * taps), bias: number(self.bias, first), outputs, ..*self }
    }

    /// `y = conv(x)`, without the bias. `x`: (h, w, inputs), `y`: (h', w', outputs), of which the size is given.
    pub fn multiply(
        &self,
        machine: &mut dyn Machine,
        columns: Buffer,
        (x, size): (Address, (usize, usize)),
        y: Address,
    ) -> Result<(usize, usize)> {
        let (numbers, w, outputs) = (Numbers::Bf16, self.weight, self.outputs);
        let (out_h, out_w) = self.resize.applied(size);
        if self.side == 1 {
            let (rows, inputs) = (size.0 * size.1, self.inputs);
            machine.multiply(&Product { numbers, rows, inputs, outputs, x, w, out: y })?;
            return Ok(size);
        }
        let border = if self.resize == Resize::Half { 0 } else { self.side / 2 };
        let convolution = Convolution {
            channels: self.inputs,
            h: size.0,
            w: size.1,
            kernel: [self.side; 2],
            stride: if self.resize == Resize::Half { 2 } else { 1 },
            above: border,
            left: border,
            zoom: if self.resize == Resize::Double { 2 } else { 1 },
            out_w,
        };
        let inputs = convolution.taps();
        let band = (columns.bytes / (size_of::<half::bf16>() * inputs * out_w)).max(1);
        for first in (0..out_h).step_by(band) {
            let rows = band.min(out_h - first);
            machine.launch(&convolution.columns(x, columns.at, first, rows))?;
            let (rows, out) = (rows * out_w, number(y, first * out_w * outputs));
            machine.multiply(&Product { numbers, rows, inputs, outputs, x: columns.at, w, out })?;
        }
        Ok((out_h, out_w))
    }

    /// `out = sum + bias + added`.
    pub fn finish(
        &self,
        machine: &mut dyn Machine,
        (sum, size): (Address, (usize, usize)),
        added: Option<Address>,
        out: Address,
    ) -> Result<()> {
        let size = Size { rows: size.0 * size.1, width: self.outputs };
        Ok(machine.launch(&launch::channel_sum(sum, self.bias, added, out, size))?)
    }

    /// The transposed result without bias of a convolution of single places: (outputs, places).
    pub fn multiply_transposed(
        &self,
        machine: &mut dyn Machine,
        (x, places): (Address, usize),
        y: Address,
    ) -> Result<()> {
        let (numbers, inputs, out) = (Numbers::Bf16, self.inputs, y);
        let turned =
            Product { numbers, rows: self.outputs, inputs, outputs: places, x: self.weight, w: x, out };
        Ok(machine.multiply(&turned)?)
    }
}

/// Where a BF16 number lies that so many others come before.
pub fn number(at: Address, index: usize) -> Address {
    Address(at.0 + (size_of::<half::bf16>() * index) as u64)
}
