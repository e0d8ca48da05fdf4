//! The web root: the folder of `--front-end-root`, or the installed version of the official web interface, or
//! comfyd's own page.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::App;
use super::files::{answer, content_type};
use super::gate::{Admitted, is_picture};
use super::page;
use super::reply::{Error, Result, json};
use super::route::{Route, wrong_method};
use crate::frontend;
use crate::paths::normalise;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/", root), Route::get("/extensions", extensions)]
}

impl App {
    /// The folder with the web interface. Asked anew each time, because versions may be installed meanwhile.
    pub(super) fn web_root(&self) -> Option<PathBuf> {
        let installed = || frontend::active(&self.folders().web).map(|active| active.root);
        self.settings.web_root.clone().or_else(installed)
    }
}

async fn root(State(app): State<Arc<App>>, request: Parts) -> Result {
    let mut response = index(&app, &request).await?;
    for (name, value) in
        [(header::CACHE_CONTROL, "no-cache"), (header::PRAGMA, "no-cache"), (header::EXPIRES, "0")]
    {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

async fn index(app: &App, request: &Parts) -> Result {
    if let Some(root) = app.web_root() {
        return file(app, request, &root.join("index.html"), "text/html").await;
    }
    let pass = request.extensions.get::<Admitted>().and_then(|admitted| admitted.0);
    Ok(page::show(app, pass.as_ref()))
}

async fn file(app: &App, request: &Parts, path: &Path, content_type: &str) -> Result {
    app.blocking(|_| answer(&request.method, &request.headers, path, content_type)).await?
}

/// Every path that is no route: files of the web root.
pub(super) async fn fallback(State(app): State<Arc<App>>, request: Parts) -> Result {
    let method = &request.method;
    if ![Method::GET, Method::HEAD].contains(method) {
        return Ok(wrong_method(method, &BTreeSet::new()));
    }
    let path = percent_encoding::percent_decode_str(request.uri.path()).decode_utf8_lossy();
    let path = path.trim_start_matches('/');
    if path == "index.html" {
        return index(&app, &request).await;
    }
    let file = app.web_root().zip(normalise(Path::new(path))).map(|(root, path)| root.join(path));
    match file {
        Some(file) if file.is_dir() => Err(Error::empty(StatusCode::FORBIDDEN)),
        Some(file) if file.is_file() => self::file(&app, &request, &file, content_type(path)).await,
        _ => Ok(missing(path)),
    }
}

/// ComfyUI lets clients keep the absence of a static picture for a day, unlike that of others.
fn missing(path: &str) -> Response {
    let mut response = Error::not_found().into_response();
    if path.rsplit('.').next().is_some_and(is_picture) {
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400"));
    }
    response
}

/// The scripts the web interface loads as extensions: one of ours, and those below `extensions/` of the web root.
async fn extensions(State(app): State<Arc<App>>) -> Response {
    let mut scripts = vec![page::EXTENSION.to_owned()];
    if let Some(root) = app.web_root() {
        scripts.extend(scripts_below(&root));
    }
    scripts.sort_unstable();
    json(&scripts.into())
}

fn scripts_below(root: &Path) -> Vec<String> {
    let mut scripts = Vec::new();
    let mut folders = vec![root.join("extensions")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|suffix| suffix == "js") {
                scripts.extend(address(root, &path));
            }
        }
    }
    scripts
}

fn address(root: &Path, file: &Path) -> Option<String> {
    Some(format!("/{}", file.strip_prefix(root).ok()?.to_string_lossy().replace('\\', "/")))
}
