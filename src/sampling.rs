//! Turning noise into latents: schedules, samplers, guidance, noise.
//!
//! Deliberately knows no graphs, no sockets and no progress bars.

pub mod noise;
pub mod schedule;

pub use noise::Noise;
