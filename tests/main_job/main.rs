//! The main job as a client does it: photos up, the official edit graph in, progress, a picture out.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/golden.rs"]
mod golden;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;

mod bad_models;
mod edit;
mod instructions;

use serde_json::Value as Json;

/// A recorded workflow.
fn workflow(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(golden::path(&format!("workflows/{name}.json"))).unwrap()).unwrap()
}

/// A recorded input picture.
fn photo(name: &str) -> Vec<u8> {
    std::fs::read(golden::path(&format!("input/{name}"))).unwrap()
}
