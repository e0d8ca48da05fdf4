//! One run of a graph, as the server's websocket tells it.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderValue;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

use crate::cli::client::Client;
use crate::cli::client::submit::{ended_entry, reason};
use crate::cli::{Failure, Result};

/// When what happened.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// From submitting to hearing of the end.
    pub(super) total: Duration,
    /// What the server's history says of the time between start and end.
    pub(super) on_server: Option<Duration>,
    /// Nodes in the order they ran.
    pub(super) nodes: Vec<(String, Duration)>,
    /// The times of the steps that a node told of.
    pub(super) steps: BTreeMap<String, Vec<Duration>>,
    /// Nodes that the cache answered for.
    pub(super) cached: usize,
    /// What was made, as the history names it.
    pub(super) pictures: Vec<Json>,
}

/// Listens to a server.
pub(super) struct Watch {
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    id: String,
}

impl Watch {
    pub(super) fn open(client: &Client) -> Result<Self> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        // `https` becomes `wss`.
        let address = format!("{}/ws?clientId={id}", client.url().replacen("http", "ws", 1));
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::from(format!("no websocket to {}: {error}", client.url()))
                .hint("a proxy between must pass websockets on")
        };
        let mut request = address.into_client_request().map_err(|error| cannot(&error))?;
        if let Some(bearer) = client.bearer() {
            let header = HeaderValue::from_str(&bearer).map_err(|error| cannot(&error))?;
            request.headers_mut().insert("Authorization", header);
        }
        let (socket, _) = tungstenite::connect(request).map_err(|error| cannot(&error))?;
        Ok(Self { socket, id })
    }

    /// Runs the graph once.
    pub(super) fn run(&mut self, client: &Client, graph: &Map<String, Json>) -> Result<Run> {
        let begun = Instant::now();
        let answer = client.post("/prompt", &json!({"prompt": graph, "client_id": self.id}))?;
        let prompt = answer["prompt_id"].as_str().unwrap_or_default().to_owned();
        let mut account = Account::default();
        while !account.ended {
            let message =
                self.socket.read().map_err(|error| Failure::from(format!("the websocket broke: {error}")))?;
            let Message::Text(text) = message else { continue };
            let told: Json = serde_json::from_str(&text).unwrap_or_default();
            if told["data"]["prompt_id"] == *prompt {
                account.hear(&told, Instant::now());
            }
        }
        let entry = ended_entry(client, &prompt)?;
        if entry["status"]["status_str"] != "success" {
            return Err(reason(&entry["status"]).into());
        }
        account.run.total = begun.elapsed();
        account.run.on_server = on_server(&entry["status"]);
        let outputs = entry["outputs"].as_object().into_iter().flat_map(Map::values);
        let pictures = outputs.flat_map(|output| output["images"].as_array().into_iter().flatten());
        account.run.pictures = pictures.cloned().collect();
        Ok(account.run)
    }
}

/// The time between the server's own messages of start and end.
fn on_server(status: &Json) -> Option<Duration> {
    let at = |kind: &str| {
        let mut messages = status["messages"].as_array()?.iter();
        messages.find(|message| message[0] == kind)?[1]["timestamp"].as_u64()
    };
    Some(Duration::from_millis(at("execution_success")?.saturating_sub(at("execution_start")?)))
}

/// What has been heard of a run so far.
#[derive(Default)]
struct Account {
    run: Run,
    /// The node at work, and since when.
    active: Option<(String, Instant)>,
    /// The step that was told of last: of which node, its number, and when.
    step: Option<(String, f64, Instant)>,
    ended: bool,
}

impl Account {
    fn hear(&mut self, told: &Json, now: Instant) {
        let data = &told["data"];
        match told["type"].as_str().unwrap_or_default() {
            "execution_cached" => self.run.cached += data["nodes"].as_array().map_or(0, Vec::len),
            "executing" => self.begin(data["node"].as_str(), now),
            "progress" => self.step(data, now),
            "execution_success" | "execution_error" | "execution_interrupted" => self.begin(None, now),
            _ => {}
        }
    }

    fn begin(&mut self, node: Option<&str>, now: Instant) {
        if let Some((former, since)) = self.active.take() {
            self.run.nodes.push((former, now - since));
        }
        self.step = None;
        match node {
            Some(node) => self.active = Some((node.to_owned(), now)),
            None => self.ended = true,
        }
    }

    fn step(&mut self, data: &Json, now: Instant) {
        let (Some(node), Some(value)) = (data["node"].as_str(), data["value"].as_f64()) else { return };
        if let Some((former, number, since)) = &self.step
            && former == node
            && value > *number
        {
            let each = (now - *since).div_f64(value - number);
            self.run.steps.entry(node.to_owned()).or_default().push(each);
        }
        self.step = Some((node.to_owned(), value, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_steps_are_timed_from_message_to_message() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut account = Account::default();
        for (ms, kind, data) in [
            (0, "execution_cached", json!({"nodes": ["1", "2"]})),
            (10, "executing", json!({"node": "3"})),
            (50, "progress", json!({"node": "3", "value": 1, "max": 4})),
            (70, "progress", json!({"node": "3", "value": 2, "max": 4})),
            (130, "progress", json!({"node": "3", "value": 4, "max": 4})),
            (140, "executing", json!({"node": "4"})),
            (150, "progress", json!({"node": "4", "value": 5, "max": 5})),
            (200, "execution_success", json!({})),
        ] {
            assert!(!account.ended);
            account.hear(&json!({"type": kind, "data": data}), at(ms));
        }
        assert!(account.ended);
        let ms = Duration::from_millis;
        assert_eq!(account.run.nodes, [("3".to_owned(), ms(130)), ("4".to_owned(), ms(60))]);
        assert_eq!(account.run.steps["3"], [ms(20), ms(30)]);
        assert_eq!((account.run.steps.len(), account.run.cached), (1, 2));
    }

    #[test]
    fn the_history_tells_the_servers_own_time() {
        let status = json!({"messages": [["execution_start", {"timestamp": 5}], ["execution_success", {"timestamp": 47}]]});
        assert_eq!(on_server(&status), Some(Duration::from_millis(42)));
        assert_eq!(on_server(&json!({})), None);
    }
}
