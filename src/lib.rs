//! comfyd: a native ComfyUI-compatible inference server.
//!
//! The modules below stand in layers; a module may import only from rows above it in this list, and
//! `tests/tidy.rs` holds the same table as data. `ARCHITECTURE.md` is the long version of this page.
//!
//! | row | modules | own |
//! |---|---|---|
//! | 0 | [`stop`], [`paths`], [`device`], [`python_json`], [`http_client`] | the wish to stop; folders; device, its memory and who owns it; JSON as Python spells it; how other servers are asked |
//! | 1 | [`weights`], [`image`], [`auth`], [`frontend`], [`fetch`], [`graph`] | tensors on disk; pixels; who may come in; the official web interface; model files from the hub; what a workflow means |
//! | 2 | [`model`] | networks and families |
//! | 3 | [`sampling`] | turning noise into latents |
//! | 4 | [`nodes`] | what users can put in a graph |
//! | 5 | [`queue`] | which job runs when, and what is remembered |
//! | 6 | [`api`] | the wire |
//! | 7 | [`cli`] | assembling all of it |
//!
//! Invariants, most of them absences:
//! - Async stops at the queue; everything below is blocking code on a worker thread.
//! - No global mutable state; progress, stop flag, client and device arrive as arguments.
//! - Wire shapes live in `api`; lower layers hold plain data.
//! - A value is immutable: a LoRA or a shift makes a new `Model`, nothing is patched in place.
//! - Sizes come from tensor names and shapes; the tiny checkpoint runs the code of the 20 GB one.
//! - One copy of each network; precision, fp8 scales and LoRA live inside `Linear`.
//! - Every loop that can last a second can be stopped.

pub mod api;
pub mod auth;
pub mod cli;
pub mod device;
pub mod fetch;
pub mod frontend;
pub mod graph;
pub mod http_client;
pub mod image;
pub mod model;
pub mod nodes;
pub mod paths;
pub mod python_json;
pub mod queue;
pub mod sampling;
pub mod stop;
pub mod weights;
