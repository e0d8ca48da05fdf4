//! The files at the top of the input, output and temp folders.

use std::sync::Arc;

use axum::extract::{Path as Part, State};
use axum::http::StatusCode;
use serde_json::Value as Json;

use super::App;
use super::reply::{Error, Result, json};
use super::route::Route;
use crate::paths::Kind;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/internal/files/{kind}", files).alone()]
}

/// Names, the newest first.
async fn files(State(app): State<Arc<App>>, Part(kind): Part<String>) -> Result {
    let kind = Kind::from_word(&kind)
        .ok_or_else(|| Error::words(StatusCode::BAD_REQUEST, "Invalid directory type"))?;
    let names = app.blocking(move |app| {
        let Ok(entries) = std::fs::read_dir(app.folders().of(kind)) else { return Vec::new() };
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let about = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
                let name = entry.file_name().to_string_lossy().into_owned();
                (!name.starts_with('.')).then(|| (about.modified().ok(), name))
            })
            .collect();
        files.sort_by(|one, other| other.cmp(one));
        files.into_iter().map(|(_, name)| name).collect()
    });
    Ok(json(&names.await?.into_iter().collect::<Json>()))
}
