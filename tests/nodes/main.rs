//! What the nodes that need no weights make of pixels, masks and texts.
#![expect(clippy::float_cmp, reason = "what is compared is exact")]

mod decoding;
mod filters;
mod resizing;
