//! The server as clients meet it: real HTTP and websockets, real files.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "../support/process.rs"]
mod program;
#[path = "../support/server.rs"]
mod server;

mod bad_input;
mod files;
mod job_list;
mod jobs;
mod process;
mod routes;
mod sockets;
mod toys;
mod userdata;
