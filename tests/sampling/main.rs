//! Noise, schedules, samplers and whole runs, compared with what ComfyUI computed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checkpoints;
#[path = "../support/golden.rs"]
mod golden;
mod noise;
mod recorded;
mod run;
mod samplers;
mod schedule;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;

use std::collections::HashMap;

use candle_core::{Device, Tensor};

/// The tensors of a recorded file.
fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden::path(name), &Device::Cpu).unwrap()
}
