//! Jobs, how long they take, and who else is connected meanwhile.

use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::StreamExt as _;
use serde_json::{Value as Json, json};
use tokio_tungstenite::tungstenite::stream::MaybeTlsStream;
use tokio_tungstenite::tungstenite::{WebSocket, connect};

use super::target::{Target, small};

/// Milliseconds.
#[derive(Clone, Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn extend(&mut self, others: Times) {
        self.0.extend(others.0);
    }

    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }
}

/// A number that no graph of this run had before, so that nothing is answered from a cache.
fn fresh() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

type Socket = WebSocket<MaybeTlsStream<TcpStream>>;

fn socket(target: &Target, client: &str) -> Socket {
    let (socket, _) = connect(format!("ws://{}/ws?clientId={client}", target.address)).unwrap();
    if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
        stream.set_nodelay(true).unwrap();
    }
    socket
}

/// Waits for the message that says so.
fn hear(socket: &mut Socket, words: &str) {
    while !socket.read().unwrap().to_text().is_ok_and(|text| text.contains(words)) {}
}

/// From sending a graph to hearing that it succeeded.
pub fn round_trips(target: &Target, count: usize) -> Times {
    let mut socket = socket(target, "timer");
    let mut line = target.line();
    let mut times = Times::default();
    for warm in 0..count + 10 {
        let body = json!({"prompt": small(fresh()), "client_id": "timer"}).to_string();
        let begun = Instant::now();
        line.send("POST", "/prompt", &body);
        hear(&mut socket, "\"execution_success\"");
        let took = begun.elapsed().as_secs_f64() * 1e3;
        assert_eq!(line.receive().0, 200);
        if warm >= 10 {
            times.0.push(took);
        }
    }
    times
}

/// A picture, inverted 28 times and shown.
fn chain() -> Json {
    let mut graph = small(fresh());
    graph["2"]["inputs"]["images"] = json!(["30", 0]);
    graph["3"] = json!({"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}});
    for node in 4..=30 {
        graph[node.to_string()] =
            json!({"class_type": "ImageInvert", "inputs": {"image": [(node - 1).to_string(), 0]}});
    }
    graph
}

/// How long the answer to a prompt takes while the one before runs.
pub fn posts_of_thirty_nodes(target: &Target, count: usize) -> Times {
    let mut line = target.line();
    let mut times = Times::default();
    for _ in 0..count {
        let body = json!({"prompt": chain()}).to_string();
        let begun = Instant::now();
        let (status, answer) = line.ask("POST", "/prompt", &body);
        times.0.push(begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    }
    line.wait_until_idle();
    times
}

/// Jobs per second of a thousand that are queued as fast as they are taken.
pub fn thousand(target: &Target) -> f64 {
    let mut line = target.line();
    let begun = Instant::now();
    for _ in 0..1000 {
        line.submit(&small(fresh()), "nobody");
    }
    line.wait_until_idle();
    1000.0 / begun.elapsed().as_secs_f64()
}

/// Websockets of other clients; they close when this is dropped.
pub struct Crowd {
    _sockets: Vec<Socket>,
    _reading: Option<tokio::runtime::Runtime>,
}

impl Crowd {
    /// Clients that read what they are told.
    pub fn reading(target: &Target, count: usize) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        for number in 0..count {
            let url = format!("ws://{}/ws?clientId=idle{number}", target.address);
            let (socket, _) = runtime.block_on(tokio_tungstenite::connect_async(url)).unwrap();
            runtime.spawn(socket.for_each(|_| std::future::ready(())));
        }
        Self { _sockets: Vec::new(), _reading: Some(runtime) }
    }

    /// Clients that never read.
    pub fn deaf(target: &Target, count: usize) -> Self {
        let sockets = (0..count).map(|number| socket(target, &format!("deaf{number}"))).collect();
        Self { _sockets: sockets, _reading: None }
    }
}
