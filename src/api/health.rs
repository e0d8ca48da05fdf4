//! For probes, which carry no token: that the server lives, and that it takes and runs jobs. Nothing else.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::App;
use super::reply::{Error, Result, json};
use super::route::Route;
use crate::queue::Readiness;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/health", health).open(), Route::get("/ready", ready).open()]
}

/// That the server serves. A server that ends still does: whoever restarts what is not healthy would cut its drain
/// short.
async fn health() -> Response {
    json(&json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

/// Whether a prompt sent now would be taken and run.
async fn ready(State(app): State<Arc<App>>) -> Result {
    let status = match app.queue.readiness() {
        Readiness::Ready => return Ok(json(&json!({"status": "ready"}))),
        Readiness::Starting => "starting",
        Readiness::Draining => "draining",
        Readiness::Dead => "dead",
    };
    Err(Error::json(StatusCode::SERVICE_UNAVAILABLE, json!({"status": status})))
}
