//! A Brownian motion over the sigmas of a run, as torchsde's `BrownianTree` draws it: any interval can
//! be asked for, in any order, and the parts of an interval add up to it.

use candle_core::{Device, Tensor};

use super::Sampling;
use crate::sampling::{Noise, Result};

pub struct Brownian {
    seed: u64,
    shape: Vec<usize>,
    device: Device,
    /// The sigmas it spans.
    from: f64,
    to: f64,
}

/// A part of the motion: its ends, its place in the tree, and how far the motion goes there.
struct Part {
    low: f64,
    high: f64,
    place: Place,
    change: Tensor,
}

#[derive(Clone, Copy)]
struct Place {
    index: u32,
    depth: u32,
}

impl Brownian {
    pub fn new(run: &Sampling<'_>, x: &Tensor) -> Self {
        let positive = run.sigmas.iter().copied().filter(|sigma| *sigma > 0.0);
        Self {
            seed: run.seed,
            shape: x.dims().to_vec(),
            device: x.device().clone(),
            from: on_grid(positive.clone().fold(f64::INFINITY, f64::min)),
            to: on_grid(positive.fold(0.0, f64::max)),
        }
    }

    /// Noise of variance 1 for the step from sigma `s` down to `n`. The motion is asked for backwards,
    /// therefore the sign.
    pub fn noise(&self, s: f64, n: f64) -> Result<Tensor> {
        let (low, high) = (on_grid(n), on_grid(s));
        let normal = self.normal(None)?;
        let whole = Part {
            low: self.from,
            high: self.to,
            place: Place { index: 0, depth: 0 },
            change: (normal * (self.to - self.from).sqrt())?,
        };
        let change = self.between(whole, low, high)?;
        Ok((change * (-1.0 / (s - n).sqrt()))?.to_device(&self.device)?)
    }

    /// The motion between two points of a part: the part is halved until its ends are the points.
    fn between(&self, part: Part, low: f64, high: f64) -> Result<Tensor> {
        if low >= high {
            return Ok(part.change.zeros_like()?);
        }
        if low <= part.low && high >= part.high {
            return Ok(part.change);
        }
        let middle = on_grid(0.5 * (part.low + part.high));
        let [first, second] = self.halves(part, middle)?;
        match (low < middle, high > middle) {
            (true, false) => self.between(first, low, high),
            (false, _) => self.between(second, low, high),
            (true, true) => Ok((self.between(first, low, middle)? + self.between(second, middle, high)?)?),
        }
    }

    /// A Brownian bridge to the middle of a part.
    fn halves(&self, part: Part, middle: f64) -> Result<[Part; 2]> {
        let (left, right) = (middle - part.low, part.high - middle);
        let length = part.high - part.low;
        let bridge = (self.normal(Some(part.place))? * (left * right / length).sqrt())?;
        let first = ((&part.change * (left / length))? + bridge)?;
        let second = (part.change - &first)?;
        let place = |side| Place { index: 2 * part.place.index + side, depth: part.place.depth + 1 };
        Ok([
            Part { low: part.low, high: middle, place: place(0), change: first },
            Part { low: middle, high: part.high, place: place(1), change: second },
        ])
    }

    fn normal(&self, place: Option<Place>) -> Result<Tensor> {
        let mut entropy = vec![self.seed as u32];
        if self.seed > u32::MAX.into() {
            entropy.push((self.seed >> 32) as u32);
        }
        let key = place.map(|place| [place.index, place.depth]);
        let seed = seed_word(&entropy, key.as_ref().map_or(&[], |key| key));
        Ok(Noise::new(seed.into()).draw(&self.shape, &Device::Cpu)?)
    }
}

/// Sigmas are kept to six decimals; the decimal rounding is exact, as Python's is.
fn on_grid(sigma: f64) -> f64 {
    format!("{sigma:.6}").parse().unwrap_or(sigma)
}

/// The first word of numpy's `SeedSequence` with a pool of 24 words.
fn seed_word(entropy: &[u32], spawn_key: &[u32]) -> u32 {
    const POOL: usize = 24;
    let mut words = entropy.to_vec();
    if !spawn_key.is_empty() {
        words.resize(words.len().max(POOL), 0);
        words.extend(spawn_key);
    }
    let mut hash = Hash { constant: 0x43b0_d7e5, factor: 0x931e_8875 };
    let mut pool: Vec<u32> = (0..POOL).map(|i| hash.mix(words.get(i).copied().unwrap_or(0))).collect();
    for source in 0..POOL {
        for target in (0..POOL).filter(|target| *target != source) {
            pool[target] = merge(pool[target], hash.mix(pool[source]));
        }
    }
    for word in words.iter().skip(POOL) {
        for target in &mut pool {
            *target = merge(*target, hash.mix(*word));
        }
    }
    Hash { constant: 0x8b51_f9dd, factor: 0x58f3_8ded }.mix(pool[0])
}

struct Hash {
    constant: u32,
    factor: u32,
}

impl Hash {
    fn mix(&mut self, word: u32) -> u32 {
        let word = word ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.factor);
        let word = word.wrapping_mul(self.constant);
        word ^ (word >> 16)
    }
}

fn merge(x: u32, y: u32) -> u32 {
    let mixed = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
    mixed ^ (mixed >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_those_of_numpy() {
        assert_eq!(seed_word(&[42], &[]), 0x171c_9ae3);
        assert_eq!(seed_word(&[0], &[0, 0]), 0x0ea0_f763);
        assert_eq!(seed_word(&[0xdead_beef, 0x1234_5678], &[5, 3]), 0x4535_1ed7);
    }
}
