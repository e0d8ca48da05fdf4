//! A diffusion transformer's parts in memory: everything around the blocks, then the blocks.

use crate::device::residency::Use;
use crate::weights::{Resident, Weights};

pub const ENDS: usize = 0;
pub const BLOCKS: usize = 1;

/// The parts of a network in memory, its blocks being below `prefix`.
pub fn resident(weights: &Weights, network: &str, prefix: &str, blocks: usize) -> Resident {
    let names = (0..blocks).map(|index| format!("block {index}"));
    let names = std::iter::once("what is around the blocks".to_owned()).chain(names).collect();
    weights.resident(network, names, BLOCKS, Use::Often, |tensor| match tensor.strip_prefix(prefix) {
        Some(inside) => Some(BLOCKS + inside.split('.').next()?.parse::<usize>().ok()?),
        None => Some(ENDS),
    })
}
