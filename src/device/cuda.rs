//! Kernels for graphics cards: how they are launched, what they compute, and whether they do.
//!
//! The sources are in `kernels/`. A launch is described without a card, so whatever carries it out gets the same grid,
//! memory and arguments: a graphics card (with the feature `cuda`), or the processor acting one out (`tests/kernels`).

#[cfg(feature = "cuda")]
pub mod card;
pub mod cases;
pub mod launch;
pub mod machine;
pub mod twins;

/// What went wrong on a machine, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {told}")]
pub struct Fault {
    /// The kernel's name, or what else was being done.
    pub doing: String,
    pub told: String,
}

impl Fault {
    pub fn new(doing: impl Into<String>, told: impl ToString) -> Self {
        Self { doing: doing.into(), told: told.to_string() }
    }
}

pub type Result<T = (), E = Fault> = std::result::Result<T, E>;
