//! What the layers remember of the frames before.

use candle_core::Tensor;

/// One memory per layer that looks back, met in the order the layers run.
#[derive(Default)]
pub struct Past {
    slots: Vec<Vec<Tensor>>,
    next: usize,
    /// Nothing is worth keeping when no frames follow.
    last: bool,
}

impl Past {
    /// Begins the next group of frames; `last` when it is the final one.
    pub fn begin(&mut self, last: bool) {
        self.next = 0;
        self.last = last;
    }

    /// Whether the layer whose turn it is has seen frames before.
    pub fn begun(&self) -> bool {
        self.slots.get(self.next).is_some()
    }

    /// What the layer whose turn it is kept of earlier groups; `None` in the first.
    pub fn recall(&mut self) -> Option<Vec<Tensor>> {
        self.slots.get_mut(self.next).map(std::mem::take)
    }

    /// Keeps the last `count` of `frames` for the same layer, and passes the turn on.
    pub fn keep(&mut self, mut frames: Vec<Tensor>, count: usize) {
        let kept = if self.last { Vec::new() } else { frames.split_off(frames.len().saturating_sub(count)) };
        match self.slots.get_mut(self.next) {
            Some(slot) => *slot = kept,
            None => self.slots.push(kept),
        }
        self.next += 1;
    }
}
