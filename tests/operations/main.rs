//! What an operator counts on: jobs that survive crashes, an orderly end, figures that are true, one place for each
//! setting.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "../support/golden.rs"]
mod golden;
#[path = "../support/process.rs"]
mod program;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;

mod deployment;
mod ending;
mod figures;
mod idleness;
mod logging;
mod settings;
mod studio;
mod survival;
