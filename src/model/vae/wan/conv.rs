//! Convolutions over space and time, frame by frame.
//!
//! A causal convolution over time sees only frames at and before its own, with nothing before the first, so
//! each frame is a sum of plane convolutions of itself and of its predecessors that exist. One picture is a
//! video of one frame and costs one plane convolution.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::past::Past;
use crate::device::ops::{PlaneConv, Resize, Term};
use crate::model::Result;
use crate::model::estimate::Work;
use crate::model::parts::{round_to, with_all};
use crate::weights::{Stored, Weights};

pub struct Conv {
    /// (outputs, inputs, time, side, side), or without time.
    weight: Stored,
    bias: Vec<f32>,
    time: usize,
    side: usize,
    resize: Resize,
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
        Ok(Self { weight, bias: bias(weights, outputs)?, time: 1, side, resize })
    }

    /// A causal convolution: `weight` (outputs, inputs, time, side, side).
    pub fn causal(
        weights: &Weights,
        [inputs, outputs]: [usize; 2],
        time: usize,
        side: usize,
    ) -> Result<Self> {
        let weight = weights.stored("weight", &[outputs, inputs, time, side, side])?;
        Ok(Self { weight, bias: bias(weights, outputs)?, time, side, resize: Resize::No })
    }

    /// What it costs for one frame of this size alone, and the size of what comes out.
    pub fn work(&self, size: (usize, usize)) -> (Work, (usize, usize)) {
        let (inputs, outputs) = (self.weight.shape()[1], self.bias.len());
        let out = PlaneConv { inputs, outputs, side: self.side, size, resize: self.resize }.out_size();
        let cells = (inputs * self.side * self.side) as f64;
        let convolutions = 2.0 * cells * (outputs * out.0 * out.1) as f64;
        // A norm, an activation or a sum belongs to each.
        (Work { convolutions, ..Work::passes(4.0, out.0 * out.1, outputs) }, out)
    }

    /// Convolves frames that need no others: each (inputs, h, w).
    pub fn each(&self, frames: &[Tensor]) -> Result<Vec<Tensor>> {
        self.windows(frames.chunks(1).map(|seen| (0, seen)).collect())
    }

    /// Convolves the next frames of a video, remembering what the ones after them will need.
    pub fn causally(&self, frames: &[Tensor], past: &mut Past) -> Result<Vec<Tensor>> {
        let reach = self.time - 1;
        let mut all = past.recall().unwrap_or_default();
        let before = all.len();
        all.extend_from_slice(frames);
        let windows = (before..all.len()).map(|last| {
            let seen = &all[last.saturating_sub(reach)..=last];
            (self.time - seen.len(), seen)
        });
        let results = self.windows(windows.collect())?;
        past.keep(all, reach);
        Ok(results)
    }

    /// Every second frame of a convolution over exactly these frames.
    pub fn every_second(&self, frames: &[Tensor]) -> Result<Vec<Tensor>> {
        self.windows(frames.windows(self.time).step_by(2).map(|seen| (0, seen)).collect())
    }

    /// One frame for each window: the frames seen, and the tap over time that the first of them meets.
    fn windows(&self, windows: Vec<(usize, &[Tensor])>) -> Result<Vec<Tensor>> {
        let Some(frame) = windows.first().and_then(|(_, seen)| seen.first()) else { return Ok(Vec::new()) };
        let (inputs, h, w) = frame.dims3()?;
        let dtype = frame.dtype();
        let outputs = self.bias.len();
        let conv = PlaneConv { inputs, outputs, side: self.side, size: (h, w), resize: self.resize };
        let used = windows.iter().flat_map(|(first, seen)| *first..first + seen.len());
        let kernels = self.kernels(used.min().unwrap_or(0), dtype);
        let (out_h, out_w) = conv.out_size();
        let frame = |(first, seen): (usize, &[Tensor])| {
            let out = with_all(&seen.iter().collect::<Vec<_>>(), |planes| {
                let terms = planes.iter().zip(&kernels[first..]);
                let terms: Vec<_> = terms.map(|(plane, kernel)| Term { plane, kernel }).collect();
                conv.run(&terms, &self.bias)
            })?;
            Ok(Tensor::from_vec(out, (outputs, out_h, out_w), &Device::Cpu)?.to_dtype(dtype)?)
        };
        windows.into_iter().map(frame).collect()
    }

    /// For every tap over time from `first` on (nothing for those before): (outputs, side * side, inputs).
    fn kernels(&self, first: usize, compute: DType) -> Vec<Vec<f32>> {
        let (inputs, cells) = (self.weight.shape()[1], self.side * self.side);
        let mut wide = self.weight.to_vec();
        round_to(compute, &mut wide);
        (0..self.time)
            .map(|tap| {
                if tap < first {
                    return Vec::new();
                }
                let mut kernel = vec![0.0; wide.len() / self.time];
                let pairs =
                    kernel.par_chunks_mut(cells * inputs).zip(wide.par_chunks(inputs * self.time * cells));
                pairs.for_each(|(kernel, wide)| {
                    for (index, out) in kernel.iter_mut().enumerate() {
                        let (cell, input) = (index / inputs, index % inputs);
                        *out = wide[(input * self.time + tap) * cells + cell];
                    }
                });
                kernel
            })
            .collect()
    }
}

fn bias(weights: &Weights, outputs: usize) -> Result<Vec<f32>> {
    Ok(weights.stored("bias", &[outputs])?.to_vec())
}
