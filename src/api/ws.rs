//! `/ws`: one task per connection, which empties its channel and reads what the client says.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message as Frame, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::SinkExt as _;
use serde_json::Value as Json;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::App;
use super::gate::Admitted;
use super::hub::Ticket;
use super::line::{Next, Waiting};
use super::reply::{Error, Result};
use super::request::Query;
use super::route::Route;
use super::system::features;
use crate::python_json;

/// The largest frame a client may send, which is what ComfyUI takes.
const LARGEST_FRAME: usize = 4 << 20;

/// How often a silent connection is kept awake, for the proxies between.
const PING: Duration = Duration::from_secs(30);

/// How often it is asked whether the client may still listen: tokens and sessions end by the clock, by a change of a
/// file, or by a word to another connection.
const LOOK: Duration = Duration::from_secs(1);

/// How long a client is waited for when the server ends.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/ws", connect)]
}

async fn connect(
    State(app): State<Arc<App>>,
    Extension(admitted): Extension<Admitted>,
    query: Query,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response> {
    let upgrade = upgrade.map_err(|rejection| {
        let sentence = format!("This path is a websocket: {}", rejection.body_text());
        Error::words(StatusCode::BAD_REQUEST, &sentence)
    })?;
    let client = query.get("clientId").filter(|id| !id.is_empty());
    let client = client.map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned);
    let upgrade = upgrade.max_message_size(LARGEST_FRAME).max_frame_size(LARGEST_FRAME);
    Ok(upgrade.on_upgrade(move |socket| async move { serve(&app, socket, &client, admitted).await }))
}

async fn serve(app: &App, mut socket: WebSocket, client: &str, admitted: Admitted) {
    let greet = |remaining, active: Option<&str>| app.hub.connect(client, remaining, active);
    let mut ticket = app.queue.greet(client, greet);
    tracing::debug!(client, "websocket opened");
    let mut manners = Manners::default();
    let mut replaced = false;
    let mut ping = interval_at(Instant::now() + PING, PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut closing = app.closing.subscribe();
    let patience = app.settings.patience.reader;
    let mut sessions = app.sessions.subscribe();
    loop {
        let frame = tokio::select! {
            // What ends the connection comes first: nothing is told to who has lost the right to hear it.
            biased;
            _ = closing.changed() => Frame::Close(None),
            Ok(()) = sessions.changed() => {
                if admitted.holds(app) {
                    continue;
                }
                Frame::Close(None)
            }
            _ = look.tick() => {
                if admitted.holds(app) {
                    continue;
                }
                Frame::Close(None)
            }
            _ = ping.tick() => Frame::Ping(axum::body::Bytes::new()),
            said = socket.recv() => match said {
                Some(Ok(Frame::Text(text))) => {
                    manners.hear(app, &ticket, &text);
                    continue;
                }
                Some(Ok(Frame::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => continue,
            },
            next = ticket.frames.next(), if !replaced => match next {
                Next::Frame(frame) => frame,
                // This one stays, silent, until its client leaves.
                Next::Replaced => { replaced = true; continue }
                Next::Cut => break,
            },
        };
        if matches!(frame, Frame::Close(_)) {
            let _ = timeout(FAREWELL, socket.send(frame)).await;
            break;
        }
        match timeout(patience, send(&mut socket, frame, &mut ticket.frames)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(_) => {
                tracing::warn!(client, "let go a websocket that took nothing for {} s", patience.as_secs());
                break;
            }
        }
    }
    app.hub.disconnect(&ticket);
    tracing::debug!(client, "websocket closed");
}

/// The most bytes that leave together.
const TOGETHER: usize = 64 << 10;

/// Sends a frame, and those that wait behind it, with as few calls of the system as possible: of many sockets
/// that all hear of every job, each costs those that wait for it.
async fn send(socket: &mut WebSocket, frame: Frame, waiting: &mut Waiting) -> Result<(), axum::Error> {
    // A ping has not waited in the line.
    let mut size = if matches!(frame, Frame::Ping(_)) { 0 } else { Waiting::size(&frame) };
    socket.feed(frame).await?;
    while size < TOGETHER
        && let Some(frame) = waiting.try_next()
    {
        size += Waiting::size(&frame);
        socket.feed(frame).await?;
    }
    socket.flush().await?;
    waiting.sent(size);
    Ok(())
}

/// What one client has said so far.
#[derive(Default)]
struct Manners {
    /// Only the first frame that is JSON may tell what the client can do.
    introduced: bool,
    warned: bool,
}

impl Manners {
    fn hear(&mut self, app: &App, ticket: &Ticket, text: &str) {
        let Ok(said) = python_json::read(text.as_bytes()) else {
            tracing::debug!(client = ticket.client, "a websocket frame that is no JSON was ignored");
            return;
        };
        let first = !std::mem::replace(&mut self.introduced, true);
        if first && said["type"] == "feature_flags" {
            app.hub.agree(ticket, &said["data"], &features(app));
        } else if holds_prompt(&said) && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                client = ticket.client,
                "a prompt was sent over the websocket and ignored; prompts go to POST /prompt"
            );
        }
    }
}

/// Whether a client sends a graph where nobody takes it: in an envelope, or bare.
fn holds_prompt(said: &Json) -> bool {
    let is_graph = |nodes: &Json| {
        nodes.as_object().is_some_and(|nodes| nodes.values().any(|node| node.get("class_type").is_some()))
    };
    said.get("prompt").is_some() || is_graph(said) || said.get("data").is_some_and(is_graph)
}
