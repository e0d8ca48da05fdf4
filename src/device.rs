//! Where tensors live and what the machine has: device choice and memory figures.
//!
//! Deliberately knows no files and no models.

pub mod ops;
