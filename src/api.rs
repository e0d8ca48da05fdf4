//! HTTP and websocket in ComfyUI's shapes; the only home of wire JSON.
//!
//! One file per group of routes, each with its table of [`route::Route`]s near the top; adding a route
//! touches that table only. A request passes, from outside in: [`metrics`], [`linger`], [`gate`] (cache headers,
//! origin, token, size), then its route. Deliberately does not know how anything is computed.

mod absent;
mod events;
mod files;
mod gate;
mod health;
mod hub;
mod job_outputs;
mod jobs;
mod line;
mod linger;
mod login;
mod logs;
mod metrics;
mod model_previews;
mod models;
mod object_info;
mod outputs;
mod page;
mod pages;
mod problems;
mod prompt;
mod queue;
mod refusals;
mod reply;
mod request;
mod route;
mod scopes;
mod sender;
mod settings;
mod store;
mod system;
mod upload;
mod userdata;
mod view;
mod ws;

use std::collections::BTreeSet;
use std::future::{Ready, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use tokio::sync::watch;
use tokio::task::block_in_place;

use crate::auth::Gate;
use crate::graph::Registry;
use crate::nodes::Services;
use crate::paths::Folders;
use crate::queue::{Change, Notice, Queue};

pub use logs::Logs;
pub use prompt::judge;

use hub::Hub;
use login::Turns;
use metrics::Metrics;
use refusals::Refusals;
use reply::Error;
use route::{OpenRoutes, Route};

/// Every group of routes.
const GROUPS: &[fn() -> Vec<Route>] = &[
    health::routes,
    jobs::routes,
    login::routes,
    logs::routes,
    metrics::routes,
    model_previews::routes,
    models::routes,
    object_info::routes,
    outputs::routes,
    page::routes,
    pages::routes,
    prompt::routes,
    queue::routes,
    settings::routes,
    system::routes,
    upload::routes,
    userdata::routes,
    view::routes,
    ws::routes,
];

/// How long clients are waited for that do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the head of a request, from the moment the connection is free for it. A connection that is kept for
    /// later requests is closed after as long.
    pub head: Duration,
    /// For the next bytes of a body.
    pub body: Duration,
    /// For a websocket to take a frame.
    pub reader: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        // The first is what clients are used to from ComfyUI's server.
        Self { head: seconds(75), body: seconds(30), reader: seconds(20) }
    }
}

/// How this server behaves on the wire.
#[derive(Clone, Debug)]
pub struct Settings {
    pub patience: Patience,
    /// The most bytes a request may carry.
    pub max_upload_bytes: usize,
    /// The origin that pages may come from, or `*`; without one, pages of other sites are turned away.
    pub cors_origin: Option<String>,
    /// A folder with a web interface.
    pub web_root: Option<PathBuf>,
    /// Whether JSON and text are sent compressed to clients that can read that.
    pub compress: bool,
    /// The command line, as `/system_stats` shows it.
    pub argv: Vec<String>,
    /// Whether everybody may read `/metrics`.
    pub open_metrics: bool,
}

/// Everything a request may use.
pub struct App {
    settings: Settings,
    gate: Gate,
    services: Arc<Services>,
    registry: Arc<Registry<Services>>,
    queue: Arc<Queue>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    logs: Logs,
    written_info: object_info::Written,
    figures: system::Figures,
    open_routes: OpenRoutes,
    refusals: Refusals,
    turns: Turns,
    /// Tells open websockets that a session ended, which may be theirs.
    sessions: watch::Sender<()>,
    /// Tells open websockets that the server is about to stop.
    closing: watch::Sender<()>,
    /// Held while files are chosen names or rewritten.
    exclusive: Mutex<()>,
}

impl App {
    /// Puts a server together. Its queue has no worker yet: see [`App::queue`] and [`Queue::work`].
    pub fn new(
        settings: Settings,
        gate: Gate,
        services: Arc<Services>,
        registry: Arc<Registry<Services>>,
        logs: Logs,
    ) -> Arc<Self> {
        let hub = Arc::new(Hub::default());
        let (listening, watching) = (hub.clone(), hub.clone());
        logs.watch(move |lines| watching.tell_logs(lines));
        let metrics = Arc::new(Metrics::default());
        let counting = metrics.clone();
        let (listener, observer) = (
            move |notice: Notice<'_>| listening.tell(notice),
            move |change: Change<'_>| counting.hear(change),
        );
        let mut open_routes = OpenRoutes::of(&routes());
        if settings.open_metrics {
            open_routes.add(Method::GET, metrics::PATH);
        }
        let written_info = object_info::Written::new(&registry);
        Arc::new(Self {
            settings,
            gate,
            services,
            registry,
            queue: Arc::new(Queue::new(Box::new(listener), Box::new(observer))),
            hub,
            metrics,
            logs,
            written_info,
            figures: system::Figures::default(),
            open_routes,
            refusals: Refusals::default(),
            turns: Turns::default(),
            sessions: watch::Sender::default(),
            closing: watch::Sender::default(),
            exclusive: Mutex::default(),
        })
    }

    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Does what has to be done while the server runs, for ever.
    pub async fn attend(&self) {
        self.hub.attend().await;
    }

    /// Ends open websockets, so that the server can stop.
    pub fn close(&self) {
        self.closing.send_replace(());
    }

    fn folders(&self) -> &Folders {
        &self.services.folders
    }

    fn exclusive(&self) -> MutexGuard<'_, ()> {
        self.exclusive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs work that waits for the disk or computes, while another thread serves the sockets of this one. For short
    /// work that is quicker than to have it done by another thread.
    fn blocking<T>(&self, work: impl FnOnce(&Self) -> T) -> Ready<reply::Result<T>> {
        let done = block_in_place(|| catch_unwind(AssertUnwindSafe(|| work(self))));
        // The panic itself is in the log.
        ready(done.map_err(|_| {
            let sentence = "The server made a mistake while answering this request; its log says which.";
            Error::words(StatusCode::INTERNAL_SERVER_ERROR, sentence)
        }))
    }
}

/// Every path the server answers, with its parameters in braces, and the method: what a table of all of them has to
/// name.
pub fn table() -> BTreeSet<(String, String)> {
    route::list(&routes())
}

fn routes() -> Vec<Route> {
    GROUPS.iter().flat_map(|group| group()).collect()
}

/// The whole server as one service. Give it connections with their peers' addresses.
pub fn router(app: &Arc<App>) -> Router {
    // Who may come in depends on the route, so these are around each, and not around the router.
    let router = route::assemble(routes())
        .fallback(pages::fallback)
        .layer(DefaultBodyLimit::max(app.settings.max_upload_bytes))
        .layer(from_fn_with_state(app.clone(), gate::pass))
        .with_state(app.clone());
    if app.settings.compress { router.layer(reply::compression()) } else { router }
}
