//! The kernels of graphics cards without a card: their own sources, acted out on the processor (`kernels/host.h`).

#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/streams.rs"]
mod streams;
#[path = "../support/tiny_kin.rs"]
mod tiny_kin;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;
#[path = "../support/tiny_qwen_21.rs"]
mod tiny_qwen_21;

mod agreement;
mod edit;
mod host;
mod language;
mod network;
mod ptxas;
mod safety;
mod vae;
mod vision;
