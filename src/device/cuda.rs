//! Kernels for graphics cards: how they are launched, what they compute, and whether they do.
//!
//! The sources are in `kernels/`. A launch is described without a card, so whatever carries it out gets the same grid,
//! memory and arguments: a graphics card (with the feature `cuda`), or the processor acting one out (`tests/kernels`).
//! Weights come and leave through `store`, which knows machines only.

#[cfg(feature = "cuda")]
pub mod card;
pub mod cases;
pub mod launch;
pub mod machine;
pub mod store;
pub mod twins;

/// What went wrong on a machine, in its own words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{doing}: {told}")]
pub struct Fault {
    /// The kernel's name, or what else was being done.
    pub doing: String,
    pub told: String,
    /// Bytes of memory that were asked for and are not there, if that is it.
    pub refused: Option<u64>,
}

impl Fault {
    pub fn new(doing: impl Into<String>, told: impl ToString) -> Self {
        Self { doing: doing.into(), told: told.to_string(), refused: None }
    }

    /// Memory that a machine does not have.
    pub fn refused(bytes: usize) -> Self {
        let doing = format!("taking {bytes} bytes of the card's memory");
        Self { refused: Some(bytes as u64), ..Self::new(doing, "there are none") }
    }
}

pub type Result<T = (), E = Fault> = std::result::Result<T, E>;
