//! Getting model files: from a hub on this machine that speaks the real one's routes, and misbehaves. And what
//! is said of the files that are there.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

#[expect(dead_code, reason = "not every test binary uses all of it")]
#[path = "../support/safetensors.rs"]
mod safetensors;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;

mod arriving;
mod command;
mod hub;
mod kills;
mod misbehaviour;
mod models;
mod site;
