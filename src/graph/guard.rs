//! The one place where a panic of node code is caught, so that it ends a node and not the server.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs code of a node; a panic comes back as its message.
///
/// Asserting unwind safety is sound here: values are immutable, and what a node may have left half
/// changed is its own memory, which the caller drops.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
    })
}
