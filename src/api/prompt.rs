//! `POST /prompt`: from a body to a queued job, or to the reasons why not.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Number, Value as Json, json};

use super::App;
use super::gate::Admitted;
use super::object_info::Listing;
use super::problems::{node_errors, refusal};
use super::reply::{Error, Result, json};
use super::request::{Object, is_truthy, text};
use super::route::Route;
use crate::graph::{NodeId, Plan, Registry, check};
use crate::nodes::Services;
use crate::python_json;
use crate::queue::{Job, now_ms};

pub(super) fn routes() -> Vec<Route> {
    vec![Route::post("/prompt", submit), Route::post("/comfyd/validate", validate).alone()]
}

/// Credentials of ComfyUI's paid services. No node here uses them, so they are dropped at the door.
const SECRETS: [&str; 2] = ["auth_token_comfy_org", "api_key_comfy_org"];

async fn submit(
    State(app): State<Arc<App>>,
    Extension(admitted): Extension<Admitted>,
    headers: HeaderMap,
    Object(mut body): Object,
) -> Result {
    // Refused prompts use up a number as well.
    let number = number(&app, &body)?;
    let (prompt, only) = take_prompt(&mut body)?;
    let extra = extra_data(&mut body, &headers);
    let listening_ms = listening_ms(&headers);
    let id = prompt_id(body.get("prompt_id"));
    let client = client(&extra);
    // A program that may not listen yet keeps its time for every prompt.
    if let Some(client) = client.as_deref().filter(|_| listening_ms == 0) {
        app.hub.prompts(client);
    }
    let owner = admitted.0.and_then(|pass| app.gate.name_of(&pass));
    let answer = app.blocking(move |app| {
        let (plan, node_errors) = judged(prompt, only.as_deref(), &app.registry, &app.services)?;
        let answer = json!({"prompt_id": id, "number": number, "node_errors": node_errors});
        let created_ms = now_ms();
        let tell_from_ms = created_ms + listening_ms;
        let job = Job { id, number, plan, client, owner, extra, created_ms, tell_from_ms, crashes: 0 };
        app.queue.submit(job).map_err(|closed| Error::unavailable("server_ending", &closed.to_string()))?;
        Ok::<_, Error>(answer)
    });
    Ok(json(&answer.await??))
}

/// The graph in a body, and the outputs it is restricted to.
fn take_prompt(body: &mut Map<String, Json>) -> Result<(Json, Option<Vec<NodeId>>)> {
    let only = targets(body);
    let prompt = body.remove("prompt");
    let prompt =
        prompt.ok_or_else(|| Error::request("no_prompt", "No prompt provided", "No prompt provided"))?;
    Ok((prompt, only))
}

/// What can run of a graph and what is wrong with the rest, or the refusal of all of it.
fn judged(
    prompt: Json,
    only: Option<&[NodeId]>,
    registry: &Registry<Services>,
    services: &Services,
) -> Result<(Plan, Json)> {
    let checked = check(prompt, registry, services, only);
    let listing = Listing::of(services);
    let checked = checked.map_err(|refused| {
        tracing::info!("refused a prompt: {refused}");
        refusal(&refused, &listing, registry)
    })?;
    Ok((checked.plan, node_errors(&checked.problems, &listing, registry)))
}

/// Judges a graph without queueing it: the problems of single outputs, as the answer to [`submit`] has them.
async fn validate(State(app): State<Arc<App>>, Object(mut body): Object) -> Result {
    let (prompt, only) = take_prompt(&mut body)?;
    let judged = app.blocking(move |app| judged(prompt, only.as_deref(), &app.registry, &app.services));
    let (_, node_errors) = judged.await??;
    Ok(json(&json!({"node_errors": node_errors})))
}

/// What a server with these nodes and folders would answer to a graph: `node_errors` where something of it can run, or
/// else the body of its refusal.
pub fn judge(prompt: Json, registry: &Registry<Services>, services: &Services) -> Result<Json, Json> {
    let judged = judged(prompt, None, registry, services);
    judged.map(|(_, node_errors)| json!({"node_errors": node_errors})).map_err(Error::into_document)
}

/// Words in the names of programs that are written in JavaScript: runtimes, browsers, HTTP libraries.
const SCRIPTS: [&str; 6] = ["node", "undici", "axios/", "bun/", "deno/", "mozilla/"];

/// How long such a program takes from the answer to its prompt until it listens, in milliseconds.
const LISTENING_MS: u64 = 50;

/// How long the client is told nothing of the run.
///
/// In JavaScript a websocket message that nobody listens for is lost, and some clients begin to listen only when
/// they have read the answer to their prompt; then they wait for ever for what was told before. ComfyUI takes
/// a few milliseconds for the smallest job, which is time enough for them; here it would often be over by then. In
/// other languages messages wait until they are read.
fn listening_ms(headers: &HeaderMap) -> u64 {
    let program = headers.get(header::USER_AGENT).and_then(|name| name.to_str().ok()).unwrap_or_default();
    let program = program.to_ascii_lowercase();
    if SCRIPTS.iter().any(|word| program.contains(word)) { LISTENING_MS } else { 0 }
}

/// The place in the queue: the client's own number, or the next one.
fn number(app: &App, body: &Map<String, Json>) -> Result<Number> {
    let Some(given) = body.get("number") else {
        return Ok(app.queue.next_number(is_truthy(body.get("front"))));
    };
    let number = given.as_f64().or_else(|| given.as_str()?.trim().parse().ok());
    number.and_then(Number::from_f64).ok_or_else(|| {
        let details = format!("expected a finite number, found {}", python_json::write(given));
        Error::request("invalid_number", "The key `number` is no number", &details)
    })
}

fn targets(body: &Map<String, Json>) -> Option<Vec<NodeId>> {
    let targets = body.get("partial_execution_targets")?.as_array()?;
    Some(targets.iter().filter_map(Json::as_str).map(str::to_owned).collect())
}

/// Names the program that sends a prompt, as newer clients do.
const USAGE_SOURCE: &str = "comfy-usage-source";

/// What the client attached, with its own id among it, and its program's name.
fn extra_data(body: &mut Map<String, Json>, headers: &HeaderMap) -> Map<String, Json> {
    let mut extra = match body.remove("extra_data") {
        Some(Json::Object(extra)) => extra,
        _ => Map::new(),
    };
    extra.retain(|key, _| !SECRETS.contains(&key.as_str()));
    if let Some(client) = body.remove("client_id") {
        extra.insert("client_id".to_owned(), client);
    }
    if let Some(source) = headers.get(USAGE_SOURCE).and_then(|source| source.to_str().ok())
        && !source.is_empty()
    {
        extra.entry("comfy_usage_source").or_insert_with(|| source.into());
    }
    extra
}

/// The client's own id for the job, whatever its type; otherwise a new one.
fn prompt_id(given: Option<&Json>) -> String {
    match given {
        None | Some(Json::Null) => uuid::Uuid::new_v4().to_string(),
        Some(Json::String(id)) if id.is_empty() => uuid::Uuid::new_v4().to_string(),
        Some(id) => text(id),
    }
}

fn client(extra: &Map<String, Json>) -> Option<String> {
    extra.get("client_id").filter(|client| !client.is_null()).map(text)
}

/// A refused prompt as an answer.
impl Error {
    pub(super) fn refused(error: Json, node_errors: Json) -> Self {
        Self::json(StatusCode::BAD_REQUEST, json!({"error": error, "node_errors": node_errors}))
    }
}
