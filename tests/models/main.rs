//! Networks and their files, against recorded tensors.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/safetensors.rs"]
mod safetensors;

mod weights;
