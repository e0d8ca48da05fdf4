//! What happens to the estimates of both sides before guidance combines them.

use std::f64::consts::TAU;
use std::sync::Arc;

use candle_core::{D, Device, Tensor};

use crate::sampling::Result;

/// A change of what guidance adds to the negative estimate; of the positive one, if there is no other.
pub type Operation = Arc<dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync>;

#[derive(Clone)]
pub enum Preparation {
    /// The positive estimate becomes the negative one and a changed difference to it.
    Difference(Operation),
    /// TCFG (Kwon et al., 2025): of the noise that the negative side sees, what lies along the direction that both
    /// sides see most of.
    Tangential,
    Projected(Projection),
    Frequencies(Frequencies),
}

/// APG (Sadat et al., 2024): how guidance is bent.
#[derive(Clone, Copy, Debug)]
pub struct Projection {
    /// How much counts of what lies along the positive estimate.
    pub eta: f64,
    /// The longest that guidance may be; 0 is no limit.
    pub longest: f64,
    /// How much counts of the guidance of former steps.
    pub momentum: f64,
}

/// FreSca (Huang et al., 2025): factors of what guidance adds in coarse and in fine.
#[derive(Clone, Copy, Debug)]
pub struct Frequencies {
    pub low: f64,
    pub high: f64,
    /// Waves over the latent's side up to which something is coarse.
    pub cutoff: usize,
}

/// What a preparation remembers in a run.
#[derive(Default)]
pub struct Remembered {
    average: Option<Tensor>,
    sigma: Option<f64>,
}

/// Positive and negative estimate; what was not asked is `None`, and counts as 0 where it must count.
pub type Both = [Option<Tensor>; 2];

impl Preparation {
    pub fn apply(
        &self,
        memory: &mut Remembered,
        both: Both,
        x: &Tensor,
        (sigma, cfg): (f64, f64),
    ) -> Result<Both> {
        Ok(match (self, both) {
            (Self::Difference(change), [Some(positive), Some(negative)]) => {
                [Some((change(&(positive - &negative)?)? + &negative)?), Some(negative)]
            }
            (Self::Difference(change), [Some(positive), None]) => [Some(change(&positive)?), None],
            (Self::Tangential, [Some(positive), Some(negative)]) => {
                let negative = (x - tangential(&(x - &positive)?, &(x - negative)?)?)?;
                [Some(positive), Some(negative)]
            }
            (Self::Projected(projection), [Some(positive), negative]) => {
                let difference = match &negative {
                    Some(negative) => (&positive - negative)?,
                    None => positive.clone(),
                };
                let guidance = projection.bend(memory, &difference, &positive, sigma)?;
                // Guidance multiplies by `cfg`, which takes back this division.
                let positive = (guidance + (difference / cfg)?)?;
                let positive = match &negative {
                    Some(negative) => (positive + negative)?,
                    None => positive,
                };
                [Some(positive), negative]
            }
            (Self::Frequencies(factors), [Some(positive), Some(negative)]) => {
                [Some((factors.weigh(&(positive - &negative)?)? + &negative)?), Some(negative)]
            }
            (_, both) => both,
        })
    }
}

/// The part of the negative side's noise along the direction in which both together are longest, for each item of the
/// batch: the first right singular vector of the two.
fn tangential(positive: &Tensor, negative: &Tensor) -> Result<Tensor> {
    let products = |a: &Tensor, b: &Tensor| (a * b)?.flatten_from(1)?.sum(1)?.to_vec1::<f32>();
    let (negatives, both, positives) =
        (products(negative, negative)?, products(negative, positive)?, products(positive, positive)?);
    let mut shares = [Vec::new(), Vec::new()];
    for ((n, b), p) in negatives.into_iter().zip(both).zip(positives) {
        let (n, b, p) = (f64::from(n), f64::from(b), f64::from(p));
        let longest = f64::midpoint(n, p) + ((n - p) / 2.0).hypot(b);
        // The direction is this much of the negative and of the positive noise: an eigenvector of their products.
        let [u, v] = if n >= p { [longest - p, b] } else { [b, longest - n] };
        let along = (u * n + v * b) / (longest * (u * u + v * v)).max(f64::MIN_POSITIVE);
        shares[0].push((along * u) as f32);
        shares[1].push((along * v) as f32);
    }
    let mut shape = vec![1; positive.rank()];
    shape[0] = positive.dim(0)?;
    let [of_negative, of_positive] =
        shares.map(|share| Tensor::from_vec(share, shape.as_slice(), positive.device()));
    Ok((negative.broadcast_mul(&of_negative?)? + positive.broadcast_mul(&of_positive?)?)?)
}

/// The sum over the last three axes: of each channel, where there are frames.
fn summed(x: &Tensor) -> Result<Tensor> {
    Ok(x.sum_keepdim((x.rank() - 3, x.rank() - 2, x.rank() - 1))?)
}

impl Projection {
    fn bend(
        &self,
        memory: &mut Remembered,
        difference: &Tensor,
        along: &Tensor,
        sigma: f64,
    ) -> Result<Tensor> {
        // Noise that grows is another run, or a step back in it.
        if memory.sigma.replace(sigma).is_some_and(|former| sigma > former) {
            memory.average = None;
        }
        let mut guidance = difference.clone();
        if self.momentum != 0.0 {
            if let Some(average) = &memory.average {
                guidance = ((average * self.momentum)? + guidance)?;
            }
            memory.average = Some(guidance.clone());
        }
        if self.longest > 0.0 {
            let length = summed(&guidance.sqr()?)?.sqrt()?;
            guidance = guidance.broadcast_mul(&(length.recip()? * self.longest)?.minimum(1f32)?)?;
        }
        let direction = along.broadcast_div(&summed(&along.sqr()?)?.sqrt()?.maximum(1e-12f32)?)?;
        let parallel = direction.broadcast_mul(&summed(&(&guidance * &direction)?)?)?;
        Ok((guidance + (parallel * (self.eta - 1.0))?)?)
    }
}

impl Frequencies {
    /// Multiplies coarse waves by one factor, and fine ones by the other. Like ComfyUI's, the limit holds for frames
    /// as well, by their numbers: a single one has nothing coarse.
    fn weigh(&self, x: &Tensor) -> Result<Tensor> {
        let fine = (x * self.high)?;
        let (h, w) = (x.dim(D::Minus2)?, x.dim(D::Minus1)?);
        let [rows, columns] = [coarse(h, self.cutoff, x.device())?, coarse(w, self.cutoff, x.device())?];
        let planes = x.flatten_to(x.rank() - 3)?.contiguous()?;
        let part = |index: usize| -> Result<Tensor> {
            let rows = rows[index].broadcast_left(planes.dim(0)?)?.contiguous()?;
            let columns = columns[index].t()?.broadcast_left(planes.dim(0)?)?.contiguous()?;
            Ok(rows.matmul(&planes)?.matmul(&columns)?.reshape(x.shape())?)
        };
        let mut low = ((part(0)? - part(1)?)? * (self.low - self.high))?;
        if x.rank() == 5 {
            let frames = x.dim(2)?;
            let (middle, reach) = (frames / 2, self.cutoff.min(frames / 2));
            let counts = (0..frames).map(|frame| (middle - reach..middle + reach).contains(&frame));
            let counts: Vec<f32> = counts.map(|counts| f32::from(u8::from(counts))).collect();
            low = low.broadcast_mul(&Tensor::from_vec(counts, (frames, 1, 1), x.device())?)?;
        }
        Ok((fine + low)?)
    }
}

/// Real and imaginary part of the matrix that keeps the waves from `-cutoff` to `cutoff - 1` of a row of numbers.
fn coarse(side: usize, cutoff: usize, device: &Device) -> Result<[Tensor; 2]> {
    let reach = cutoff.min(side / 2) as i64;
    let sum = |distance: i64, wave: fn(f64) -> f64| -> f32 {
        let angle = |number: i64| TAU * (number * distance).rem_euclid(side as i64) as f64 / side as f64;
        ((-reach..reach).map(|number| wave(angle(number))).sum::<f64>() / side as f64) as f32
    };
    let matrix = |wave: fn(f64) -> f64| {
        let of: Vec<f32> = (0..side as i64).map(|distance| sum(distance, wave)).collect();
        let values: Vec<f32> = (0..side * side).map(|at| of[(at / side + side - at % side) % side]).collect();
        Tensor::from_vec(values, (side, side), device)
    };
    Ok([matrix(f64::cos)?, matrix(f64::sin)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the Fourier transform of PyTorch: three frames of 4x5, of which the first two are coarse.
    #[test]
    fn coarse_waves_are_those_of_the_transform() {
        let expected = [
            -0.10175, 0.27614, 0.6395, 0.64171, 0.224, -0.25078, -0.42586, -0.43446, -0.31524, -0.07287,
            0.38843, 0.47633, 0.37792, 0.16833, -0.1069, -0.40628, -0.56324, -0.26844, 0.2353, 0.5489,
            0.68636, 0.68932, 0.39303, -0.0404, -0.3243, -0.46802, -0.27716, 0.0223, 0.3152, 0.48463,
            0.37214, 0.12217, -0.17581, -0.42206, -0.50311, -0.1706, 0.25344, 0.61443, 0.69928, 0.52769,
            0.13545, -0.20646, -0.45128, -0.48385, -0.28886, 0.04199, 0.35309, 0.49812, 0.40888, 0.12734,
            -0.21409, -0.45483, -0.48166, -0.28196, 0.05036, 0.35899, 0.49878, 0.40399, 0.11919, -0.22166,
        ];
        let values: Vec<f32> = (0..60).map(|index| (index as f32 * 0.7).sin()).collect();
        let x = Tensor::from_vec(values, (1, 1, 3, 4, 5), &Device::Cpu).unwrap();
        let weighed = Frequencies { low: 1.5, high: 0.5, cutoff: 1 }.weigh(&x).unwrap();
        let found = weighed.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 2e-5, "{found}, not {expected}");
        }
    }
}
