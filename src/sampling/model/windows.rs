//! Context windows: a latent is predicted in overlapping parts of one of its axes, and their estimates are blended.

use candle_core::Tensor;

use crate::sampling::Result;

/// How a latent is cut, and how its parts become one again.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// The axis of (batch, channels, frames, h, w).
    pub axis: usize,
    pub length: usize,
    /// How many places neighbouring windows share.
    pub overlap: usize,
    /// Up to how many times the places of a window may be twice as far apart; for [`Order::Uniform`] and
    /// [`Order::Looped`].
    pub stride: usize,
    /// Whether windows go on across the end; for [`Order::Looped`].
    pub closed: bool,
    pub order: Order,
    pub blend: Blend,
}

/// Where windows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The same in each step.
    Static,
    /// Moved from step to step, but never across an end.
    Uniform,
    /// Moved from step to step, from the end on at the beginning.
    Looped,
    /// Side by side without overlap.
    Batched,
}

/// How much a place of a window counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blend {
    /// The more the farther from both ends.
    Pyramid,
    /// The same, as a share of the whole length.
    Relative,
    Flat,
    /// Less only where windows overlap.
    Linear,
}

/// The places of one window along the axis.
type Window = Vec<usize>;

impl Windows {
    /// The windows of an axis of `count` places in one step of a run; each place is in one of them at least.
    pub fn places(&self, count: usize, step: usize) -> Vec<Window> {
        let mut windows = match self.order {
            Order::Static => self.side_by_side(count, self.length - self.overlap),
            Order::Batched => (0..count)
                .step_by(self.length)
                .map(|start| (start..count.min(start + self.length)).collect())
                .collect(),
            Order::Looped => self.moved(count, step, self.closed),
            Order::Uniform => straightened(self.moved(count, step, false), count, self.length),
        };
        while let Some(open) = (0..count).find(|place| !windows.iter().any(|window| window.contains(place))) {
            windows.push(from(open, count, self.length));
        }
        windows
    }

    fn side_by_side(&self, count: usize, apart: usize) -> Vec<Window> {
        let mut windows = Vec::new();
        for start in (0..count).step_by(apart.max(1)) {
            windows.push(from(start, count, self.length));
            if start + self.length >= count {
                break;
            }
        }
        windows
    }

    /// Windows of places 1, 2, 4, ... apart, moved by a share of the whole that is another one in each step.
    fn moved(&self, count: usize, step: usize, closed: bool) -> Vec<Window> {
        // 0, 1/2, 1/4, 3/4, 1/8, ...
        let share = (step as u64).reverse_bits() as f64 / 2f64.powi(64);
        let doublings = (count as f64 / self.length as f64).log2().ceil() as usize + 1;
        let by = (count as f64 * share).round_ties_even() as usize;
        let end = if closed { count + by } else { (count + by).saturating_sub(self.overlap) };
        let mut windows = Vec::new();
        for power in 0..self.stride.min(doublings) {
            let apart = 1 << power;
            let first = (share * apart as f64) as usize + by;
            let starts = (first..end).step_by((self.length * apart - self.overlap).max(1));
            windows.extend(
                starts.map(|start| (0..self.length).map(|place| (start + place * apart) % count).collect()),
            );
        }
        windows
    }

    /// How much each place of a window counts.
    pub fn weights(&self, window: &[usize], count: usize) -> Vec<f32> {
        let length = window.len();
        let (Some(first), Some(last)) = (window.first(), window.last()) else { return Vec::new() };
        match self.blend {
            Blend::Flat => vec![1.0; length],
            Blend::Pyramid => (0..length).map(|place| (place + 1).min(length - place) as f32).collect(),
            Blend::Relative => {
                let (first, last) = (*first as f64, *last as f64);
                let half = f64::midpoint(last - first, 1e-2);
                let weight = |place: &usize| 1.0 - (*place as f64 - f64::midpoint(first, last)).abs() / half;
                window.iter().map(|place| weight(place).max(1e-2) as f32).collect()
            }
            Blend::Linear => self.ramps(window, count),
        }
    }

    fn ramps(&self, window: &[usize], count: usize) -> Vec<f32> {
        /// No place counts for nothing.
        const LEAST: f32 = 1e-37;
        let mut weights = vec![1.0; window.len()];
        let across = self.overlap.saturating_sub(1).max(1) as f32;
        let ramp = |place: usize| (place as f32 / across).max(LEAST);
        if !window.contains(&0) {
            weights
                .iter_mut()
                .take(self.overlap)
                .enumerate()
                .for_each(|(place, weight)| *weight = ramp(place));
        }
        if !window.contains(&(count - 1)) {
            // A ramp of one place down begins, and ends, at 1.
            let ramp = |place: usize| if self.overlap == 1 { 1.0 } else { ramp(place) };
            let ends = weights.iter_mut().rev().take(self.overlap);
            ends.enumerate().for_each(|(place, weight)| *weight = ramp(place));
        }
        weights
    }
}

/// The window from a place, or as far before it as it has to begin.
fn from(start: usize, count: usize, length: usize) -> Window {
    let start = start.min(count.saturating_sub(length));
    (start..count.min(start + length)).collect()
}

/// Moves windows that go on at the beginning to the end, with another one for what that leaves open, and drops those
/// that are there already.
fn straightened(mut windows: Vec<Window>, count: usize, length: usize) -> Vec<Window> {
    let mut place = 0;
    while place < windows.len() {
        let window = &windows[place];
        if let Some(turn) = window.windows(2).position(|pair| pair[1] < pair[0]) {
            let again = window[turn + 1];
            let first = window[0];
            let shifted: Window = window.iter().map(|at| (at + count - first) % count).collect();
            let to_end = count - 1 - shifted.last().copied().unwrap_or(0);
            windows[place] = shifted.into_iter().map(|at| (at + to_end) % count).collect();
            if !windows[(place + 1) % windows.len()].contains(&again) {
                windows.insert(place + 1, from(again, count, length));
            }
        }
        place += 1;
    }
    let mut kept: Vec<Window> = Vec::new();
    for window in windows {
        if !kept.contains(&window) {
            kept.push(window);
        }
    }
    kept
}

/// A mean of windows that grows.
pub struct Blending {
    sum: Tensor,
    weights: Tensor,
    axis: usize,
}

impl Blending {
    pub fn new(x: &Tensor, axis: usize) -> Result<Self> {
        let mut shape = vec![1; x.rank()];
        shape[axis] = x.dim(axis)?;
        Ok(Self { sum: x.zeros_like()?, weights: Tensor::zeros(shape, x.dtype(), x.device())?, axis })
    }

    /// Takes in the estimate of the places in `index`.
    pub fn add(&mut self, index: &Tensor, estimate: &Tensor, weights: &[f32]) -> Result<()> {
        let mut shape = vec![1; estimate.rank()];
        shape[self.axis] = weights.len();
        let weights = Tensor::from_slice(weights, shape, estimate.device())?;
        let weighed = estimate.broadcast_mul(&weights)?.contiguous()?;
        self.sum = self.sum.index_add(index, &weighed, self.axis)?;
        self.weights = self.weights.index_add(index, &weights, self.axis)?;
        Ok(())
    }

    pub fn mean(self) -> Result<Tensor> {
        Ok(self.sum.broadcast_div(&self.weights)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(order: Order) -> Windows {
        Windows { axis: 4, length: 4, overlap: 2, stride: 3, closed: false, order, blend: Blend::Pyramid }
    }

    #[test]
    fn static_windows_end_with_the_axis() {
        let places = windows(Order::Static).places(9, 5);
        assert_eq!(places, [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [5, 6, 7, 8]]);
    }

    #[test]
    fn windows_side_by_side_leave_a_short_one() {
        assert_eq!(windows(Order::Batched).places(6, 0), [vec![0, 1, 2, 3], vec![4, 5]]);
    }

    /// Whatever is asked for, each place is seen, and no window leaves the axis.
    #[test]
    fn every_place_is_in_a_window() {
        for order in [Order::Static, Order::Uniform, Order::Looped, Order::Batched] {
            for length in 1..8 {
                for overlap in 0..length {
                    for count in length + 1..20 {
                        for step in 0..6 {
                            let windows =
                                Windows { length, overlap, closed: step % 2 == 0, ..windows(order) };
                            let places = windows.places(count, step);
                            let all = places.concat();
                            assert!((0..count).all(|place| all.contains(&place)));
                            assert!(all.iter().all(|place| *place < count));
                            assert!(places.len() <= 4 * count, "{windows:?} {count}: {}", places.len());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn ramps_stand_only_where_windows_overlap() {
        let linear = Windows { blend: Blend::Linear, overlap: 3, ..windows(Order::Static) };
        assert_eq!(linear.weights(&[0, 1, 2, 3], 8), [1.0, 1.0, 0.5, 1e-37]);
        assert_eq!(linear.weights(&[4, 5, 6, 7], 8), [1e-37, 0.5, 1.0, 1.0]);
    }
}
