//! Scaling of float pixels as PyTorch's `interpolate` does it: half-pixel centres, no antialiasing,
//! all sums in f32. `Lanczos` alone goes through 8-bit pictures, see [`super::pillow`].

use rayon::prelude::*;

use super::pillow::{self, Kernel};
use super::pixels::{to_byte, zeros};
use super::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    NearestExact,
    Bilinear,
    /// Mean over the source pixels a target pixel covers, whole pixels only (adaptive average pooling).
    Area,
    /// Keys' cubic with a = -0.75.
    Bicubic,
    /// 8 bits: values are cut off to bytes, so also clipped to 0..1.
    Lanczos,
}

/// What happens to a picture whose aspect is not that of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crop {
    /// It is stretched.
    Disabled,
    /// The middle is kept.
    Center,
}

/// The corner and size of the middle part of `from` that has the aspect of `to`; (width, height) each.
pub fn center_crop(from: (usize, usize), to: (usize, usize)) -> ((usize, usize), (usize, usize)) {
    let (width, height) = (from.0 as f64, from.1 as f64);
    let aspect = width / height;
    let wanted = to.0 as f64 / to.1 as f64;
    let margin = |side: f64, share: f64| ((side - side * share) / 2.0).round_ties_even() as usize;
    let (mut x, mut y) = (0, 0);
    if aspect > wanted {
        x = margin(width, wanted / aspect);
    } else if aspect < wanted {
        y = margin(height, aspect / wanted);
    }
    ((x, y), (from.0 - 2 * x, from.1 - 2 * y))
}

/// Scales each picture of `from`, laid out as `[n, height, width, channels]`, to `(width, height)`.
/// Latents come as `[n * channels, height, width, 1]`.
pub fn resize(
    from: &[f32],
    shape: [usize; 4],
    (width, height): (usize, usize),
    filter: Filter,
) -> Result<Vec<f32>> {
    let [batch, from_height, from_width, channels] = shape;
    assert_eq!(from.len(), shape.iter().product::<usize>(), "the data must fill the shape {shape:?}");
    for (width, height) in [(width, height), (from_width, from_height)] {
        if width == 0 || height == 0 {
            return Err(Error::NoPixels { width, height });
        }
    }
    let mut to = zeros(&[batch, height, width, channels])?;
    if to.is_empty() {
        return Ok(to);
    }
    if filter == Filter::Lanczos {
        lanczos(from, shape, (width, height), &mut to);
        return Ok(to);
    }
    let columns = taps(filter, from_width, width);
    let rows = taps(filter, from_height, height);
    to.par_chunks_mut(width * channels).enumerate().for_each(|(index, row)| {
        let picture = &from[index / height * from_height * from_width * channels..];
        let source = Rows { picture, length: from_width * channels, channels };
        match filter {
            Filter::Area => source.mean(&rows[index % height], &columns, row),
            _ => source.weigh(&rows[index % height], &columns, row),
        }
    });
    Ok(to)
}

/// The source pixels one target pixel is made of, along one axis.
struct Taps {
    /// The first source pixel; `Area` takes `count` pixels from here on.
    first: usize,
    count: usize,
    /// Source pixel and weight, for the weighted filters.
    weighted: Vec<(usize, f32)>,
}

fn taps(filter: Filter, from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|target| match filter {
            Filter::Area => {
                let first = target * from / to;
                Taps { first, count: ((target + 1) * from).div_ceil(to) - first, weighted: Vec::new() }
            }
            Filter::Bilinear => weighted(linear(scale, target, from)),
            Filter::Bicubic => weighted(cubic(scale, target, from)),
            Filter::NearestExact | Filter::Lanczos => {
                let source = ((target as f64 + 0.5) * f64::from(scale)) as f32;
                weighted(vec![((source as usize).min(from - 1), 1.0)])
            }
        })
        .collect()
}

fn weighted(weighted: Vec<(usize, f32)>) -> Taps {
    Taps { first: 0, count: 0, weighted }
}

fn linear(scale: f32, target: usize, from: usize) -> Vec<(usize, f32)> {
    let position = scale.mul_add(target as f32 + 0.5, -0.5).max(0.0);
    let first = (position as usize).min(from - 1);
    let share = (position - first as f32).clamp(0.0, 1.0);
    vec![(first, 1.0 - share), ((first + 1).min(from - 1), share)]
}

fn cubic(scale: f32, target: usize, from: usize) -> Vec<(usize, f32)> {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let position = scale.mul_add(target as f32 + 0.5, -0.5);
    let share = position - position.floor();
    let weights = [far(share + 1.0), near(share), near(1.0 - share), far(2.0 - share)];
    let first = position.floor() as i64 - 1;
    let inside = |offset: usize| (first + offset as i64).clamp(0, from as i64 - 1) as usize;
    weights.into_iter().enumerate().map(|(offset, weight)| (inside(offset), weight)).collect()
}

/// The rows of one source picture.
struct Rows<'a> {
    picture: &'a [f32],
    /// Values per row.
    length: usize,
    channels: usize,
}

impl Rows<'_> {
    fn row(&self, index: usize) -> &[f32] {
        &self.picture[index * self.length..(index + 1) * self.length]
    }

    /// Fills one target row: along the row first, then across, as PyTorch orders the sums.
    fn weigh(&self, down: &Taps, across: &[Taps], to: &mut [f32]) {
        for &(index, row_weight) in &down.weighted {
            let source = self.row(index);
            for (pixel, taps) in to.chunks_exact_mut(self.channels).zip(across) {
                for (channel, value) in pixel.iter_mut().enumerate() {
                    let along = taps
                        .weighted
                        .iter()
                        .map(|(index, weight)| source[index * self.channels + channel] * weight)
                        .sum::<f32>();
                    *value += along * row_weight;
                }
            }
        }
    }

    /// Fills one target row with means over whole source pixels.
    fn mean(&self, down: &Taps, across: &[Taps], to: &mut [f32]) {
        for row in down.first..down.first + down.count {
            let source = self.row(row);
            for (pixel, taps) in to.chunks_exact_mut(self.channels).zip(across) {
                let window = &source[taps.first * self.channels..(taps.first + taps.count) * self.channels];
                for source_pixel in window.chunks_exact(self.channels) {
                    pixel.iter_mut().zip(source_pixel).for_each(|(sum, value)| *sum += value);
                }
            }
        }
        for (pixel, taps) in to.chunks_exact_mut(self.channels).zip(across) {
            for sum in pixel {
                *sum /= (down.count * taps.count) as f32;
            }
        }
    }
}

fn lanczos(from: &[f32], [_, height, width, channels]: [usize; 4], to: (usize, usize), into: &mut [f32]) {
    let sources = from.chunks_exact(height * width * channels);
    for (source, target) in sources.zip(into.chunks_exact_mut(to.0 * to.1 * channels)) {
        let bytes: Vec<u8> = source.par_iter().map(|value| to_byte(*value)).collect();
        let bytes = pillow::resize(bytes, channels, (width, height), to, Kernel::Lanczos);
        target.par_iter_mut().zip(bytes).for_each(|(value, byte)| *value = f32::from(byte) / 255.0);
    }
}
