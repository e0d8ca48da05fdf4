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

/// What is added to one tensor, in the order it was added.
#[derive(Clone)]
pub struct Patched {
    pub patches: Vec<Patch>,
    /// Where draws of noise start when the sum is rounded.
    pub seed: u32,
}

/// The patches of a network. Several may sit on one tensor; they add up.
#[derive(Clone, Default)]
pub struct Patches(HashMap<String, Patched>);

impl Patches {
    /// Adds a patch to the tensor called `name`. The seed belongs to the tensor.
    pub fn add(&mut self, name: String, seed: u32, patch: Patch) {
        let patched = self.0.entry(name).or_insert_with(|| Patched { patches: Vec::new(), seed });
        patched.patches.push(patch);
    }

    pub fn of(&self, name: &str) -> Option<&Patched> {
        self.0.get(name)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
