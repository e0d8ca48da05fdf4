//! Additions to stored matrices (what a LoRA file holds), by the name of the tensor they belong to.

use std::collections::HashMap;

use super::Stored;

/// `factor * up @ down`, added to a matrix. `up`: (out, rank), `down`: (rank, in).
#[derive(Clone)]
pub struct Patch {
    pub up: Stored,
    pub down: Stored,
    pub factor: f64,
}

/// The patches of a network. Several may sit on one tensor; they add up.
#[derive(Clone, Default)]
pub struct Patches(HashMap<String, Vec<Patch>>);

impl Patches {
    /// Adds a patch to the tensor called `name`.
    pub fn add(&mut self, name: String, patch: Patch) {
        self.0.entry(name).or_default().push(patch);
    }

    pub fn of(&self, name: &str) -> &[Patch] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
