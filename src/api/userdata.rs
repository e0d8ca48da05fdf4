//! Files that clients keep on the server: saved workflows, templates, style sheets.
//!
//! One user, one folder: `user/default`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Path as Part, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value as Json, json};

use super::App;
use super::files::{answer, content_type, harmless, inside};
use super::models::seconds;
use super::reply::{Error, Result, json};
use super::request::{Query, Raw};
use super::route::Route;
use super::store;
use crate::paths::stays_below;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/userdata", list),
        Route::get("/v2/userdata", list_with_folders),
        Route::get("/userdata/{file}", read),
        Route::post("/userdata/{file}", write),
        Route::delete("/userdata/{file}", remove),
        Route::post("/userdata/{file}/move/{dest}", rename),
    ]
}

/// The folder of the only user.
pub(super) fn root(app: &App) -> PathBuf {
    app.folders().user.join("default")
}

/// The place a client names; `None` when it leads outside. ComfyUI decodes names once more than HTTP does.
fn place(app: &App, name: &str) -> Option<PathBuf> {
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    let (root, below) = (root(app), inside(&name)?);
    stays_below(&root, &below).then(|| root.join(below))
}

fn file(app: &App, name: &str) -> Result<PathBuf> {
    place(app, name).ok_or_else(|| Error::empty(StatusCode::FORBIDDEN))
}

fn existing(app: &App, name: &str) -> Result<PathBuf> {
    Some(file(app, name)?).filter(|path| path.exists()).ok_or_else(|| Error::empty(StatusCode::NOT_FOUND))
}

fn relative(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// What `full_info=true` tells of a file.
fn describe(path: &Path, folder: &Path) -> Option<Json> {
    let about = path.metadata().ok()?;
    let modified = about.modified().ok();
    Some(json!({
        "path": relative(path, folder),
        "size": about.len(),
        "modified": seconds(modified),
        "created": seconds(about.created().ok().or(modified)),
    }))
}

/// Whether a path is a folder to look into. Links are not: they may lead outside, or in circles.
fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|about| about.is_dir())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort_unstable();
    paths
}

/// Visible files of a folder, and of the folders below it.
fn files_below(folder: &Path, recurse: bool) -> Vec<PathBuf> {
    let hidden =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let (folders, mut files): (Vec<_>, Vec<_>) =
        entries(folder).into_iter().filter(|path| !hidden(path)).partition(|path| is_folder(path));
    files.retain(|path| path.is_file());
    if recurse {
        files.extend(folders.iter().flat_map(|folder| files_below(folder, true)));
    }
    files
}

async fn list(State(app): State<Arc<App>>, query: Query) -> Result {
    let folder = query.get("dir").filter(|dir| !dir.is_empty());
    let folder =
        folder.ok_or_else(|| Error::text(StatusCode::BAD_REQUEST, "The parameter `dir` is missing"))?;
    let folder = place(&app, folder)
        .ok_or_else(|| Error::text(StatusCode::FORBIDDEN, "`dir` leads outside the user's folder"))?;
    let (recurse, full, split) =
        (query.is_true("recurse"), query.is_true("full_info"), query.is_true("split"));
    let found = app.blocking(move |_| {
        folder.exists().then(|| {
            let tell = |path: PathBuf| {
                let name = relative(&path, &folder);
                match (full, split) {
                    (true, _) => describe(&path, &folder),
                    (false, true) => Some(std::iter::once(name.as_str()).chain(name.split('/')).collect()),
                    (false, false) => Some(name.into()),
                }
            };
            files_below(&folder, recurse).into_iter().filter_map(tell).collect::<Json>()
        })
    });
    let found = found.await?;
    found.map(|found| json(&found)).ok_or_else(|| Error::text(StatusCode::NOT_FOUND, "`dir` does not exist"))
}

async fn list_with_folders(State(app): State<Arc<App>>, query: Query) -> Result {
    let path = query.get("path").unwrap_or_default();
    let folder = place(&app, path)
        .ok_or_else(|| Error::text(StatusCode::BAD_REQUEST, "`path` leads outside the user's folder"))?;
    let root = root(&app);
    if !folder.exists() {
        // The user's own folder appears with the first file.
        let own = folder == root;
        let missing = || Error::text(StatusCode::NOT_FOUND, "`path` does not exist");
        return own.then(|| json(&json!([]))).ok_or_else(missing);
    }
    if !folder.is_dir() {
        return Err(Error::text(StatusCode::BAD_REQUEST, "`path` is a file, not a folder"));
    }
    let found = app.blocking(move |_| {
        let mut found = walk(&folder);
        found.sort_by_cached_key(|path| (!path.is_dir(), name_of(path).to_lowercase()));
        found.iter().map(|path| describe_entry(path, &root)).collect::<Json>()
    });
    Ok(json(&found.await?))
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = entries(folder);
    let below: Vec<_> = found.iter().filter(|path| is_folder(path)).flat_map(|folder| walk(folder)).collect();
    found.extend(below);
    found
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn describe_entry(path: &Path, root: &Path) -> Json {
    let (name, place) = (name_of(path), relative(path, root));
    match path.metadata() {
        Ok(about) if about.is_dir() => json!({"name": name, "path": place, "type": "directory"}),
        Ok(about) => {
            let modified = seconds(about.modified().ok());
            json!({"name": name, "path": place, "type": "file", "size": about.len(), "modified": modified})
        }
        Err(_) => json!({"name": name, "path": place, "type": "file"}),
    }
}

async fn read(
    State(app): State<Arc<App>>,
    Part(name): Part<String>,
    method: Method,
    headers: HeaderMap,
) -> Result {
    let path = existing(&app, &name)?;
    Ok(harmless(app.blocking(|_| answer(&method, &headers, &path, content_type(&name))).await??))
}

async fn write(
    State(app): State<Arc<App>>,
    Part(name): Part<String>,
    query: Query,
    Raw(body): Raw,
) -> Result {
    let path = file(&app, &name)?;
    free_to_write(&path, &query)?;
    let full = query.is_true("full_info");
    app.blocking(move |app| {
        store::write(&path, &body).map_err(|error| store::refusal("saving user data", &error))?;
        Ok(json(&told(&path, &root(app), full)))
    })
    .await?
}

async fn rename(
    State(app): State<Arc<App>>,
    Part((from, to)): Part<(String, String)>,
    query: Query,
) -> Result {
    let from = existing(&app, &from)?;
    let to = file(&app, &to)?;
    free_to_write(&to, &query)?;
    let full = query.is_true("full_info");
    app.blocking(move |app| {
        std::fs::create_dir_all(to.parent().unwrap_or(&to))
            .and_then(|()| std::fs::rename(&from, &to))
            .map_err(|error| store::refusal("moving user data", &error))?;
        Ok(json(&told(&to, &root(app), full)))
    })
    .await?
}

fn free_to_write(path: &Path, query: &Query) -> Result<()> {
    match query.get("overwrite") {
        Some("false") if path.exists() => Err(Error::text(StatusCode::CONFLICT, "File already exists")),
        _ => Ok(()),
    }
}

fn told(path: &Path, root: &Path, full: bool) -> Json {
    full.then(|| describe(path, root)).flatten().unwrap_or_else(|| relative(path, root).into())
}

async fn remove(State(app): State<Arc<App>>, Part(name): Part<String>) -> Result<Response> {
    let path = existing(&app, &name)?;
    std::fs::remove_file(path).map_err(|error| store::refusal("deleting user data", &error))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
