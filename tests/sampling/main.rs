//! Noise, schedules, samplers and whole runs, compared with what ComfyUI computed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checkpoints;
mod noise;
mod samplers;
mod schedule;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

/// A recorded file of the tiny checkpoints.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen-tiny").join(name)
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden(name), &Device::Cpu).unwrap()
}
