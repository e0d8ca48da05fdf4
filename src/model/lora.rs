//! LoRA files: low-rank additions to a network's matrices, in the spellings of the trainers in use.
//!
//! Deliberately does not apply anything: a network is built again over the same mapped file, with these
//! patches beside its weights.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Error, Result};
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

/// What a module of the network may be called in a LoRA file: as it is, as other programs prefix it, and
/// with underscores for dots.
fn spellings(module: &str) -> [String; 5] {
    let underscored = module.replace('.', "_");
    [
        module.to_owned(),
        format!("diffusion_model.{module}"),
        format!("transformer.{module}"),
        format!("lora_unet_{underscored}"),
        format!("lycoris_{underscored}"),
    ]
}

/// The patches of `network` with those of a LoRA file added at `strength`. Keys of the file that fit
/// nothing are logged; two factors that do not fit their matrix are an error.
pub fn patches(network: &Weights, lora: Arc<File>, strength: f64) -> Result<Arc<Patches>> {
    let lora = Weights::new(lora, "");
    let mut unknown: BTreeSet<&str> = lora.header().names("").collect();
    let mut patches = network.all_patches().clone();
    for (module, [outputs, inputs]) in matrices(network) {
        let found = spellings(&module)
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
        for name in [&factors.names[0], &factors.names[1], &alpha] {
            unknown.remove(name.as_str());
        }
        let [up, down] = factors.read(&lora)?;
        let target = network.full_name(&format!("{module}.weight"));
        patches.add(target, Patch { up, down, factor: strength * scale });
    }
    if !unknown.is_empty() {
        let some: Vec<&str> = unknown.iter().take(5).copied().collect();
        tracing::warn!(
            "{}: {} of its keys fit nothing in this model and were left out, such as {}",
            lora.file().name(),
            unknown.len(),
            some.join(", ")
        );
    }
    Ok(Arc::new(patches))
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
