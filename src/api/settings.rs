//! Settings of the web interface, and the users they belong to.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value as Json, json};

use super::App;
use super::reply::{Error, Result, done, json};
use super::request::{Document, Object};
use super::route::Route;
use super::{store, userdata};
use crate::python_json;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/settings", all),
        Route::post("/settings", merge),
        Route::get("/settings/{id}", one),
        Route::post("/settings/{id}", set),
        Route::get("/users", users),
        Route::post("/users", add_user),
    ]
}

type Settings = Map<String, Json>;

fn path(app: &App) -> PathBuf {
    userdata::root(app).join("comfy.settings.json")
}

/// The saved settings; none when the file is missing or broken, which must not lock the user out.
fn load(app: &App) -> Settings {
    let Ok(bytes) = std::fs::read(path(app)) else { return Settings::new() };
    if let Ok(Json::Object(settings)) = python_json::read(&bytes) {
        return settings;
    }
    tracing::error!(path = %path(app).display(), "the settings are no JSON object and count as empty");
    Settings::new()
}

async fn change(app: &Arc<App>, change: impl FnOnce(&mut Settings) + Send + 'static) -> Result {
    app.blocking(move |app| {
        let _one_at_a_time = app.exclusive();
        let mut settings = load(app);
        change(&mut settings);
        let text = format!("{:#}", Json::Object(settings));
        store::write(&path(app), text.as_bytes())
            .map_err(|error| Error::internal("saving the settings", &error))
    })
    .await??;
    Ok(done())
}

async fn all(State(app): State<Arc<App>>) -> Result {
    Ok(json(&app.blocking(load).await?.into()))
}

async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result {
    let settings = app.blocking(load).await?;
    Ok(json(settings.get(&id).unwrap_or(&Json::Null)))
}

async fn merge(State(app): State<Arc<App>>, Object(new): Object) -> Result {
    change(&app, |settings| settings.extend(new)).await
}

async fn set(State(app): State<Arc<App>>, Path(id): Path<String>, Document(value): Document) -> Result {
    change(&app, |settings| drop(settings.insert(id, value))).await
}

async fn users(State(app): State<Arc<App>>) -> Response {
    json(&json!({"storage": "server", "migrated": userdata::root(&app).exists()}))
}

/// This server has one user. Others could be named in ComfyUI, too, but would share its folder all the same.
async fn add_user(Object(wish): Object) -> Result<Response> {
    let name = wish.get("username").and_then(Json::as_str).map(str::trim).unwrap_or_default();
    let sentence = match name {
        "" => "The key `username` is missing.",
        "default" => "Duplicate username.",
        _ => "This server has one user, named default.",
    };
    Err(Error::words(StatusCode::BAD_REQUEST, sentence))
}
