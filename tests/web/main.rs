//! What browsers and late clients meet.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "../support/server.rs"]
mod server;
#[path = "../api/toys.rs"]
mod toys;

mod late_sockets;
