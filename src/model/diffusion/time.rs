//! A timestep as its network sees it first.

use candle_core::{Device, Tensor};

use crate::model::Result;

/// Frequencies of the time embedding, and the factor that takes a timestep of 0..1 to its range.
const FREQUENCIES: usize = 128;
const SCALE: f32 = 1000.0;
/// The frequencies that PyTorch's exponential rounds up where the exact one is nearer to the number below. It
/// matters where a timestep is 1000 times sigma: its angles are up to a million.
const ROUNDED_UP: [usize; 3] = [13, 44, 119];

/// How many numbers a timestep becomes.
pub const SINUSOIDS: usize = 2 * FREQUENCIES;

/// (1, [`SINUSOIDS`]): cosines, then sines.
pub fn sinusoids(t: f64) -> Result<Tensor> {
    let angle = |index: usize| {
        let frequency = (-(10_000f32.ln()) * index as f32 / FREQUENCIES as f32).exp();
        let frequency = if ROUNDED_UP.contains(&index) { frequency.next_up() } else { frequency };
        f64::from(t as f32 * frequency * SCALE)
    };
    let sinusoids: Vec<f32> = (0..FREQUENCIES)
        .map(|index| angle(index).cos() as f32)
        .chain((0..FREQUENCIES).map(|index| angle(index).sin() as f32))
        .collect();
    Ok(Tensor::from_vec(sinusoids, (1, SINUSOIDS), &Device::Cpu)?)
}
