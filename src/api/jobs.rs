//! `/api/jobs`: waiting, running and finished jobs in one list, as ComfyUI's newer web interface asks for
//! them. Only below `/api`, as there.

use std::cmp::Ordering;
use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use serde_json::{Map, Value as Json, json};

use super::App;
use super::events::milestone;
use super::gate::Admitted;
use super::job_outputs::{Summary, normalised};
use super::queue::status;
use super::reply::{Error, Result, json};
use super::request::{Document, Query, kind};
use super::route::Route;
use super::scopes::Reach;
use crate::graph::{End, Event};
use crate::queue::{Entry, Job};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/jobs", list).alone(),
        Route::get("/api/jobs/{id}", one).alone(),
        Route::post("/api/jobs/cancel", cancel_several).alone(),
        Route::post("/api/jobs/{id}/cancel", cancel).alone(),
    ]
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Pending,
    InProgress,
    Completed,
    Failed,
    Cancelled,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Pending, Self::InProgress, Self::Completed, Self::Failed, Self::Cancelled];

    fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn of(entry: &Entry) -> Self {
        match entry.outcome.end {
            End::Succeeded => Self::Completed,
            End::Interrupted => Self::Cancelled,
            End::Failed => Self::Failed,
        }
    }
}

/// A job before it is rendered, which most of a long history never is.
struct Row {
    stage: Stage,
    job: Arc<Job>,
    /// Once it has ended.
    entry: Option<Arc<Entry>>,
}

impl Row {
    fn open(stage: Stage, job: Arc<Job>) -> Self {
        Self { stage, job, entry: None }
    }

    fn ended(entry: Arc<Entry>) -> Self {
        Self { stage: Stage::of(&entry), job: entry.job.clone(), entry: Some(entry) }
    }

    fn started_ms(&self) -> Option<u64> {
        let messages = &self.entry.as_ref()?.messages;
        messages.iter().find(|message| matches!(message.event, Event::Started)).map(|message| message.at_ms)
    }

    fn ended_ms(&self) -> Option<u64> {
        let is_end =
            |event: &Event| matches!(event, Event::Succeeded | Event::Interrupted { .. } | Event::Failed(_));
        let messages = &self.entry.as_ref()?.messages;
        messages.iter().rev().find(|message| is_end(&message.event)).map(|message| message.at_ms)
    }

    fn duration_ms(&self) -> u64 {
        self.started_ms().zip(self.ended_ms()).map_or(0, |(start, end)| end.saturating_sub(start))
    }

    /// The id of the workflow that the web interface keeps in every prompt.
    fn workflow_id(&self) -> Option<&Json> {
        let id = self.job.extra.get("extra_pnginfo")?.get("workflow")?.get("id")?;
        Some(id).filter(|id| !id.is_null())
    }

    /// The last thing that went wrong, in the words of `execution_error`.
    fn error(&self) -> Option<Json> {
        let failed = self.entry.as_ref()?.messages.iter().rev();
        let mut failed = failed.filter(|message| matches!(message.event, Event::Failed(_)));
        let message = failed.next()?;
        milestone(&self.job.id, message.at_ms, &message.event).map(|mut told| told[1].take())
    }

    /// The job without what is in it. Keys that have no value are left out.
    fn show(&self) -> Map<String, Json> {
        let mut shown = Map::new();
        let mut tell = |key: &str, value: Option<Json>| {
            if let Some(value) = value {
                shown.insert(key.to_owned(), value);
            }
        };
        let outputs = self.entry.as_ref().map(|entry| Summary::of(&entry.outcome.outputs));
        let outputs = outputs.unwrap_or_default();
        tell("id", Some(self.job.id.as_str().into()));
        tell("status", Some(self.stage.word().into()));
        tell("priority", Some(self.job.number.clone().into()));
        tell("create_time", Some(self.job.created_ms.into()));
        tell("execution_start_time", self.started_ms().map(Json::from));
        tell("execution_end_time", self.ended_ms().map(Json::from));
        tell("execution_error", self.error());
        tell("outputs_count", Some(outputs.count.into()));
        tell("previewable_outputs_count", Some(outputs.previewable.into()));
        tell("preview_output", outputs.preview);
        tell("workflow_id", self.workflow_id().cloned());
        shown
    }

    /// The job with all that belongs to it, once it has ended.
    fn show_whole(&self) -> Map<String, Json> {
        let mut shown = self.show();
        if let Some(entry) = &self.entry {
            let mut extra = self.job.extra.clone();
            extra.insert("create_time".to_owned(), self.job.created_ms.into());
            let workflow = json!({"prompt": self.job.plan.prompt, "extra_data": extra});
            shown.insert("outputs".to_owned(), normalised(&entry.outcome.outputs));
            shown.insert("execution_status".to_owned(), status(entry));
            shown.insert("workflow".to_owned(), workflow);
        }
        shown
    }
}

/// Every job: the running one, those that wait, and those that have ended, the oldest first.
fn rows(app: &App) -> Vec<Row> {
    let (open, ended) = app.queue.everything();
    let running = open.running.into_iter().map(|job| Row::open(Stage::InProgress, job));
    let pending = open.pending.into_iter().map(|job| Row::open(Stage::Pending, job));
    running.chain(pending).chain(ended.into_iter().map(Row::ended)).collect()
}

/// What a list shall hold.
struct Wanted {
    stages: Vec<Stage>,
    workflow: Option<String>,
    ids: Option<Vec<String>>,
    by_duration: bool,
    ascending: bool,
    limit: Option<usize>,
    offset: usize,
}

/// The most ids that one list may ask for.
const MOST_IDS: usize = 100;

impl Wanted {
    fn of(query: &Query) -> Result<Self> {
        let lower = |name: &str, default: &str| query.get(name).unwrap_or(default).to_ascii_lowercase();
        let by_duration = match lower("sort_by", "created_at").as_str() {
            "created_at" => false,
            "execution_duration" => true,
            _ => return Err(bad("sort_by must be 'created_at' or 'execution_duration'")),
        };
        let ascending = match lower("sort_order", "desc").as_str() {
            "asc" => true,
            "desc" => false,
            _ => return Err(bad("sort_order must be 'asc' or 'desc'")),
        };
        Ok(Self {
            stages: stages(query.get("status").unwrap_or_default())?,
            workflow: query.get("workflow_id").filter(|id| !id.is_empty()).map(str::to_owned),
            ids: query.get("ids").map(ids).transpose()?,
            by_duration,
            ascending,
            limit: limit(query)?,
            offset: usize::try_from(whole(query, "offset")?.unwrap_or_default()).unwrap_or_default(),
        })
    }

    fn takes(&self, row: &Row) -> bool {
        let workflow = || row.workflow_id().and_then(Json::as_str);
        self.stages.contains(&row.stage)
            && self.workflow.as_deref().is_none_or(|wanted| workflow() == Some(wanted))
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&row.job.id))
    }

    /// Jobs that compare equal keep their order either way.
    fn order(&self, one: &Row, other: &Row) -> Ordering {
        let key = |row: &Row| if self.by_duration { row.duration_ms() } else { row.job.created_ms };
        let order = key(one).cmp(&key(other));
        if self.ascending { order } else { order.reverse() }
    }
}

fn bad(sentence: &str) -> Error {
    Error::words(StatusCode::BAD_REQUEST, sentence)
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty())
}

/// All for an empty text, but none for a list of nothing, as ComfyUI has it.
fn stages(list: &str) -> Result<Vec<Stage>> {
    if list.is_empty() {
        return Ok(Stage::ALL.into());
    }
    let find = |word: &str| Stage::ALL.into_iter().find(|stage| word.eq_ignore_ascii_case(stage.word()));
    let unknown: Vec<_> = words(list).filter(|word| find(word).is_none()).collect();
    if !unknown.is_empty() {
        let valid = Stage::ALL.map(Stage::word).join(", ");
        let unknown = unknown.join(", ");
        return Err(bad(&format!("Invalid status value(s): {unknown}. Valid values: {valid}")));
    }
    Ok(words(list).filter_map(find).collect())
}

fn ids(list: &str) -> Result<Vec<String>> {
    let mut ids: Vec<String> = Vec::new();
    for id in words(list) {
        if !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }
    if ids.len() > MOST_IDS {
        return Err(bad(&format!("ids must contain at most {MOST_IDS} values")));
    }
    let invalid: Vec<_> = ids.iter().filter(|id| !is_job_id(id)).cloned().collect();
    if !invalid.is_empty() {
        return Err(invalid_ids("ids contains invalid id(s)", invalid.into()));
    }
    Ok(ids)
}

fn invalid_ids(sentence: &str, ids: Json) -> Error {
    Error::json(StatusCode::BAD_REQUEST, json!({"error": sentence, "invalid_ids": ids}))
}

/// A UUID as this server writes them. Lists of other ids are refused, as by ComfyUI, though a prompt may bear
/// one.
fn is_job_id(text: &str) -> bool {
    uuid::Uuid::parse_str(text).is_ok_and(|id| id.to_string() == text)
}

fn whole(query: &Query, name: &str) -> Result<Option<i64>> {
    query.number(name).map_err(|_| bad(&format!("{name} must be an integer")))
}

fn limit(query: &Query) -> Result<Option<usize>> {
    let positive = |limit: i64| usize::try_from(limit).ok().filter(|limit| *limit > 0);
    let limit = whole(query, "limit")?;
    limit.map(|limit| positive(limit).ok_or_else(|| bad("limit must be a positive integer"))).transpose()
}

async fn list(State(app): State<Arc<App>>, query: Query) -> Result {
    let wanted = Wanted::of(&query)?;
    let answer = app.blocking(move |app| {
        let mut rows = rows(app);
        rows.retain(|row| wanted.takes(row));
        rows.sort_by(|one, other| wanted.order(one, other));
        let total = rows.len();
        let page = rows.iter().skip(wanted.offset).take(wanted.limit.unwrap_or(usize::MAX));
        let jobs: Vec<Json> = page.map(|row| row.show().into()).collect();
        let has_more = wanted.offset.saturating_add(jobs.len()) < total;
        let pagination =
            json!({"offset": wanted.offset, "limit": wanted.limit, "total": total, "has_more": has_more});
        json!({"jobs": jobs, "pagination": pagination})
    });
    Ok(json(&answer.await?))
}

async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result {
    let ended = app.queue.entry(&id).map(Row::ended);
    let row = ended.or_else(|| rows(&app).into_iter().find(|row| row.job.id == id));
    let row = row.ok_or_else(|| Error::words(StatusCode::NOT_FOUND, "Job not found"))?;
    Ok(json(&row.show_whole().into()))
}

async fn cancel(
    State(app): State<Arc<App>>,
    Extension(Admitted(pass)): Extension<Admitted>,
    Path(id): Path<String>,
) -> Result {
    Reach::of(pass, &app).jobs(&app, [id.as_str()])?;
    Ok(json(&json!({"cancelled": app.queue.cancel(&id)})))
}

/// Cancels whichever of the jobs still wait or run. One malformed id refuses all.
async fn cancel_several(
    State(app): State<Arc<App>>,
    Extension(Admitted(pass)): Extension<Admitted>,
    body: Result<Document>,
) -> Result {
    let Document(wish) = body.map_err(|_| bad("Request body must be valid JSON"))?;
    let Some(ids) = wish.get("job_ids").and_then(Json::as_array) else {
        return Err(bad("job_ids must be a list"));
    };
    let is_valid = |id: &Json| id.as_str().is_some_and(is_job_id);
    let shown = |id: &Json| id.as_str().map_or_else(|| kind(id).into(), Json::from);
    let invalid: Json = ids.iter().filter(|id| !is_valid(id)).map(shown).collect();
    if invalid.as_array().is_some_and(|invalid| !invalid.is_empty()) {
        return Err(invalid_ids("job_ids contains invalid id(s)", invalid));
    }
    Reach::of(pass, &app).jobs(&app, ids.iter().filter_map(Json::as_str))?;
    let cancelled = ids.iter().filter_map(Json::as_str).filter(|id| app.queue.cancel(id)).count();
    Ok(json(&json!({"cancelled": cancelled > 0})))
}
