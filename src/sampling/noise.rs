//! The normal numbers of torch's CPU generator, bit for bit, so a seed gives the picture it gives in
//! ComfyUI.
//!
//! Owns the Box-Muller transform in torch's vectorised form, and the rule for batch indices. Knows nothing of sigmas: what comes out has mean 0 and variance 1.

mod box_muller;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use box_muller::{BLOCK, box_muller};

use crate::device::MersenneTwister;

/// A generator of normal numbers; each draw continues where the last one ended.
pub struct Noise {
    twister: MersenneTwister,
    /// The second value of a pair drawn by the path for small tensors.
    spare: Option<f64>,
}

impl Noise {
    /// Only the low 32 bits of a seed count, as in torch.
    pub fn new(seed: u64) -> Self {
        Self { twister: MersenneTwister::new(seed as u32), spare: None }
    }

    /// Draws one tensor of normal f32 values.
    pub fn draw(&mut self, shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
        let mut values = vec![0.0; shape.iter().product()];
        self.fill(&mut values);
        Tensor::from_vec(values, shape, device)
    }

    /// Fills `out` as one tensor. Which values come depends on the length: torch has one method for
    /// tensors of 16 elements or more and another for smaller ones.
    pub fn fill(&mut self, out: &mut [f32]) {
        if out.len() < BLOCK {
            out.fill_with(|| self.double() as f32);
            return;
        }
        out.fill_with(|| self.twister.uniform());
        let whole = out.len() / BLOCK * BLOCK;
        box_muller(&mut out[..whole]);
        if whole < out.len() {
            // The last 16 are drawn anew, over values that were already finished.
            let tail = out.len() - BLOCK;
            out[tail..].fill_with(|| self.twister.uniform());
            box_muller(&mut out[tail..]);
        }
    }

    fn double(&mut self) -> f64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let (angle, radius) = (self.twister.uniform_double(), self.twister.uniform_double());
        let radius = (-2.0 * (-radius).ln_1p()).sqrt();
        let angle = std::f64::consts::TAU * angle;
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// The noise a latent starts from. Without `indices` the whole batch is one draw; with them, item `k`
/// of the batch gets the `indices[k]`-th draw of a single item.
pub fn initial(
    seed: u64,
    shape: &[usize],
    indices: Option<&[usize]>,
    device: &Device,
) -> candle_core::Result<Tensor> {
    let mut noise = Noise::new(seed);
    let Some(indices) = indices else { return noise.draw(shape, device) };
    let item = [&[1], &shape[1..]].concat();
    let mut draws = BTreeMap::new();
    for index in 0..=indices.iter().max().copied().unwrap_or(0) {
        let draw = noise.draw(&item, device)?;
        if indices.contains(&index) {
            draws.insert(index, draw);
        }
    }
    Tensor::cat(&indices.iter().filter_map(|index| draws.get(index)).collect::<Vec<_>>(), 0)
}
