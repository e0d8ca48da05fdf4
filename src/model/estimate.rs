//! What work costs, told before it is done: for plans, and to judge what was measured.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul};
use std::sync::Arc;

use super::parts::Linear;
use crate::weights::Parts;

/// One use of a network.
#[derive(Clone)]
pub struct Estimate {
    pub kind: Kind,
    pub network: Arc<Parts>,
    /// Memory that the work takes besides the weights, about.
    pub working_bytes: u64,
    /// The parts in the order in which they are used, with the work of each.
    pub parts: Vec<(usize, Work)>,
}

/// The reading of one prompt.
pub struct TextEstimate {
    /// One for each picture.
    pub looks: Vec<Estimate>,
    pub reading: Estimate,
    /// Tokens and their width in what is read.
    pub shape: [usize; 2],
}

/// What a network is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text encoder's, at a picture.
    Look,
    /// A text encoder's, of a prompt.
    Read,
    /// A VAE's, of a picture.
    Encode,
    /// A diffusion model's, for one timestep and all conditionings.
    Predict,
    /// A VAE's, of a latent.
    Decode,
}

/// Arithmetic, and what moves to and from the memory of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Floating point operations of products with weights, of attention, and of convolutions.
    pub products: f64,
    pub attention: f64,
    pub convolutions: f64,
    /// Those of products that a graphics card does with whole numbers, and the bytes that it moves around them.
    pub whole: f64,
    pub around_whole: f64,
    /// Numbers read and written between these.
    pub numbers: f64,
    /// Bytes of weights used, in the type of the file; as often as they are used.
    pub weights: f64,
}

impl Work {
    /// Of a matrix with so many rows.
    pub fn product(linear: &Linear, rows: usize) -> Self {
        let products = 2.0 * linear.inputs() as f64 * linear.outputs() as f64 * rows as f64;
        match linear.traffic_of_whole_numbers() {
            Some(each) => {
                Self { products, whole: products, around_whole: (each * rows) as f64, ..Self::default() }
            }
            None => Self { products, ..Self::default() },
        }
    }

    /// Of `queries` that look at `keys`, all heads together so wide.
    pub fn attention(queries: usize, keys: usize, width: usize) -> Self {
        Self { attention: 4.0 * queries as f64 * keys as f64 * width as f64, ..Self::default() }
    }

    /// Passes over rows of numbers.
    pub fn passes(count: f64, rows: usize, width: usize) -> Self {
        Self { numbers: count * rows as f64 * width as f64, ..Self::default() }
    }

    /// Floating point operations of all kinds.
    pub fn operations(&self) -> f64 {
        self.products + self.attention + self.convolutions
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            products: self.products + other.products,
            attention: self.attention + other.attention,
            convolutions: self.convolutions + other.convolutions,
            whole: self.whole + other.whole,
            around_whole: self.around_whole + other.around_whole,
            numbers: self.numbers + other.numbers,
            weights: self.weights + other.weights,
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

impl Mul<f64> for Work {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self {
            products: self.products * times,
            attention: self.attention * times,
            convolutions: self.convolutions * times,
            whole: self.whole * times,
            around_whole: self.around_whole * times,
            numbers: self.numbers * times,
            weights: self.weights * times,
        }
    }
}

impl Estimate {
    /// All of it.
    pub fn work(&self) -> Work {
        self.parts.iter().map(|(_, work)| *work).sum()
    }

    /// Counts the weights of each part as used so many times.
    #[must_use]
    pub(super) fn using_weights(mut self, times: usize) -> Self {
        for (part, work) in &mut self.parts {
            work.weights = times as f64 * self.network.parts[*part].bytes as f64;
        }
        self
    }
}
