//! The wish to stop, carried as an argument through every loop that can last a second.
//!
//! Owns one flag and the error it turns into. Knows nothing of jobs, graphs or tensors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag shared between whoever may press stop and whoever is working.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// Somebody asked for the work to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Stopped;

impl Stop {
    /// A flag nobody has raised yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop at its next checkpoint.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Lowers the flag again, before the next job begins.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Fails once [`Stop::request`] was called; the one call every long loop makes.
    pub fn check(&self) -> Result<(), Stopped> {
        if self.0.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
    }
}
