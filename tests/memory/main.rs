//! Which weights are in memory: under budgets, on a simulated card and in mapped files; and plans of that.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod card;
mod commands;
mod mapped;
mod once;
mod owner;
mod published;

#[path = "../support/streams.rs"]
mod streams;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;
