//! Getting model files: from a hub on this machine that speaks the real one's routes, and misbehaves.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod arriving;
mod command;
mod hub;
mod kills;
mod misbehaviour;
mod site;
