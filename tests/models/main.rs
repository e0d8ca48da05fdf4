//! Networks and their files, against recorded tensors.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/golden.rs"]
mod golden;
#[path = "../support/safetensors.rs"]
mod safetensors;
#[path = "../support/tiny_kin.rs"]
mod tiny_kin;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;
#[path = "../support/tiny_qwen_21.rs"]
mod tiny_qwen_21;

mod adapters;
mod allocations;
mod bf16;
mod eight_bits;
mod layered;
mod pictures;
mod qwen_image;
mod qwen_image_2_1_vae;
