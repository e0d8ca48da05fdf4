//! Softmax of a row that arrives in blocks (Milakov and Gimelshein, "Online normalizer calculation for
//! softmax", 2018).
#![expect(clippy::inline_always, reason = "a call in a loop would keep it from becoming vector instructions")]

use super::exp;
use super::vectorised::vectorised;

const LANES: usize = 16;

/// What is known of a row so far: its largest score, and the sum of `e^(score - largest)`.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    largest: f32,
    sum: f32,
}

impl Default for Softmax {
    fn default() -> Self {
        Self { largest: f32::NEG_INFINITY, sum: 0.0 }
    }
}

impl Softmax {
    /// Turns the next block of scores into `e^(scale * score + mask - largest)`, where `largest` is the
    /// largest so far. Returns the factor by which everything from earlier blocks shrinks.
    pub fn absorb(&mut self, scores: &mut [f32], scale: f32, mask: Option<&[f32]>) -> f32 {
        absorb(self, scores, scale, mask)
    }

    /// What the numerators are to be divided by; zero when every score was masked.
    pub fn sum(&self) -> f32 {
        self.sum
    }
}

vectorised! {
    fn absorb(softmax: &mut Softmax, scores: &mut [f32], scale: f32, mask: Option<&[f32]>) -> f32 {
        add_mask(scores, scale, mask);
        let largest = softmax.largest.max(maximum(scores));
        // Nothing but masked scores so far: every weight is zero, not the quotient of two infinities.
        let origin = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
        let factor = exp(softmax.largest - origin);
        softmax.largest = largest;
        softmax.sum = softmax.sum * factor + numerators(scores, origin);
        factor
    }
}

#[inline(always)]
fn add_mask(scores: &mut [f32], scale: f32, mask: Option<&[f32]>) {
    for score in &mut *scores {
        *score *= scale;
    }
    for (score, mask) in scores.iter_mut().zip(mask.unwrap_or_default()) {
        *score += mask;
    }
}

#[inline(always)]
fn maximum(scores: &[f32]) -> f32 {
    let (blocks, rest) = scores.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (largest, score) in largest.iter_mut().zip(block) {
            *largest = if *score > *largest { *score } else { *largest };
        }
    }
    largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn numerators(scores: &mut [f32], origin: f32) -> f32 {
    let (blocks, rest) = scores.as_chunks_mut::<LANES>();
    let mut sums = [0.0f32; LANES];
    for block in blocks {
        for (score, sum) in block.iter_mut().zip(&mut sums) {
            *score = exp(*score - origin);
            *sum += *score;
        }
    }
    for score in &mut *rest {
        *score = exp(*score - origin);
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_any_size_give_the_same_weights() {
        let scores: Vec<f32> = (0..50).map(|i| (i * 29 % 47) as f32 * 0.5 - 9.0).collect();
        let weights = |size: usize| {
            let mut row = scores.clone();
            let mut softmax = Softmax::default();
            for first in (0..row.len()).step_by(size) {
                let (before, rest) = row.split_at_mut(first);
                let end = size.min(rest.len());
                let factor = softmax.absorb(&mut rest[..end], 0.5, None);
                for weight in before {
                    *weight *= factor;
                }
            }
            row.iter().map(|weight| weight / softmax.sum()).collect::<Vec<_>>()
        };
        let exact: Vec<f64> = scores.iter().map(|score| (f64::from(*score) * 0.5).exp()).collect();
        let total: f64 = exact.iter().sum();
        for size in [1, 7, 16, 50] {
            for (found, exact) in weights(size).iter().zip(&exact) {
                assert!((f64::from(*found) - exact / total).abs() < 1e-7, "in blocks of {size}");
            }
        }
    }

    #[test]
    fn masked_scores_weigh_nothing() {
        let hidden = f32::NEG_INFINITY;
        let mut softmax = Softmax::default();
        let (mut first, mut second) = ([5.0, 6.0], [1.0, 7.0]);
        softmax.absorb(&mut first, 1.0, Some(&[hidden, hidden]));
        softmax.absorb(&mut second, 1.0, Some(&[0.0, hidden]));
        assert_eq!(
            (first.to_vec(), second.to_vec(), softmax.sum().to_bits()),
            (vec![0.0, 0.0], vec![1.0, 0.0], 1.0f32.to_bits())
        );
    }
}
