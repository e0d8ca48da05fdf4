//! The web interface: installing the official one, comfyd's own page in a real browser, and clients whose
//! websocket comes late.
#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "../support/server.rs"]
mod server;
#[path = "../api/toys.rs"]
mod toys;

mod browser;
mod install;
mod late_sockets;
mod mirror;
mod own_page;
