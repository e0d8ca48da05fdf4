//! Convolutions over space and time, frame by frame.
//!
//! A causal convolution over time sees only frames at and before its own, with nothing before the first, so
//! each frame is a sum of plane convolutions of itself and of its predecessors that exist. One picture is a
//! video of one frame and costs one plane convolution.

mod on_card;

use candle_core::{DType, Device, Tensor};
use half::bf16;

use super::past::Past;
use crate::device::ops::{Numbers, PlaneConv, Resize, Term};
use crate::model::Result;
use crate::model::estimate::Work;
use crate::model::parts::with_all;
use crate::weights::{Stored, Weights};

pub use on_card::{ConvOnCard, Needs, channels, number};

pub struct Conv {
    /// (outputs, inputs, time, side, side), or without time.
    weight: Stored,
    bias: Vec<f32>,
    time: usize,
    side: usize,
    resize: Resize,
    numbers: Numbers,
}

impl Conv {
    /// A convolution of planes alone: `weight` (outputs, inputs, side, side).
    pub fn plane(
        weights: &Weights,
        [inputs, outputs]: [usize; 2],
        side: usize,
        resize: Resize,
    ) -> Result<Self> {
        let weight = weights.stored("weight", &[outputs, inputs, side, side])?;
        let numbers = weights.numbers();
        Ok(Self { weight, bias: bias(weights, outputs)?, time: 1, side, resize, numbers })
    }

    /// A causal convolution: `weight` (outputs, inputs, time, side, side).
    pub fn causal(
        weights: &Weights,
        [inputs, outputs]: [usize; 2],
        time: usize,
        side: usize,
    ) -> Result<Self> {
        let weight = weights.stored("weight", &[outputs, inputs, time, side, side])?;
        let (resize, numbers) = (Resize::No, weights.numbers());
        Ok(Self { weight, bias: bias(weights, outputs)?, time, side, resize, numbers })
    }

    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// What it costs for one frame of this size alone, and the size of what comes out.
    pub fn work(&self, size: (usize, usize)) -> (Work, (usize, usize)) {
        let (inputs, outputs) = (self.weight.shape()[1], self.bias.len());
        let out = self.resize.applied(size);
        let cells = (inputs * self.side * self.side) as f64;
        let convolutions = 2.0 * cells * (outputs * out.0 * out.1) as f64;
        // A norm, an activation or a sum belongs to each.
        (Work { convolutions, ..Work::passes(4.0, out.0 * out.1, outputs) }, out)
    }

    /// Convolves frames that need no others: each (inputs, h, w).
    pub fn each(&self, frames: &[Tensor]) -> Result<Vec<Tensor>> {
        self.windows(frames.chunks(1).map(|seen| (0, seen)).collect(), None)
    }

    /// Convolves the next frames of a video, remembering what the ones after them will need.
    pub fn causally(&self, frames: &[Tensor], past: &mut Past) -> Result<Vec<Tensor>> {
        self.causally_onto(None, frames, past)
    }

    /// [`Conv::causally`], added to other frames.
    pub fn causally_onto(
        &self,
        added: Option<&[Tensor]>,
        frames: &[Tensor],
        past: &mut Past,
    ) -> Result<Vec<Tensor>> {
        let reach = self.time - 1;
        let mut all = past.recall().unwrap_or_default();
        let before = all.len();
        all.extend_from_slice(frames);
        let windows = (before..all.len()).map(|last| {
            let seen = &all[last.saturating_sub(reach)..=last];
            (self.time - seen.len(), seen)
        });
        let results = self.windows(windows.collect(), added)?;
        past.keep(all, reach);
        Ok(results)
    }

    /// Every second frame of a convolution over exactly these frames.
    pub fn every_second(&self, frames: &[Tensor]) -> Result<Vec<Tensor>> {
        self.windows(frames.windows(self.time).step_by(2).map(|seen| (0, seen)).collect(), None)
    }

    /// One frame for each window: the frames seen, and the tap over time that the first of them meets.
    fn windows(&self, windows: Vec<(usize, &[Tensor])>, added: Option<&[Tensor]>) -> Result<Vec<Tensor>> {
        let Some(frame) = windows.first().and_then(|(_, seen)| seen.first()) else { return Ok(Vec::new()) };
        let (inputs, h, w) = frame.dims3()?;
        let dtype = frame.dtype();
        let rounded = dtype == DType::BF16;
        let conv = PlaneConv {
            inputs,
            outputs: self.bias.len(),
            side: self.side,
            size: (h, w),
            resize: self.resize,
            numbers: if rounded { Numbers::Rounded } else { self.numbers },
            narrow_kernels: self.weight.is_bf16(),
        };
        let (out_h, out_w) = conv.out_size();
        let kernels: Vec<_> = (0..self.time)
            .map(|tap| move |output: usize, to: &mut [f32]| self.kernel((tap, rounded), output, to))
            .collect();
        let frame = |(index, (first, seen)): (usize, (usize, &[Tensor]))| {
            let mut lent: Vec<&Tensor> = seen.iter().collect();
            // What is added to the rounded sum is added after it.
            let later = added.map(|added| &added[index]).filter(|_| rounded);
            lent.extend(added.map(|added| &added[index]).filter(|_| !rounded));
            let out = with_all(&lent, |planes| {
                let (planes, added) = planes.split_at(seen.len());
                let terms = planes.iter().zip(&kernels[first..]);
                let terms: Vec<_> = terms.map(|(plane, kernel)| Term { plane, kernel }).collect();
                conv.run(&terms, &self.bias, added.first().copied())
            })?;
            let out = Tensor::from_vec(out, (conv.outputs, out_h, out_w), &Device::Cpu)?.to_dtype(dtype)?;
            Ok(if let Some(later) = later { (out + later)? } else { out })
        };
        windows.into_iter().enumerate().map(frame).collect()
    }

    /// Writes the kernel of an output that a tap over time has: (side * side, inputs).
    fn kernel(&self, (tap, rounded): (usize, bool), output: usize, to: &mut [f32]) {
        let (inputs, cells) = (self.weight.shape()[1], self.side * self.side);
        let mut all = vec![0.0; inputs * self.time * cells];
        self.weight.widen_few_into(output * all.len(), &mut all);
        for (cell, to) in to.chunks_mut(inputs).enumerate() {
            let from = all[tap * cells + cell..].iter().step_by(self.time * cells);
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        }
        if rounded {
            for value in to {
                *value = bf16::from_f32(*value).to_f32();
            }
        }
    }
}

fn bias(weights: &Weights, outputs: usize) -> Result<Vec<f32>> {
    Ok(weights.stored("bias", &[outputs])?.to_vec())
}
