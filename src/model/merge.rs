//! Merging: a network whose tensors are weighted sums of those of two networks.
//!
//! The other network's tensors are patches beside the first one's, read where they lie: nothing is copied.

use std::collections::BTreeSet;
use std::sync::Arc;

use rayon::prelude::*;

use crate::weights::{Change, Kept, Patch, Patched, Patches, Stored, Weights};

/// What each network gives: (this one, the other one).
pub type Shares = [f64; 2];

/// The patches of `network` with the tensors of `other` mixed in, wherever both have one of the same name and
/// shape. `shares` is asked with the names; `place` stands before them inside ComfyUI.
pub fn patches(
    network: &Weights,
    other: &Weights,
    place: &str,
    shares: &dyn Fn(&str) -> Shares,
) -> Arc<Patches> {
    let mut patches = network.all_patches().clone();
    add(&mut patches, network, other, place, &|name| Some(shares(name)));
    Arc::new(patches)
}

/// Adds `strength` times the difference of `other` to what the file of `network` has; gives the names of the tensors.
pub fn add_difference(
    patches: &mut Patches,
    network: &Weights,
    other: &Weights,
    place: &str,
    strength: f64,
) -> BTreeSet<String> {
    let names = add(patches, network, other, place, &|_| Some([1.0, strength]));
    let unchanged = network.clone().patched(Arc::default());
    add(patches, network, &unchanged, place, &|name| names.contains(name).then_some([1.0, -strength]));
    names
}

/// Adds patches of the tensors that both have and that have shares; gives their names.
fn add(
    patches: &mut Patches,
    network: &Weights,
    other: &Weights,
    place: &str,
    shares: &dyn Fn(&str) -> Option<Shares>,
) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (name, shape) in other.tensors() {
        // Scales belong to how a file keeps its matrices, and are counted in where those are read.
        let is_scale =
            [".scale_weight", ".weight_scale", ".comfy_quant"].iter().any(|end| name.ends_with(end))
                || name == "scaled_fp8";
        if is_scale || network.shape(&name) != Some(shape) {
            continue;
        }
        let Some(shares) = shares(&name) else { continue };
        let Ok(parameter) = other.parameter(&name) else { continue };
        let [mine, theirs] = shares.map(|share| share as f32);
        let matrix = name.strip_suffix("weight").map(|layer| other.at(layer.trim_end_matches('.')));
        let Ok(kept) = matrix.map(|at| Kept::read(&at, parameter.matrix())).transpose() else { continue };
        let kept = kept.unwrap_or_default();
        let mixed = Mixed { mine, theirs, parameter, kept, patched: other.patches(&name).cloned() };
        let seed = crc32fast::hash(format!("{place}{name}").as_bytes());
        patches.add(network.full_name(&name), seed, Patch::Whole(Arc::new(mixed)));
        names.insert(name);
    }
    names
}

/// A share of a tensor as it is, and a share of another one.
struct Mixed {
    mine: f32,
    theirs: f32,
    parameter: Stored,
    kept: Kept,
    patched: Option<Patched>,
}

impl Change for Mixed {
    fn apply(&self, values: &mut [f32], [_, columns]: [usize; 2]) {
        let mut other = self.parameter.to_vec();
        self.kept.restore(0, &mut other, columns);
        if let Some(patched) = &self.patched {
            patched.apply(0, &mut other, columns);
        }
        values.par_iter_mut().zip(&other).with_min_len(1 << 14).for_each(|(value, other)| {
            *value = *value * self.mine + other * self.theirs;
        });
    }
}
