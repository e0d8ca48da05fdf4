//! `/metrics`: what happened since the start, for Prometheus.
//!
//! Counts by looking on: changes of the queue, verdicts of the gate, and every request on its way out. Nobody else
//! counts anything. The figures of the moment (queue, memory, websockets) are read when they are asked for.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{MatchedPath, State};
use axum::http::{HeaderValue, Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::App;
use super::reply::{Error, Result, typed};
use super::route::Route;
use crate::auth::{Denied, Pass};
use crate::device;
use crate::graph::End;
use crate::queue::{Change, Readiness, now_ms};

/// Open to everybody only where `--open-metrics` says so.
pub(super) const PATH: &str = "/metrics";

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get(PATH, scrape).alone()]
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Path {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Device {
    device: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

type Seconds = Counter<f64, AtomicU64>;

/// The counters of a server.
pub(super) struct Metrics {
    registry: Registry,
    queued: Counter,
    jobs: Family<Outcome, Counter>,
    job_seconds: Histogram,
    wait_seconds: Histogram,
    nodes: Family<Class, Counter>,
    node_seconds: Family<Class, Seconds>,
    reused: Counter,
    steps: Family<Class, Counter>,
    step_seconds: Family<Class, Histogram>,
    auth: Family<Verdict, Counter>,
    requests: Family<Answer, Counter>,
    request_seconds: Family<Path, Histogram>,
    moment: Moment,
}

/// What is true when it is asked for.
#[derive(Default)]
struct Moment {
    running: Gauge,
    waiting: Gauge,
    oldest: Gauge<f64, AtomicU64>,
    ready: Gauge,
    active: Gauge,
    websockets: Gauge,
    resident: Gauge,
    total: Family<Device, Gauge>,
    free: Family<Device, Gauge>,
}

/// From a cached result to a long edit on a CPU.
const JOBS: [f64; 12] = [0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];
/// From a miniature model to a large one on a CPU.
const STEPS: [f64; 11] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];
/// From an answer out of memory to an upload over a slow line.
const REQUESTS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0];

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("comfyd"),
            queued: Counter::default(),
            jobs: Family::default(),
            job_seconds: Histogram::new(JOBS),
            wait_seconds: Histogram::new(JOBS),
            nodes: Family::default(),
            node_seconds: Family::default(),
            reused: Counter::default(),
            steps: Family::default(),
            step_seconds: Family::new_with_constructor(|| Histogram::new(STEPS)),
            auth: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(REQUESTS)),
            moment: Moment::default(),
        };
        // Results that never happened are zero, not absent, so that alerts can be written before.
        for result in ["success", "error", "interrupted", "dropped"] {
            drop(metrics.jobs.get_or_create(&Outcome { result }));
        }
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let all = &mut self.registry;
        all.register("jobs_queued", "Prompts that were accepted", self.queued.clone());
        all.register("jobs", "Jobs that ended, by result", self.jobs.clone());
        all.register_with_unit("job", "How long jobs ran", Unit::Seconds, self.job_seconds.clone());
        all.register_with_unit("job_wait", "How long jobs waited", Unit::Seconds, self.wait_seconds.clone());
        all.register("nodes_run", "Nodes that ran, by class", self.nodes.clone());
        all.register_with_unit("node", "Time spent in nodes", Unit::Seconds, self.node_seconds.clone());
        all.register("nodes_reused", "Nodes whose kept results were used again", self.reused.clone());
        all.register("node_steps", "Steps of samplers and other nodes that report them", self.steps.clone());
        let help = "Time between one step of a node and the next";
        all.register_with_unit("node_step", help, Unit::Seconds, self.step_seconds.clone());
        all.register("auth", "Requests by how they were let in or why not", self.auth.clone());
        all.register("http_requests", "Answers over HTTP", self.requests.clone());
        let help = "Time until the head of an answer";
        all.register_with_unit("http_request", help, Unit::Seconds, self.request_seconds.clone());
        let Moment { running, waiting, oldest, ready, active, websockets, resident, total, free } =
            &self.moment;
        all.register("jobs_running", "Jobs that run now", running.clone());
        all.register("jobs_waiting", "Jobs that wait now", waiting.clone());
        let help = "How long the oldest of them has waited";
        all.register_with_unit("jobs_waiting_oldest", help, Unit::Seconds, oldest.clone());
        all.register("ready", "Whether jobs are taken and run", ready.clone());
        let help = "When a job last came or ended; 0 before the first";
        all.register_with_unit("last_activity_timestamp", help, Unit::Seconds, active.clone());
        all.register("websockets", "Websockets that are open", websockets.clone());
        all.register_with_unit("resident_memory", "Memory of the process", Unit::Bytes, resident.clone());
        all.register_with_unit("device_memory", "Memory of a device", Unit::Bytes, total.clone());
        all.register_with_unit("device_memory_free", "What of it is free", Unit::Bytes, free.clone());
        let build: Family<Build, Gauge> = Family::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        all.register("build", "The version of the server", build);
        self
    }

    /// Counts a change of the queue.
    pub fn hear(&self, change: Change<'_>) {
        let ended = |result| {
            self.jobs.get_or_create(&Outcome { result }).inc();
        };
        match change {
            Change::Queued => {
                self.queued.inc();
                self.is_active();
            }
            Change::Dropped => ended("dropped"),
            Change::Began { waited } => self.wait_seconds.observe(waited.as_secs_f64()),
            Change::Reused { nodes } => {
                self.reused.inc_by(nodes as u64);
            }
            Change::NodeEnded { class, took } => {
                let class = Class { class: class.to_owned() };
                self.nodes.get_or_create(&class).inc();
                self.node_seconds.get_or_create(&class).inc_by(took.as_secs_f64());
            }
            Change::Stepped { class, took } => {
                let class = Class { class: class.to_owned() };
                self.steps.get_or_create(&class).inc();
                if let Some(took) = took {
                    self.step_seconds.get_or_create(&class).observe(took.as_secs_f64());
                }
            }
            Change::Ended { end, took } => {
                self.job_seconds.observe(took.as_secs_f64());
                self.is_active();
                ended(match end {
                    End::Succeeded => "success",
                    End::Failed => "error",
                    End::Interrupted => "interrupted",
                });
            }
        }
    }

    fn is_active(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.moment.active.set(now.as_secs().cast_signed());
    }

    /// Counts how somebody was let in, or why not.
    pub fn judged(&self, verdict: &Result<Pass, Denied>) {
        let (result, reason) = match verdict {
            Ok(pass) => ("accepted", accepted(pass)),
            Err(denied) => ("refused", refused(*denied)),
        };
        self.auth.get_or_create(&Verdict { result, reason }).inc();
    }

    /// Counts an answer on its way out.
    pub fn answered(&self, method: &Method, route: Option<&MatchedPath>, status: StatusCode, took: Duration) {
        let route = route.map_or("none", MatchedPath::as_str).to_owned();
        let answer = Answer { method: known(method), route, status: status.as_u16() };
        self.requests.get_or_create(&answer).inc();
        let path = Path { route: answer.route };
        self.request_seconds.get_or_create(&path).observe(took.as_secs_f64());
    }
}

fn accepted(pass: &Pass) -> &'static str {
    match pass {
        Pass::Open => "no_token_needed",
        Pass::Token(_) => "token",
        Pass::Named(..) => "named_token",
        Pass::User(_) => "session",
        Pass::Guest(_) => "guest",
    }
}

fn refused(denied: Denied) -> &'static str {
    match denied {
        Denied::Nothing => "no_token",
        Denied::Session => "unknown_session",
        Denied::NoPassword => "no_password_yet",
        Denied::Malformed => "malformed_header",
        Denied::Scheme => "wrong_scheme",
        Denied::Empty => "empty_token",
        Denied::Unset => "unset_variable",
        Denied::Cut => "cut_token",
        Denied::Wrong => "wrong_token",
        Denied::Expired => "expired_token",
        Denied::Unknown => "unknown_token",
        Denied::NotTheHash => "not_the_hash",
    }
}

/// Strangers may invent methods, and each would be a line for ever.
fn known(method: &Method) -> &'static str {
    const KNOWN: [(Method, &str); 7] = [
        (Method::GET, "GET"),
        (Method::POST, "POST"),
        (Method::HEAD, "HEAD"),
        (Method::PUT, "PUT"),
        (Method::PATCH, "PATCH"),
        (Method::DELETE, "DELETE"),
        (Method::OPTIONS, "OPTIONS"),
    ];
    KNOWN.iter().find(|(known, _)| known == method).map_or("OTHER", |(_, name)| name)
}

async fn scrape(State(app): State<Arc<App>>) -> Result {
    app.blocking(|app| {
        app.metrics.moment.read(app);
        let mut text = String::new();
        let written = encode(&mut text, &app.metrics.registry);
        written.map_err(|error| Error::internal("writing the metrics", &error))?;
        Ok(typed(StatusCode::OK, OPEN_METRICS, text.into()))
    })
    .await?
}

impl Moment {
    fn read(&self, app: &App) {
        let queue = app.queue.snapshot();
        self.running.set(queue.running.iter().len() as i64);
        self.waiting.set(queue.pending.len() as i64);
        let oldest = queue.pending.iter().map(|job| job.created_ms).min();
        let waited = oldest.map_or(0, |since| now_ms().saturating_sub(since));
        self.oldest.set(Duration::from_millis(waited).as_secs_f64());
        self.ready.set(i64::from(app.queue.readiness() == Readiness::Ready));
        self.websockets.set(app.hub.count() as i64);
        self.resident.set(device::resident().unwrap_or_default().cast_signed());
        for (index, device) in device::all().into_iter().enumerate() {
            let name = Device { device: format!("{index} {}", device.name), kind: device.kind };
            self.total.get_or_create(&name).set(device.memory.total.cast_signed());
            self.free.get_or_create(&name).set(device.memory.free.cast_signed());
        }
    }
}
