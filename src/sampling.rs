//! Turning noise into latents: schedules, samplers, guidance, noise.
//!
//! Deliberately knows no graphs, no sockets and no progress bars.

pub mod noise;

pub use noise::Noise;
