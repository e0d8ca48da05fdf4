//! The queue and its history over HTTP: asking, deleting, interrupting, freeing memory. The same jobs in
//! the words of newer clients are in `jobs.rs`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use serde::{Serialize, Serializer};
use serde_json::{Map, Number, Value as Json, json};

use super::App;
use super::events::{milestone, queue_info};
use super::gate::Admitted;
use super::reply::{Result, done, json, shown};
use super::request::{Object, Query, Raw, is_truthy, text};
use super::route::Route;
use super::scopes::Reach;
use crate::graph::{End, Meta, NodeId};
use crate::python_json;
use crate::queue::{Entry, Free, Job, Page, Snapshot};

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

/// As many jobs are written by the threads that serve sockets; more keep another thread busy.
const FEW: usize = 32;

async fn queue(State(app): State<Arc<App>>) -> Result {
    let snapshot = app.queue.snapshot();
    if snapshot.pending.len() <= FEW {
        return Ok(show_queue(&snapshot));
    }
    app.blocking(move |_| show_queue(&snapshot)).await
}

fn show_queue(snapshot: &Snapshot) -> Response {
    #[derive(Serialize)]
    struct Shown<'a> {
        queue_running: Vec<Item<'a>>,
        queue_pending: Vec<Item<'a>>,
    }
    shown(&Shown {
        queue_running: snapshot.running.iter().map(|job| item(job)).collect(),
        queue_pending: snapshot.pending.iter().map(|job| item(job)).collect(),
    })
}

/// A job as ComfyUI's five-tuple.
type Item<'a> = (&'a Number, &'a str, &'a Map<String, Json>, &'a Map<String, Json>, &'a [NodeId]);

fn item(job: &Job) -> Item<'_> {
    (&job.number, &job.id, &job.plan.prompt, &job.extra, &job.plan.outputs)
}

/// The ids under `delete`; a single one need not be in a list.
fn deleted(wish: &Map<String, Json>) -> impl Iterator<Item = &str> {
    let ids = wish.get("delete").map_or(&[][..], |ids| match ids {
        Json::Array(ids) => ids.as_slice(),
        id => std::slice::from_ref(id),
    });
    ids.iter().filter_map(Json::as_str)
}

async fn change_queue(
    State(app): State<Arc<App>>,
    Extension(Admitted(pass)): Extension<Admitted>,
    Object(wish): Object,
) -> Result {
    let reach = Reach::of(pass, &app);
    reach.jobs(&app, deleted(&wish))?;
    if is_truthy(wish.get("clear")) {
        reach.all()?;
        app.queue.clear();
    }
    deleted(&wish).for_each(|id| app.queue.delete(id));
    Ok(done())
}

/// Stops the running job. A body that cannot be read counts as none, as in ComfyUI.
async fn interrupt(
    State(app): State<Arc<App>>,
    Extension(Admitted(pass)): Extension<Admitted>,
    body: Result<Raw>,
) -> Result {
    let Raw(body) = body.unwrap_or(Raw(Bytes::new()));
    let wish = python_json::read(&body).unwrap_or_default();
    let only = wish.get("prompt_id").filter(|id| is_truthy(Some(id))).map(text);
    match Reach::of(pass, &app) {
        Reach::All => app.queue.interrupt(only.as_deref()),
        reach @ Reach::Own(_) => {
            // By name, so that no other job that began meanwhile is hit.
            if let Some(running) = reach.running(&app)?
                && only.is_none_or(|only| only == running)
            {
                app.queue.interrupt(Some(&running));
            }
        }
    }
    Ok(done())
}

async fn free(State(app): State<Arc<App>>, Object(wish): Object) -> Response {
    let results = is_truthy(wish.get("free_memory"));
    app.queue.free(Free { models: results || is_truthy(wish.get("unload_models")), results });
    done()
}

async fn history(State(app): State<Arc<App>>, query: Query) -> Result {
    let page = Page { max: query.number("max_items")?, offset: query.number("offset")? };
    app.blocking(move |app| shown(&Entries(app.queue.history(page)))).await
}

async fn entry(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let entry = app.queue.entry(&id);
    if entry.is_some() {
        app.hub.is_known(&id);
    }
    shown(&Entries(entry.into_iter().collect()))
}

async fn change_history(State(app): State<Arc<App>>, Object(wish): Object) -> Response {
    if is_truthy(wish.get("clear")) {
        app.queue.forget_all();
    }
    deleted(&wish).for_each(|id| app.queue.forget(id));
    done()
}

/// Entries by id, written without copying what is in them.
struct Entries(Vec<Arc<Entry>>);

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|entry| (&entry.job.id, Shown::of(entry))))
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    prompt: Item<'a>,
    outputs: &'a Map<String, Json>,
    status: Json,
    meta: Map<String, Json>,
}

impl<'a> Shown<'a> {
    fn of(entry: &'a Entry) -> Self {
        let Entry { job, outcome, .. } = entry;
        let meta = outcome.meta.iter().map(|meta| (meta.node.clone(), show_meta(meta))).collect();
        Self { prompt: item(job), outputs: &outcome.outputs, status: status(entry), meta }
    }
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
