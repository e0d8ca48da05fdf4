//! Who is let in, how, and what the others are told: real servers, real sockets, real files.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "../support/server.rs"]
mod server;

mod floods;
mod login;
mod matrix;
mod scopes;
mod setup;
mod tokens;
mod visitor;
