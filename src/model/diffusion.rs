//! Diffusion models: which families there are, and how a file finds its own.

use std::sync::Arc;

use super::card::Card;
use super::{Compute, Diffusion, Error, Result, recognise};
use crate::weights::{File, Storage, Weights};

mod axes;
mod leases;
mod qwen_image;
mod qwen_image_21;
mod time;

pub use qwen_image::{BlockControl, QwenControlNet, QwenFunControlNet, QwenImage};
pub use qwen_image_21::QwenImage21;

/// One architecture.
pub trait Family: Sync {
    /// Its name, as shown in messages.
    fn name(&self) -> &'static str;

    /// Whether a network of this family lies at `weights`.
    fn claims(&self, weights: &Weights) -> bool;

    fn load(&self, weights: Weights, options: Options) -> Result<Arc<dyn Diffusion>>;
}

/// Every family, searched in this order.
pub const FAMILIES: &[&dyn Family] = &[&qwen_image::Family, &qwen_image_21::Family];

/// What the user chose when loading.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub storage: Storage,
    pub compute: Compute,
    /// The graphics card that computes what it can, in BF16 whatever the rest computes in.
    pub card: Option<Card>,
    /// Whether it rounds the large matrices of blocks to eight bits, to multiply whole numbers.
    pub eight_bits_on_card: bool,
}

/// Where diffusion models lie in files of various origins.
const PLACES: &[&str] =
    &["", "model.diffusion_model", "model.model", "net", "model", "diffusion_model", "transformer"];

/// Loads the diffusion model of a file, whichever family it belongs to.
pub fn load(file: Arc<File>, options: Options) -> Result<Arc<dyn Diffusion>> {
    let (family, weights) = detect(&file)?;
    family.load(weights.stored_as(options.storage), options)
}

/// The family that claims the file, and the place its network lies at.
pub fn detect(file: &Arc<File>) -> Result<(&'static dyn Family, Weights)> {
    PLACES
        .iter()
        .map(|place| Weights::new(file.clone(), place))
        .find_map(|weights| {
            let family = FAMILIES.iter().find(|family| family.claims(&weights))?;
            Some((*family, weights))
        })
        .ok_or_else(|| Error::OtherKind {
            file: file.name(),
            expected: "a diffusion model",
            supported: FAMILIES.iter().map(|family| family.name()).collect(),
            found: recognise::kind(file.header()),
        })
}
