//! Working on a picture or video in overlapping tiles, when the whole would need too much memory.
//!
//! Tiles are blended with linear ramps where they overlap. Results differ a little from the whole, because
//! a tile does not see beyond its borders; the arrangement is ComfyUI's, so the difference is the same.

use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::model::Result;
use crate::model::parts::with_slices;

/// Sizes of tiles, and by how much neighbours overlap: (frames, rows, columns) of what goes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    pub tile: [usize; 3],
    pub overlap: [usize; 3],
}

impl Tiling {
    /// Square tiles of all frames.
    pub fn square(side: usize, overlap: usize) -> Self {
        Self { tile: [usize::MAX, side, side], overlap: [1, overlap, overlap] }
    }

    /// How many tiles an input of `size` has.
    pub fn count(&self, size: [usize; 3]) -> usize {
        self.places(size).len()
    }

    /// Where tiles lie in an input of `size`.
    fn places(&self, size: [usize; 3]) -> Vec<Place> {
        let axis = |axis: usize| ranges(size[axis], self.tile[axis], self.overlap[axis]);
        let mut places = Vec::new();
        for frames in axis(0) {
            for rows in axis(1) {
                places.extend(axis(2).into_iter().map(|columns| [frames.clone(), rows.clone(), columns]));
            }
        }
        places
    }
}

/// A tile: which frames, rows and columns of the input.
pub type Place = [Range<usize>; 3];

fn ranges(size: usize, tile: usize, overlap: usize) -> Vec<Range<usize>> {
    let step = tile.saturating_sub(overlap).max(1);
    let end = if size <= tile { 1 } else { size.saturating_sub(overlap) };
    (0..end).step_by(step).map(|start| start..size.min(start.saturating_add(tile))).collect()
}

/// How lengths and positions of an input become those of the output, per axis.
pub trait Scaling {
    fn length(&self, axis: usize, length: usize) -> usize;
    fn position(&self, axis: usize, position: usize) -> usize;
}

/// Calls `work` for each tile of an input of `size`, and blends what comes out: (channels, frames, h, w).
pub fn blend(
    size: [usize; 3],
    tiling: &Tiling,
    scale: &dyn Scaling,
    mut work: impl FnMut(&Place) -> Result<Tensor>,
) -> Result<Tensor> {
    let places = tiling.places(size);
    if let [whole] = places.as_slice() {
        return work(whole);
    }
    let scaled = |lengths: [usize; 3]| std::array::from_fn(|axis| scale.length(axis, lengths[axis]));
    let (full, feather): ([usize; 3], [usize; 3]) = (scaled(size), scaled(tiling.overlap));
    let mut sum = Sum::default();
    for place in &places {
        let tile = work(place)?;
        let (channels, frames, h, w) = tile.dims4()?;
        let at = std::array::from_fn(|axis| scale.position(axis, place[axis].start));
        let ramps = [frames, h, w];
        let ramps = std::array::from_fn(|axis| ramp(ramps[axis], feather[axis]));
        sum.add(&tile, channels, full, at, &ramps)?;
    }
    sum.finish(full)
}

/// Rises to one over the first `feather` steps and falls over the last; ones where there is no room.
fn ramp(length: usize, feather: usize) -> Vec<f32> {
    let mut weights = vec![1.0; length];
    if feather < length {
        for step in 0..feather {
            let weight = (step + 1) as f32 / feather as f32;
            weights[step] *= weight;
            weights[length - 1 - step] *= weight;
        }
    }
    weights
}

/// Weighted tiles, and the weights alone.
#[derive(Default)]
struct Sum {
    channels: usize,
    values: Vec<f32>,
    weights: Vec<f32>,
}

impl Sum {
    fn add(
        &mut self,
        tile: &Tensor,
        channels: usize,
        full: [usize; 3],
        at: [usize; 3],
        ramps: &[Vec<f32>; 3],
    ) -> Result<()> {
        let cells: usize = full.iter().product();
        self.channels = channels;
        self.values.resize(channels * cells, 0.0);
        self.weights.resize(cells, 0.0);
        let width = ramps[2].len();
        with_slices([tile], |[tile]| {
            for (index, row) in tile.chunks(width).enumerate() {
                let (y, rest) = (index % ramps[1].len(), index / ramps[1].len());
                let (frame, channel) = (rest % ramps[0].len(), rest / ramps[0].len());
                let start = ((at[0] + frame) * full[1] + at[1] + y) * full[2] + at[2];
                let weight = ramps[0][frame] * ramps[1][y];
                let out = &mut self.values[channel * cells + start..][..width];
                for ((out, value), ramp) in out.iter_mut().zip(row).zip(&ramps[2]) {
                    *out += value * (weight * ramp);
                }
                if channel == 0 {
                    for (sum, ramp) in self.weights[start..].iter_mut().zip(&ramps[2]) {
                        *sum += weight * ramp;
                    }
                }
            }
        })
    }

    fn finish(mut self, [frames, h, w]: [usize; 3]) -> Result<Tensor> {
        for plane in self.values.chunks_mut(self.weights.len()) {
            for (value, weight) in plane.iter_mut().zip(&self.weights) {
                *value /= weight;
            }
        }
        Ok(Tensor::from_vec(self.values, (self.channels, frames, h, w), &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_an_axis_and_the_last_is_shorter() {
        assert_eq!(ranges(20, 8, 2), [0..8, 6..14, 12..20]);
        assert_eq!(ranges(21, 8, 2), [0..8, 6..14, 12..20, 18..21]);
        assert_eq!(ranges(8, 8, 2).len(), 1);
        assert_eq!(ramp(5, 2), [0.5, 1.0, 1.0, 1.0, 0.5]);
        assert_eq!(ramp(2, 2), [1.0, 1.0]);
    }
}
