//! The queue and its history over HTTP: asking, deleting, interrupting, freeing memory. The same jobs in
//! the words of newer clients are in `jobs.rs`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Map, Value as Json, json};

use super::App;
use super::events::{milestone, queue_info};
use super::reply::{Result, done, json};
use super::request::{Object, Query, Raw, is_truthy, text};
use super::route::Route;
use crate::graph::{End, Meta};
use crate::python_json;
use crate::queue::{Entry, Free, Job, Page};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/prompt", remaining),
        Route::get("/queue", queue),
        Route::post("/queue", change_queue),
        Route::post("/interrupt", interrupt),
        Route::post("/free", free),
        Route::get("/history", history),
        Route::get("/history/{id}", entry),
        Route::post("/history", change_history),
    ]
}

async fn remaining(State(app): State<Arc<App>>) -> Response {
    json(&queue_info(app.queue.remaining()))
}

async fn queue(State(app): State<Arc<App>>) -> Response {
    let snapshot = app.queue.snapshot();
    let running: Json = snapshot.running.iter().map(|job| item(job)).collect();
    let pending: Json = snapshot.pending.iter().map(|job| item(job)).collect();
    json(&json!({"queue_running": running, "queue_pending": pending}))
}

/// A job as ComfyUI's five-tuple.
fn item(job: &Job) -> Json {
    json!([job.number, job.id, job.plan.prompt, job.extra, job.plan.outputs])
}

/// The ids under `delete`; a single one need not be in a list.
fn deleted(wish: &Map<String, Json>) -> impl Iterator<Item = &str> {
    let ids = wish.get("delete").map_or(&[][..], |ids| match ids {
        Json::Array(ids) => ids.as_slice(),
        id => std::slice::from_ref(id),
    });
    ids.iter().filter_map(Json::as_str)
}

async fn change_queue(State(app): State<Arc<App>>, Object(wish): Object) -> Response {
    if is_truthy(wish.get("clear")) {
        app.queue.clear();
    }
    deleted(&wish).for_each(|id| app.queue.delete(id));
    done()
}

/// Stops the running job. A body that cannot be read counts as none, as in ComfyUI.
async fn interrupt(State(app): State<Arc<App>>, body: Result<Raw>) -> Response {
    let Raw(body) = body.unwrap_or(Raw(Bytes::new()));
    let wish = python_json::read(&body).unwrap_or_default();
    let only = wish.get("prompt_id").filter(|id| is_truthy(Some(id))).map(text);
    app.queue.interrupt(only.as_deref());
    done()
}

async fn free(State(app): State<Arc<App>>, Object(wish): Object) -> Response {
    let results = is_truthy(wish.get("free_memory"));
    app.queue.free(Free { models: results || is_truthy(wish.get("unload_models")), results });
    done()
}

async fn history(State(app): State<Arc<App>>, query: Query) -> Result {
    let page = Page { max: query.number("max_items")?, offset: query.number("offset")? };
    let entries = app.queue.history(page);
    let shown: Map<_, _> = entries.iter().map(|entry| (entry.job.id.clone(), show(entry))).collect();
    Ok(json(&shown.into()))
}

async fn entry(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let Some(entry) = app.queue.entry(&id) else { return json(&json!({})) };
    app.hub.is_known(&id);
    json(&json!({id: show(&entry)}))
}

async fn change_history(State(app): State<Arc<App>>, Object(wish): Object) -> Response {
    if is_truthy(wish.get("clear")) {
        app.queue.forget_all();
    }
    deleted(&wish).for_each(|id| app.queue.forget(id));
    done()
}

fn show(entry: &Entry) -> Json {
    let Entry { job, outcome, .. } = entry;
    let meta: Map<_, _> = outcome.meta.iter().map(|meta| (meta.node.clone(), show_meta(meta))).collect();
    json!({
        "prompt": item(job),
        "outputs": outcome.outputs,
        "status": status(entry),
        "meta": meta,
    })
}

/// How a job ended, and the milestones on the way.
pub(super) fn status(entry: &Entry) -> Json {
    let Entry { job, outcome, messages } = entry;
    let succeeded = outcome.end == End::Succeeded;
    let messages: Json =
        messages.iter().filter_map(|message| milestone(&job.id, message.at_ms, &message.event)).collect();
    json!({
        "status_str": if succeeded { "success" } else { "error" },
        "completed": succeeded,
        "messages": messages,
    })
}

fn show_meta(meta: &Meta) -> Json {
    json!({
        "node_id": meta.node,
        "display_node": meta.display,
        "parent_node": meta.parent,
        "real_node_id": meta.real,
    })
}
