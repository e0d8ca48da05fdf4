//! Scaling of 8-bit pixels, bit for bit as Pillow does it: antialiased, first along rows and then
//! across them, each pass in fixed-point numbers with 22 bits behind the point.

use std::f64::consts::PI;

use rayon::prelude::*;

/// The curve that weighs source pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// A triangle.
    Bilinear,
    /// A sinc under the main lobe of a sinc three times as wide.
    Lanczos,
}

impl Kernel {
    /// How far the curve reaches, in source pixels at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

/// Bits behind the point: 32 less 8 for the value and 2 against overflow.
const PRECISION: u32 = 22;

/// Scales (height, width, channels) bytes; sizes are (width, height). Four channels are taken as RGBA:
/// colours are weighed by their alpha.
pub(super) fn resize(
    bytes: Vec<u8>,
    channels: usize,
    from: (usize, usize),
    to: (usize, usize),
    kernel: Kernel,
) -> Vec<u8> {
    if from == to {
        return bytes;
    }
    if channels != 4 {
        return resize_planes(bytes, channels, from, to, kernel);
    }
    let mut bytes = bytes;
    bytes.par_chunks_exact_mut(4).for_each(premultiply);
    let mut bytes = resize_planes(bytes, channels, from, to, kernel);
    bytes.par_chunks_exact_mut(4).for_each(unpremultiply);
    bytes
}

fn premultiply(pixel: &mut [u8]) {
    let alpha = u32::from(pixel[3]);
    for value in &mut pixel[..3] {
        let product = u32::from(*value) * alpha + 128;
        *value = (((product >> 8) + product) >> 8) as u8;
    }
}

fn unpremultiply(pixel: &mut [u8]) {
    let alpha = u32::from(pixel[3]);
    for value in &mut pixel[..3] {
        // Pillow leaves fully transparent colours alone.
        if let Some(whole) = (255 * u32::from(*value)).checked_div(alpha) {
            *value = whole.min(255) as u8;
        }
    }
}

fn resize_planes(
    bytes: Vec<u8>,
    channels: usize,
    (from_width, from_height): (usize, usize),
    (width, height): (usize, usize),
    kernel: Kernel,
) -> Vec<u8> {
    let rows = if width == from_width {
        bytes
    } else {
        let taps = taps(kernel, from_width, width);
        let mut narrow = vec![0; from_height * width * channels];
        narrow.par_chunks_mut(width * channels).zip(bytes.par_chunks(from_width * channels)).for_each(
            |(to, from)| {
                for (pixel, tap) in to.chunks_exact_mut(channels).zip(&taps) {
                    for (channel, value) in pixel.iter_mut().enumerate() {
                        *value = tap.sum(from, channels, channel);
                    }
                }
            },
        );
        narrow
    };
    if height == from_height {
        return rows;
    }
    let taps = taps(kernel, from_height, height);
    let length = width * channels;
    let mut scaled = vec![0; height * length];
    scaled.par_chunks_mut(length).zip(&taps).for_each(|(to, tap)| {
        for (column, value) in to.iter_mut().enumerate() {
            *value = tap.sum(&rows, length, column);
        }
    });
    scaled
}

/// The source pixels one target pixel is made of, and their weights in fixed point.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

impl Tap {
    /// The weighted sum of values `stride` apart, beginning `offset` into the first pixel.
    fn sum(&self, from: &[u8], stride: usize, offset: usize) -> u8 {
        let values = from[self.first * stride + offset..].iter().step_by(stride);
        let sum = values.zip(&self.weights).map(|(value, weight)| i32::from(*value) * weight).sum::<i32>();
        ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
    }
}

fn taps(kernel: Kernel, from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    // A smaller target widens the curve, so that every source pixel counts.
    let stretch = scale.max(1.0);
    let support = kernel.support() * stretch;
    (0..to)
        .map(|target| {
            let center = (target as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let weight = |index| kernel.weight((index as f64 - center + 0.5) * (1.0 / stretch));
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let total: f64 = weights.iter().sum();
            Tap { first, weights: weights.into_iter().map(|weight| fixed_point(weight / total)).collect() }
        })
        .collect()
}

fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION);
    (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}
