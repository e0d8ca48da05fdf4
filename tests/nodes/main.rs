//! What the nodes that need no weights make of pixels, masks and texts.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::float_cmp, reason = "what is compared is exact")]

#[path = "../support/server.rs"]
mod server;

mod animated;
mod decoding;
mod filters;
mod judged;
mod newer;
mod object_info;
mod plain_values;
mod recorded;
mod resizing;
mod saving;
mod workshop;
