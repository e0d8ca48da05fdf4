//! Pictures of few colours: a palette by median cut, and pixels brought to it with or without dithering.
//!
//! Palette and pixels are those of Pillow, to the bit: its order of equal boxes, its table of nearest colours in steps of
//! four, its whole-number errors.

use std::collections::HashMap;

use super::{Image, Result};

type Color = [u8; 3];

/// How pixels are brought to the palette.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dither {
    Nearest,
    FloydSteinberg,
    /// An ordered pattern; its side is two to this power.
    Bayer(u32),
}

/// The pictures in `colors` colours at most each, in RGB.
pub fn quantized(image: &Image, colors: usize, dither: Dither) -> Result<Image> {
    let mut image = image.with_channels(3);
    let width = image.width();
    for frame in image.frames_mut() {
        let mut pixels: Vec<Color> = frame
            .chunks_exact(3)
            .map(|pixel| [pixel[0], pixel[1], pixel[2]].map(|x| (x * 255.0) as u8))
            .collect();
        let mut palette = Palette::of(&pixels, colors);
        match dither {
            Dither::Nearest => palette.bring(&mut pixels),
            Dither::FloydSteinberg => palette.bring_with_errors(&mut pixels, width),
            Dither::Bayer(power) => {
                add_pattern(&mut pixels, width, power, palette.colors.len());
                palette.bring(&mut pixels);
            }
        }
        for (to, from) in frame.iter_mut().zip(pixels.as_flattened()) {
            *to = f32::from(*from) / 255.0;
        }
    }
    Ok(image)
}

/// A box of colours, each with how often it is there.
struct Part {
    colors: Vec<(Color, u32)>,
    count: u64,
    /// The boxes it was cut into.
    halves: Option<[usize; 2]>,
}

impl Part {
    fn new(colors: Vec<(Color, u32)>) -> Self {
        let count = colors.iter().map(|(_, count)| u64::from(*count)).sum();
        Self { colors, count, halves: None }
    }

    /// The channel along which it is longest, as the eye sees it; `None` if it is one colour.
    fn longest(&self) -> Option<usize> {
        const WEIGHTS: [u32; 3] = [77, 150, 29];
        let length = |channel: usize| {
            let values = || self.colors.iter().map(|(color, _)| u32::from(color[channel]));
            (values().max().unwrap_or(0) - values().min().unwrap_or(0)) * WEIGHTS[channel]
        };
        // The first of equal ones.
        let longest = (0..3).rev().max_by_key(|channel| length(*channel))?;
        (length(longest) > 0).then_some(longest)
    }

    /// Cuts it in two of about half its pixels each, the brighter one first.
    fn cut(&mut self, channel: usize) -> [Self; 2] {
        let mut counts = [0u64; 256];
        for (color, count) in &self.colors {
            counts[usize::from(color[channel])] += u64::from(*count);
        }
        let mut above = 0;
        let mut border = 255;
        for value in (0..=255u8).rev() {
            above += counts[usize::from(value)];
            border = value;
            if above * 2 > self.count {
                break;
            }
        }
        let lowest = counts.iter().position(|count| *count > 0).unwrap_or(0);
        if usize::from(border) == lowest {
            border += 1;
        }
        let bright = |(color, _): &(Color, u32)| color[channel] >= border;
        let (first, second) = std::mem::take(&mut self.colors).into_iter().partition(bright);
        [Self::new(first), Self::new(second)]
    }
}

/// Boxes by their number of pixels, largest first. What comes first of equal ones decides on the palette, so this is the
/// heap that Pillow has.
#[derive(Default)]
struct Heap(Vec<(u64, usize)>);

impl Heap {
    fn push(&mut self, entry: (u64, usize)) {
        let mut place = self.0.len();
        self.0.push(entry);
        while place > 0 && entry.0 > self.0[(place - 1) / 2].0 {
            self.0[place] = self.0[(place - 1) / 2];
            place = (place - 1) / 2;
        }
        self.0[place] = entry;
    }

    fn pop(&mut self) -> Option<usize> {
        let last = self.0.pop()?;
        let Some(first) = self.0.first().copied() else { return Some(last.1) };
        let mut place = 0;
        while let Some(left) = self.0.get(2 * place + 1) {
            let right = self.0.get(2 * place + 2).filter(|right| left.0 < right.0);
            let (child, larger) = right.map_or((2 * place + 1, left), |right| (2 * place + 2, right));
            if last.0 > larger.0 {
                break;
            }
            self.0[place] = *larger;
            place = child;
        }
        self.0[place] = last;
        Some(first.1)
    }
}

struct Palette {
    colors: Vec<Color>,
    /// The nearest colour for each cube of four values a side, filled as they are asked for.
    nearest: Vec<Option<u8>>,
}

/// How many values a side of the cubes has for which the nearest colour is looked for once.
const CUBE: u8 = 4;

impl Palette {
    fn of(pixels: &[Color], most: usize) -> Self {
        let (scale, colors) = histogram(pixels);
        let parts = median_cut(colors, most);
        let boxes = leaves(&parts);
        let mut box_of = HashMap::new();
        for (index, part) in boxes.iter().enumerate() {
            box_of.extend(part.colors.iter().map(|(color, _)| (*color, index)));
        }
        let mut sums = vec![[0u64; 4]; boxes.len()];
        for pixel in pixels {
            let sum = &mut sums[box_of[&pixel.map(|value| value >> scale)]];
            for (sum, value) in sum.iter_mut().zip(pixel) {
                *sum += u64::from(*value);
            }
            sum[3] += 1;
        }
        let mean = |[r, g, b, count]: [u64; 4]| [r, g, b].map(|sum| (0.5 + sum as f64 / count as f64) as u8);
        Self { colors: sums.into_iter().map(mean).collect(), nearest: vec![None; 1 << 18] }
    }

    /// The colour nearest to the corner of the cube that a colour lies in; the first of equal ones.
    fn nearest(&mut self, color: Color) -> Color {
        let [r, g, b] = color.map(|value| usize::from(value / CUBE));
        let colors = &self.colors;
        let index = *self.nearest[(r << 12) | (g << 6) | b].get_or_insert_with(|| {
            let corner = color.map(|value| value / CUBE * CUBE);
            let distance = |other: &Color| -> u32 {
                corner.iter().zip(other).map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum()
            };
            let nearest = colors.iter().enumerate().min_by_key(|(_, color)| distance(color));
            nearest.map_or(0, |(index, _)| index as u8)
        });
        self.colors[usize::from(index)]
    }

    fn bring(&mut self, pixels: &mut [Color]) {
        for pixel in pixels {
            *pixel = self.nearest(*pixel);
        }
    }

    /// What a pixel is off by goes on to its neighbours: 7, 3, 5 and 1 sixteenths to the right, and below from left to
    /// right.
    fn bring_with_errors(&mut self, pixels: &mut [Color], width: usize) {
        let mut below = vec![[0i32; 3]; width + 1];
        for row in pixels.chunks_mut(width) {
            let (mut right, mut left, mut last) = ([0; 3], [0; 3], [0; 3]);
            for (x, pixel) in row.iter_mut().enumerate() {
                for channel in 0..3 {
                    let error = (right[channel] + below[x + 1][channel]) / 16;
                    pixel[channel] = (i32::from(pixel[channel]) + error).clamp(0, 255) as u8;
                }
                let found = self.nearest(*pixel);
                for channel in 0..3 {
                    let off = i32::from(pixel[channel]) - i32::from(found[channel]);
                    right[channel] = 7 * off;
                    below[x][channel] = 3 * off + left[channel];
                    left[channel] = 5 * off + last[channel];
                    last[channel] = off;
                }
                *pixel = found;
            }
            // Pillow's slip: the last place of a row is given the errors of blue.
            below[width] = [left[2], last[2], last[2]];
        }
    }
}

/// The colours of the pixels with how often each is there, and by how many bits they are coarser than the pixels: there
/// are at most 65536.
fn histogram(pixels: &[Color]) -> (u32, Vec<(Color, u32)>) {
    const MOST: usize = 1 << 16;
    let mut scale = 0;
    loop {
        let mut sorted: Vec<Color> = pixels.iter().map(|pixel| pixel.map(|value| value >> scale)).collect();
        sorted.sort_unstable();
        let runs = sorted.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u32));
        let colors: Vec<_> = runs.collect();
        if colors.len() <= MOST {
            return (scale, colors);
        }
        scale += 1;
    }
}

/// Cuts the box with most pixels until there are so many boxes, or none has more than one colour.
fn median_cut(colors: Vec<(Color, u32)>, most: usize) -> Vec<Part> {
    let mut parts = vec![Part::new(colors)];
    let mut heap = Heap::default();
    heap.push((parts[0].count, 0));
    for _ in 1..most {
        let found = std::iter::from_fn(|| heap.pop()).find_map(|part| Some((part, parts[part].longest()?)));
        let Some((part, channel)) = found else { break };
        let halves = parts[part].cut(channel);
        parts[part].halves = Some([parts.len(), parts.len() + 1]);
        for half in halves {
            heap.push((half.count, parts.len()));
            parts.push(half);
        }
    }
    parts
}

/// The boxes that were not cut, brighter ones before the others they were cut from.
fn leaves(parts: &[Part]) -> Vec<&Part> {
    let mut leaves = Vec::new();
    let mut waiting = vec![0];
    while let Some(index) = waiting.pop() {
        match parts[index].halves {
            Some([first, second]) => waiting.extend([second, first]),
            None => leaves.push(&parts[index]),
        }
    }
    leaves
}

/// Brightens and darkens pixels by a pattern of thresholds, the more the fewer colours there are.
fn add_pattern(pixels: &mut [Color], width: usize, power: u32, colors: usize) {
    let side = 1usize << power;
    let spread = (2.0 * 256.0 / colors as f64) as f32;
    let pattern: Vec<f32> = bayer(power).into_iter().map(|value| spread * value + 0.5).collect();
    for (y, row) in pixels.chunks_mut(width).enumerate() {
        for (x, pixel) in row.iter_mut().enumerate() {
            let add = pattern[y % side * side + x % side];
            *pixel = pixel.map(|value| (f32::from(value) + add).clamp(0.0, 255.0) as u8);
        }
    }
}

/// Bayer's matrix of the side two to `power`, around zero: each one is four of the one before.
fn bayer(power: u32) -> Vec<f32> {
    let mut matrix = vec![0.0f32];
    for step in 1..=power {
        let (half, values) = (1usize << (step - 1), 4f32.powi(step as i32));
        let offset = |bottom: bool, right: bool| match (bottom, right) {
            (false, false) => -1.5,
            (false, true) => 0.5,
            (true, false) => 1.5,
            (true, true) => -0.5,
        };
        let side = 2 * half;
        let at = |place: usize| {
            let (y, x) = (place / side, place % side);
            let before = values * matrix[y % half * half + x % half];
            (before + offset(y >= half, x >= half)) / values
        };
        matrix = (0..side * side).map(at).collect();
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordered_pattern_has_each_threshold_once() {
        assert_eq!(bayer(1), [-0.375, 0.125, 0.375, -0.125]);
        let mut sorted = bayer(4);
        sorted.sort_by(f32::total_cmp);
        assert!(sorted.windows(2).all(|pair| (pair[1] - pair[0] - 1.0 / 256.0).abs() < 1e-6));
    }

    #[test]
    fn a_picture_of_few_colours_keeps_them_where_they_lie_apart() {
        let pixels = [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 0]];
        let palette = Palette::of(&pixels, 256);
        assert_eq!(palette.colors, [[0, 255, 0], [255, 0, 0], [0, 0, 0]]);
        assert_eq!(Palette::of(&pixels, 1).colors, [[64, 64, 0]]);
    }

    #[test]
    fn more_colours_than_can_be_counted_are_taken_together() {
        let pixels: Vec<Color> = (0..70_000u32).map(|n| [n as u8, (n >> 8) as u8, (n >> 16) as u8]).collect();
        let (scale, colors) = histogram(&pixels);
        assert_eq!((scale, colors.len()), (1, 128 * 128));
    }
}
