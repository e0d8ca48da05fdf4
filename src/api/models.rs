//! What lies in the model folders: names, sizes, header metadata.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Path as Part, State};
use axum::http::StatusCode;
use serde_json::{Map, Value as Json, json};

use super::App;
use super::files::inside;
use super::reply::{Error, Result, json};
use super::request::Query;
use super::route::Route;
use crate::paths::MODEL_FOLDERS;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/models", folders),
        Route::get("/models/{folder}", names),
        Route::get("/embeddings", embeddings),
        Route::get("/experiment/models", folders_with_paths),
        Route::get("/experiment/models/{folder}", files),
        Route::get("/view_metadata/{folder}", metadata),
        Route::get("/internal/folder_paths", folder_paths).alone(),
    ]
}

fn keys() -> impl Iterator<Item = &'static str> {
    MODEL_FOLDERS.iter().map(|(key, _)| *key)
}

fn known(folder: &str) -> Result<()> {
    if keys().any(|key| key == folder) { Ok(()) } else { Err(Error::empty(StatusCode::NOT_FOUND)) }
}

async fn folders() -> Result {
    Ok(json(&keys().collect::<Json>()))
}

async fn names(State(app): State<Arc<App>>, Part(folder): Part<String>) -> Result {
    known(&folder)?;
    Ok(json(&app.blocking(move |app| app.folders().model_names(&folder)).await?.into()))
}

/// Names as prompts use them: without their suffix.
async fn embeddings(State(app): State<Arc<App>>) -> Result {
    let names = app.blocking(|app| app.folders().model_names("embeddings")).await?;
    let plain = names.iter().map(|name| name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem));
    Ok(json(&plain.collect::<Json>()))
}

fn paths_of(app: &App, key: &str) -> Json {
    // No models lie there and nothing is loaded from there, but clients expect to be told of it.
    if key == "custom_nodes" {
        return json!([app.folders().base.join(key).to_string_lossy()]);
    }
    app.folders().model_folders(key).iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

async fn folders_with_paths(State(app): State<Arc<App>>) -> Result {
    let shown = keys().filter(|key| !["configs", "custom_nodes"].contains(key));
    Ok(json(&shown.map(|key| json!({"name": key, "folders": paths_of(&app, key)})).collect()))
}

async fn folder_paths(State(app): State<Arc<App>>) -> Result {
    let paths: Map<_, _> = keys().map(|key| (key.to_owned(), paths_of(&app, key))).collect();
    Ok(json(&paths.into()))
}

async fn files(State(app): State<Arc<App>>, Part(folder): Part<String>) -> Result {
    known(&folder)?;
    Ok(json(&app.blocking(move |app| describe_all(app, &folder)).await?))
}

fn describe_all(app: &App, key: &str) -> Json {
    let names = app.folders().model_names(key);
    let folders = app.folders().model_folders(key);
    let places = folders.iter().enumerate();
    let mut seen = BTreeSet::new();
    places
        .flat_map(|(index, folder)| names.iter().map(move |name| (index, name, folder.join(name))))
        .filter_map(|(index, name, path)| {
            let about = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
            seen.insert(path).then(|| {
                let modified = seconds(about.modified().ok());
                let created = seconds(about.created().ok().or(about.modified().ok()));
                json!({"name": name, "pathIndex": index, "modified": modified, "created": created, "size": about.len()})
            })
        })
        .collect()
}

/// Seconds since 1970, as Python's file times.
pub(super) fn seconds(time: Option<SystemTime>) -> f64 {
    time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .map_or(0.0, |since| since.as_secs_f64())
}

/// The free-form notes in the header of a safetensors file.
async fn metadata(State(app): State<Arc<App>>, Part(folder): Part<String>, query: Query) -> Result {
    let missing = || Error::empty(StatusCode::NOT_FOUND);
    let name = query.get("filename").filter(|name| name.ends_with(".safetensors")).ok_or_else(missing)?;
    let name = name.to_owned();
    let notes = app.blocking(move |app| {
        inside(&name)?;
        read_notes(&app.folders().model(&folder, &name).ok()?, LARGEST_HEADER)
    });
    let notes = notes.await?;
    notes.map(|notes| json(&notes)).ok_or_else(missing)
}

/// Headers beyond a mebibyte are not read; ComfyUI answers 404 for them as well.
const LARGEST_HEADER: u64 = 1 << 20;

/// What `__metadata__` in the header of a safetensors file holds.
pub(super) fn read_notes(path: &Path, largest_header: u64) -> Option<Json> {
    let mut file = std::fs::File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = Some(u64::from_le_bytes(length)).filter(|length| *length <= largest_header)?;
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).ok()?;
    let header: Json = serde_json::from_slice(&header).ok()?;
    header.get("__metadata__").cloned()
}
