//! A real server in this process: real sockets on a free port, real files in a folder of its own.
#![allow(dead_code, reason = "not every test binary uses all of it")]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use comfyd::api::{Logs, Patience, Settings};
use comfyd::auth::{Gate, Places, Policy};
use comfyd::cli::serve::{Server as Running, Setup};
use comfyd::graph::{AnyNode, CachePolicy, Registry};
use comfyd::nodes::{self, Services};
use comfyd::paths::Folders;
use comfyd::queue::Durability;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message as Frame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a test may want to be different.
#[derive(Default)]
pub struct Options {
    /// Written to `login/PASSWORD`.
    pub password: Option<String>,
    pub policy: Policy,
    pub cors_origin: Option<String>,
    pub web_root: Option<PathBuf>,
    pub max_upload_bytes: Option<usize>,
    pub compress: bool,
    /// For heads, bodies and readers that stand still; the usual without it.
    pub patience: Option<Duration>,
    /// Model files that are there already.
    pub models: Option<PathBuf>,
    pub idle_unload: Option<Duration>,
    /// How long the running job may go on when the server ends.
    pub drain: Duration,
    /// Nodes besides the real ones.
    pub nodes: &'static [&'static dyn AnyNode<Services>],
}

pub struct Server {
    running: Option<Running>,
    base: tempfile::TempDir,
    pub url: String,
    token: Option<String>,
}

impl Server {
    /// A server that asks for no token.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let base = tempfile::tempdir().expect("a folder");
        let password = base.path().join("login/PASSWORD");
        if let Some(text) = &options.password {
            std::fs::create_dir(base.path().join("login")).expect("a folder");
            std::fs::write(&password, text).expect("a file");
        }
        let mut folders = Folders::below(base.path());
        folders.models = options.models.unwrap_or(folders.models);
        let real = nodes::registry();
        let registry = Registry::new(real.iter().chain(options.nodes.iter().copied()));
        let running = Running::start(Setup {
            listen: vec![([127, 0, 0, 1], 0).into()],
            settings: Settings {
                patience: options.patience.map_or_else(Patience::default, |time| Patience {
                    head: time,
                    body: time,
                    reader: time,
                }),
                max_upload_bytes: options.max_upload_bytes.unwrap_or(100 << 20),
                cors_origin: options.cors_origin,
                compress: options.compress,
                web_root: options.web_root,
                argv: vec!["comfyd".to_owned()],
                open_metrics: false,
            },
            gate: Gate::new(Places::below(base.path()), options.policy).expect("a usable token"),
            registry,
            services: Services::new(folders),
            cache: CachePolicy::Classic,
            logs: Logs::default(),
            journal: Some(Durability::Synced),
            idle_unload: options.idle_unload,
            drain: options.drain,
        })
        .await
        .expect("a server");
        let url = format!("http://{}", running.addresses()[0]);
        let token = options.password.and_then(|text| text.lines().next().map(str::to_owned));
        Self { running: Some(running), base, url, token }
    }

    pub fn base(&self) -> &Path {
        self.base.path()
    }

    /// A client that sends the token, if there is one.
    pub fn client(&self) -> Client {
        Client { url: self.url.clone(), token: self.token.clone(), http: http() }
    }

    /// A client that sends none.
    pub fn stranger(&self) -> Client {
        Client { url: self.url.clone(), token: None, http: http() }
    }

    /// Ends the server as a signal would.
    pub async fn end(mut self) {
        self.running.take().expect("a running server").end().await;
    }
}

/// A connection that has been idle for this long is not used again: a server here may close it after three seconds, and
/// whoever writes at that moment hears nothing.
const FRESH: Duration = Duration::from_secs(1);

fn http() -> reqwest::Client {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    client.timeout(PATIENCE).pool_idle_timeout(FRESH).build().expect("a client")
}

/// Whoever talks to the server.
#[derive(Clone)]
pub struct Client {
    url: String,
    token: Option<String>,
    http: reqwest::Client,
}

impl Client {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.expect("an answer")
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::POST, path).body(body).send().await.expect("an answer")
    }

    /// The document behind a path that must answer 200.
    pub async fn json(&self, path: &str) -> Json {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.expect("a document")
    }

    /// Queues a graph; the answer whatever it is.
    pub async fn submit(&self, body: &Json) -> (StatusCode, Json) {
        let response = self.post("/prompt", body.to_string()).await;
        (response.status(), response.json().await.expect("a document"))
    }

    /// Queues a graph that must be accepted; its id.
    pub async fn queue(&self, graph: &Json) -> String {
        self.queue_for(graph, json!({})).await
    }

    /// As [`Client::queue`], with more keys in the body.
    pub async fn queue_for(&self, graph: &Json, more: Json) -> String {
        let mut body = json!({"prompt": graph});
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        let (status, answer) = self.submit(&body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["prompt_id"].as_str().expect("an id").to_owned()
    }

    /// The history entry of a job, once it is there.
    pub async fn finished(&self, id: &str) -> Json {
        let found = async {
            loop {
                let mut history = self.json(&format!("/history/{id}")).await;
                if let Some(entry) = history.get_mut(id) {
                    break entry.take();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the job ends in time")
    }

    /// Opens a websocket; the status of a refused handshake.
    pub async fn try_socket(&self, path: &str) -> Result<Socket, u16> {
        let mut address = format!("ws{}{path}", self.url.trim_start_matches("http"));
        if let Some(token) = &self.token {
            let mark = if path.contains('?') { '&' } else { '?' };
            address = format!("{address}{mark}token={token}");
        }
        match connect_async(address).await {
            Ok((stream, _)) => Ok(Socket(stream)),
            Err(SocketError::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("no handshake: {error}"),
        }
    }

    /// Opens a websocket and reads its greeting.
    pub async fn socket(&self, client: &str) -> Socket {
        let mut socket = self.try_socket(&format!("/ws?clientId={client}")).await.expect("a websocket");
        let greeting = socket.json().await;
        assert_eq!(greeting["type"], "status");
        assert_eq!(greeting["data"]["sid"], client);
        socket
    }

    /// Uploads bytes under a name, with further form fields.
    pub async fn upload(&self, name: &str, bytes: &[u8], fields: &[(&str, &str)]) -> Response {
        self.upload_to("/upload/image", name, bytes, fields).await
    }

    pub async fn upload_to(&self, path: &str, name: &str, bytes: &[u8], fields: &[(&str, &str)]) -> Response {
        let part = reqwest::multipart::Part::bytes(bytes.to_vec()).file_name(name.to_owned());
        let mut form = reqwest::multipart::Form::new().part("image", part);
        for (key, value) in fields {
            form = form.text((*key).to_owned(), (*value).to_owned());
        }
        self.request(Method::POST, path).multipart(form).send().await.expect("an answer")
    }

    /// Sends bytes as they are and reads what comes back until the server closes.
    pub async fn raw(&self, request: String) -> String {
        let address = self.url.trim_start_matches("http://").to_owned();
        let exchange = move || {
            let mut stream = std::net::TcpStream::connect(address).expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            stream.write_all(request.as_bytes()).expect("sent");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("an answer");
            String::from_utf8_lossy(&answer).into_owned()
        };
        tokio::task::spawn_blocking(exchange).await.expect("an answer")
    }
}

/// One websocket.
pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// A frame as tests compare it.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Json(Json),
    Binary(Vec<u8>),
}

impl Heard {
    /// The type of a message, `executing null` for the last one of a run, `binary N` for other frames.
    pub fn word(&self) -> String {
        match self {
            Self::Json(message) if message["type"] == "executing" && message["data"]["node"].is_null() => {
                "executing null".to_owned()
            }
            Self::Json(message) => message["type"].as_str().expect("a type").to_owned(),
            Self::Binary(bytes) => format!("binary {}", bytes[3]),
        }
    }
}

impl Socket {
    pub fn of(stream: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        Self(stream)
    }

    /// The next frame that carries something.
    pub async fn next(&mut self) -> Heard {
        let next = async {
            loop {
                match self.0.next().await.expect("an open websocket").expect("a frame") {
                    Frame::Text(text) => break Heard::Json(serde_json::from_str(&text).expect("JSON")),
                    Frame::Binary(bytes) => break Heard::Binary(bytes.to_vec()),
                    Frame::Close(_) => panic!("the server closed the websocket"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("a frame in time")
    }

    pub async fn json(&mut self) -> Json {
        match self.next().await {
            Heard::Json(message) => message,
            Heard::Binary(bytes) => panic!("a binary frame of {} bytes", bytes.len()),
        }
    }

    /// All frames up to and with the first of this kind.
    pub async fn until(&mut self, word: &str) -> Vec<Heard> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.next().await);
            if heard.last().is_some_and(|last| last.word() == word) {
                return heard;
            }
        }
    }

    /// What has arrived and arrives within a moment.
    pub async fn rest(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        while let Ok(frame) = tokio::time::timeout(Duration::from_millis(400), self.next()).await {
            heard.push(frame);
        }
        heard
    }

    pub async fn say(&mut self, text: &str) {
        self.try_say(text).await.expect("sent");
    }

    /// As [`Socket::say`], to a server that may hang up meanwhile.
    pub async fn try_say(&mut self, text: &str) -> Result<(), SocketError> {
        self.0.send(Frame::text(text)).await
    }

    /// Puts bytes on the wire that may be no frame.
    pub async fn write_raw(&mut self, bytes: &[u8]) {
        use tokio::io::AsyncWriteExt as _;
        self.0.get_mut().write_all(bytes).await.expect("sent");
    }

    /// Leaves without a word, as a client that crashes.
    pub fn drop_connection(self) {
        drop(self.0);
    }

    /// Whether the server closes the connection.
    pub async fn is_closed(&mut self) -> bool {
        let closed = async {
            loop {
                match self.0.next().await {
                    None | Some(Ok(Frame::Close(_)) | Err(_)) => break,
                    Some(Ok(_)) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.is_ok()
    }
}
