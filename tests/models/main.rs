//! Networks and their files, against recorded tensors.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/golden.rs"]
mod golden;
#[path = "../support/safetensors.rs"]
mod safetensors;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;

mod adapters;
mod bf16;
mod pictures;
mod qwen_image;
mod switching;
mod text;
mod text_tokens;
mod vae;
mod weights;
