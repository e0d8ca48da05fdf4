//! LoRA: changes of a network's tensors, from files in the spellings of the trainers in use.
//!
//! Deliberately does not apply anything: a network is built again over the same mapped file, with these
//! patches beside its weights.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Adapted, Result, merge};
use crate::weights::{File, Patches, Weights};

mod adapter;
mod delta;
pub mod extract;
mod module;
mod svd;

use module::Modules;

/// How the modules of a kind of network are called.
#[derive(Clone, Copy)]
pub struct Names {
    /// What the module of a tensor may be called in a LoRA file. A later one counts for more.
    pub spellings: fn(&str) -> Vec<String>,
    /// What stands before a tensor's name inside ComfyUI.
    pub place: &'static str,
}

/// Diffusion models: with underscores for dots, as they are, and as other programs prefix them.
pub const DIFFUSION: Names = Names {
    spellings: |tensor| {
        let Some(module) = tensor.strip_suffix(".weight") else {
            return vec![format!("diffusion_model.{tensor}")];
        };
        let underscored = module.replace('.', "_");
        vec![
            format!("lora_unet_{underscored}"),
            format!("diffusion_model.{module}"),
            module.to_owned(),
            format!("transformer.{module}"),
            format!("lycoris_{underscored}"),
        ]
    },
    place: "diffusion_model.",
};

/// What changes a network, and how much that counts.
#[derive(Clone)]
pub struct Lora {
    pub source: Source,
    pub strength: f64,
}

/// Where changes come from.
#[derive(Clone)]
pub enum Source {
    /// A LoRA file.
    File(Arc<File>),
    /// Another network: its difference to the one that is changed, as that is without any changes.
    Network(Arc<Weights>),
}

impl Lora {
    pub fn new(file: Arc<File>, strength: f64) -> Self {
        Self { source: Source::File(file), strength }
    }
}

impl PartialEq for Lora {
    /// The very same source, opened once.
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.source, &other.source) {
            (Source::File(one), Source::File(other)) => Arc::ptr_eq(one, other),
            (Source::Network(one), Source::Network(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        same && self.strength.total_cmp(&other.strength).is_eq()
    }
}

impl Source {
    /// The file's name.
    pub fn name(&self) -> String {
        match self {
            Self::File(file) => file.name(),
            Self::Network(weights) => weights.file().name(),
        }
    }
}

/// The patches of `network` with those of LoRAs added in turn, and the keys of the files they came from. Tensors of a
/// LoRA file that do not fit the one they change are an error.
pub fn patches(network: &Weights, loras: &[Lora], names: Names) -> Result<Adapted<Patches>> {
    let mut patches = network.all_patches().clone();
    let mut used = BTreeSet::new();
    for lora in loras {
        used.extend(match &lora.source {
            Source::File(file) => add(&mut patches, network, file.clone(), lora.strength, names)?,
            Source::Network(other) => {
                merge::add_difference(&mut patches, network, other, names.place, lora.strength)
            }
        });
    }
    Ok(Adapted { network: Arc::new(patches), used })
}

/// Adds the patches of one file; gives the keys they came from.
fn add(
    patches: &mut Patches,
    network: &Weights,
    lora: Arc<File>,
    strength: f64,
    names: Names,
) -> Result<BTreeSet<String>> {
    let lora = Weights::new(lora, "");
    let modules = Modules::of(&lora);
    let mut used = BTreeSet::new();
    for (tensor, shape) in network.tensors() {
        let spellings = (names.spellings)(&tensor);
        let found = spellings.iter().rev().find_map(|spelling| modules.find(spelling));
        let Some(mut found) = found else { continue };
        // ComfyUI's seed for the rounding of a patched tensor is the checksum of its name there.
        let seed = |tensor: &str| crc32fast::hash(format!("{}{tensor}", names.place).as_bytes());
        if let Some(patch) = found.patch(&tensor, shape, strength)? {
            patches.add(network.full_name(&tensor), seed(&tensor), patch);
        }
        let bias = tensor.strip_suffix(".weight").map(|module| format!("{module}.bias"));
        if let Some((bias, shape)) = bias.and_then(|bias| Some((bias.clone(), network.shape(&bias)?)))
            && let Some(patch) = found.bias_patch(&bias, shape, strength)?
        {
            patches.add(network.full_name(&bias), seed(&bias), patch);
        }
        used.extend(found.into_used());
    }
    Ok(used)
}

/// Tells which keys of a LoRA file fit nothing, if any. `used`: those that fit.
pub fn report_unknown(lora: &File, used: &BTreeSet<String>) -> usize {
    let unknown: Vec<&str> = lora.header().names("").filter(|name| !used.contains(*name)).collect();
    if !unknown.is_empty() {
        tracing::warn!(
            "{}: {} of its keys fit nothing in this model and were left out, such as {}",
            lora.name(),
            unknown.len(),
            unknown[..unknown.len().min(5)].join(", ")
        );
    }
    unknown.len()
}
