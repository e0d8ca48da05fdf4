//! LoRA files: low-rank additions to a network's matrices, in the spellings of the trainers in use.
//!
//! Deliberately does not apply anything: a network is built again over the same mapped file, with these
//! patches beside its weights.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Adapted, Error, Result};
use crate::weights::{File, Patch, Patches, Stored, Weights};

/// How the two factors of a module are called: what follows its name, for (up, down).
const PAIRS: &[(&str, &str)] = &[
    (".lora_up.weight", ".lora_down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora.up.weight", ".lora.down.weight"),
    (".lora_B", ".lora_A"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
];

/// How the modules of a kind of network are called.
#[derive(Clone, Copy)]
pub struct Names {
    /// What a module may be called in a LoRA file.
    pub spellings: fn(&str) -> Vec<String>,
    /// What stands before a module's name inside ComfyUI.
    pub place: &'static str,
}

/// Diffusion models: as they are, as other programs prefix them, and with underscores for dots.
pub const DIFFUSION: Names = Names {
    spellings: |module| {
        let underscored = module.replace('.', "_");
        vec![
            module.to_owned(),
            format!("diffusion_model.{module}"),
            format!("transformer.{module}"),
            format!("lora_unet_{underscored}"),
            format!("lycoris_{underscored}"),
        ]
    },
    place: "diffusion_model.",
};

/// The patches of `network` with those of a LoRA file added at `strength`, and the keys of the file they came
/// from. Two factors that do not fit their matrix are an error.
pub fn patches(network: &Weights, lora: Arc<File>, strength: f64, names: Names) -> Result<Adapted<Patches>> {
    let lora = Weights::new(lora, "");
    let mut used = BTreeSet::new();
    let mut patches = network.all_patches().clone();
    for (module, [outputs, inputs]) in matrices(network) {
        let found = (names.spellings)(&module)
            .into_iter()
            .find_map(|spelling| Some((Factors::find(&lora, &spelling)?, format!("{spelling}.alpha"))));
        let Some((factors, alpha)) = found else { continue };
        let rank = factors.rank;
        if (factors.up_shape, factors.down_shape) != ([outputs, rank], [rank, inputs]) {
            return Err(Error::Lora {
                file: lora.file().name(),
                module,
                expected: [outputs, inputs],
                found: [factors.up_shape, factors.down_shape],
            });
        }
        let scale = lora.scalar(&alpha)?.map_or(1.0, |alpha| f64::from(alpha) / rank as f64);
        let [up, down] = factors.read(&lora)?;
        used.extend(factors.names);
        used.extend(lora.has(&alpha).then_some(alpha));
        let target = network.full_name(&format!("{module}.weight"));
        // ComfyUI's seed for the rounding of a patched matrix is the checksum of its name there.
        let seed = crc32fast::hash(format!("{}{module}.weight", names.place).as_bytes());
        patches.add(target, seed, Patch { up, down, factor: strength * scale });
    }
    Ok(Adapted { network: Arc::new(patches), used })
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

/// Every module of the network that has a matrix, with its (outputs, inputs).
fn matrices(network: &Weights) -> Vec<(String, [usize; 2])> {
    let place = network.full_name("");
    let inside = if place.is_empty() { String::new() } else { format!("{place}.") };
    let header = network.header();
    let matrix = |name: &str| {
        let &[outputs, inputs] = header.shape(name)? else { return None };
        Some((name[inside.len()..].strip_suffix(".weight")?.to_owned(), [outputs, inputs]))
    };
    header.names(&inside).filter_map(matrix).collect()
}

/// The names and shapes of the two factors of one module.
struct Factors {
    names: [String; 2],
    up_shape: [usize; 2],
    down_shape: [usize; 2],
    rank: usize,
}

impl Factors {
    fn find(lora: &Weights, spelling: &str) -> Option<Self> {
        PAIRS.iter().find_map(|(up, down)| {
            let names = [format!("{spelling}{up}"), format!("{spelling}{down}")];
            let up_shape = lora.shape(&names[0])?.try_into().ok()?;
            let down_shape: [usize; 2] = lora.shape(&names[1])?.try_into().ok()?;
            Some(Self { names, up_shape, down_shape, rank: down_shape[0] })
        })
    }

    fn read(&self, lora: &Weights) -> Result<[Stored; 2]> {
        Ok([lora.stored(&self.names[0], &self.up_shape)?, lora.stored(&self.names[1], &self.down_shape)?])
    }
}
