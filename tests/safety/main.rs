//! What a stranger may send or leave undone without harm: real sockets, real files.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "../support/server.rs"]
mod server;
#[path = "../api/toys.rs"]
mod toys;

mod browsers;
mod crowds;
mod nonsense;
mod slowness;
mod traversal;
