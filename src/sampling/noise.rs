//! The normal numbers of torch's CPU generator, bit for bit, so a seed gives the picture it gives in
//! ComfyUI.
//!
//! Owns the Mersenne Twister, the Box-Muller transform in torch's vectorised form, and the rule for
//! batch indices. Knows nothing of sigmas: what comes out has mean 0 and variance 1.

mod box_muller;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use box_muller::{BLOCK, box_muller};

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

/// MT19937 of Matsumoto and Nishimura (1998).
struct MersenneTwister {
    state: [u32; Self::WORDS],
    next: usize,
}

impl MersenneTwister {
    const WORDS: usize = 624;
    const MIDDLE: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::WORDS];
        for i in 1..Self::WORDS {
            let last = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: Self::WORDS }
    }

    fn word(&mut self) -> u32 {
        if self.next == Self::WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for i in 0..Self::WORDS {
            let following = self.state[(i + 1) % Self::WORDS];
            let joined = (self.state[i] & 0x8000_0000) | (following & 0x7fff_ffff);
            let feedback = if joined & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[i] = self.state[(i + Self::MIDDLE) % Self::WORDS] ^ (joined >> 1) ^ feedback;
        }
        self.next = 0;
    }

    /// In [0, 1), in steps of 2^-24.
    fn uniform(&mut self) -> f32 {
        (self.word() & 0x00ff_ffff) as f32 * 2.0_f32.powi(-24)
    }

    /// In [0, 1), in steps of 2^-53.
    fn uniform_double(&mut self) -> f64 {
        let (high, low) = (u64::from(self.word()), u64::from(self.word()));
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 * 2.0_f64.powi(-53)
    }
}
