//! Autoencoders: which there are, and how a file finds its own.

use std::sync::Arc;

use super::{Compute, Error, Result, Vae, recognise};
use crate::weights::{File, Weights};

mod network;
mod qwen_image_21;
pub(super) mod tiles;
mod wan;

pub use tiles::Tiling;

/// One architecture.
pub trait Family: Sync {
    /// Its name, as shown in messages.
    fn name(&self) -> &'static str;

    /// Whether an autoencoder of this family lies at `weights`.
    fn claims(&self, weights: &Weights) -> bool;

    fn load(&self, weights: Weights, compute: Compute) -> Result<Arc<dyn Vae>>;
}

/// Every family, searched in this order.
pub const VAES: &[&dyn Family] = &[&wan::Family, &qwen_image_21::Family];

/// Where autoencoders lie in files of various origins.
const PLACES: &[&str] = &["", "vae", "first_stage_model"];

/// Loads the autoencoder of a file, whichever family it belongs to.
pub fn load(file: Arc<File>, compute: Compute) -> Result<Arc<dyn Vae>> {
    let (family, weights) = detect(&file)?;
    family.load(weights, compute)
}

/// The family that claims the file, and the place its network lies at.
pub fn detect(file: &Arc<File>) -> Result<(&'static dyn Family, Weights)> {
    let claimed = PLACES.iter().map(|place| Weights::new(file.clone(), place)).find_map(|weights| {
        let family = VAES.iter().find(|family| family.claims(&weights))?;
        Some((*family, weights))
    });
    claimed.ok_or_else(|| Error::OtherKind {
        file: file.name(),
        expected: "a VAE",
        supported: VAES.iter().map(|family| family.name()).collect(),
        found: recognise::kind(file.header()),
    })
}
