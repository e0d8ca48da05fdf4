//! A real browser without a window, driven over its own protocol.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const PATIENCE: Duration = Duration::from_secs(60);

/// One page in a browser of its own.
pub struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    calls: u64,
    /// What the page complained about: exceptions, and whatever the console says in red.
    pub complaints: Vec<String>,
    /// Addresses that the page asked for.
    pub requests: Vec<String>,
}

fn program() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .flat_map(|folder| ["chromium", "chromium-browser", "google-chrome"].map(|name| folder.join(name)));
    named.into_iter().chain(found).find(|path| path.is_file())
}

impl Browser {
    /// A browser, where this machine has one. Says so where it has none.
    pub async fn open() -> Option<Self> {
        let Some(program) = program() else {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: there is no Chromium; install it or name it in CHROMIUM"
            );
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let opened = tokio::time::timeout(PATIENCE, page_of(profile.path())).await;
        let (socket, _) = connect_async(opened.expect("the browser begins in time")).await.unwrap();
        let mut browser =
            Self { child, _profile: profile, socket, calls: 0, complaints: Vec::new(), requests: Vec::new() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        Some(browser)
    }

    /// Calls a method of the protocol.
    pub async fn call(&mut self, method: &str, parameters: Json) -> Json {
        self.calls += 1;
        let id = self.calls;
        let call = json!({"id": id, "method": method, "params": parameters});
        self.socket.send(Frame::text(call.to_string())).await.unwrap();
        loop {
            let message = self.hear().await;
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
        }
    }

    async fn hear(&mut self) -> Json {
        let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("an answer in time");
        let Frame::Text(text) = next.unwrap().unwrap() else { return Json::Null };
        let message: Json = serde_json::from_str(&text).unwrap();
        let about = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.complaints.push(about["exceptionDetails"].to_string()),
            "Log.entryAdded" if about["entry"]["level"] == "error" => {
                self.complaints.push(about["entry"].to_string());
            }
            "Network.requestWillBeSent" => {
                self.requests.push(about["request"]["url"].as_str().unwrap().to_owned());
            }
            // Whatever the page asks to confirm is confirmed.
            "Page.javascriptDialogOpening" => {
                self.calls += 1;
                let yes = json!({"id": self.calls, "method": "Page.handleJavaScriptDialog", "params": {"accept": true}});
                self.socket.send(Frame::text(yes.to_string())).await.unwrap();
            }
            _ => {}
        }
        message
    }

    pub async fn go(&mut self, address: &str) {
        self.call("Page.navigate", json!({"url": address})).await;
        self.until("document.readyState === 'complete'").await;
    }

    /// The value of an expression in the page.
    pub async fn value(&mut self, expression: &str) -> Json {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true});
        let mut result = self.call("Runtime.evaluate", parameters).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until an expression in the page holds.
    pub async fn until(&mut self, expression: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.value(&format!("Boolean({expression})")).await != true {
            if tokio::time::Instant::now() > deadline {
                let page = self.value("document.body.innerText").await;
                panic!(
                    "`{expression}` does not hold; the page says: {page}; complaints: {:?}",
                    self.complaints
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Presses what a selector finds first.
    pub async fn click(&mut self, selector: &str) {
        self.until(&format!("document.querySelector({selector:?})?.checkVisibility()")).await;
        self.value(&format!("document.querySelector({selector:?}).click()")).await;
    }

    /// Makes the window as wide as this, and its colours dark or light.
    pub async fn look(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({"name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" }});
        self.call("Emulation.setEmulatedMedia", json!({"features": [scheme]})).await;
    }

    /// Keeps a picture of the page in the folder that the variable `COMFYD_SHOTS` names, if it names one.
    pub async fn shot(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("COMFYD_SHOTS") else { return };
        let taken = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true})).await;
        let bytes = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            taken["data"].as_str().unwrap(),
        );
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), bytes.unwrap()).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address of the first page's protocol, once the browser says where it listens.
async fn page_of(profile: &Path) -> String {
    let http = reqwest::Client::new();
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let Ok(text) = std::fs::read_to_string(profile.join("DevToolsActivePort")) else { continue };
        let Some(port) = text.lines().next() else { continue };
        let Ok(answer) = http.get(format!("http://127.0.0.1:{port}/json/list")).send().await else {
            continue;
        };
        let targets: Vec<Json> = answer.json().await.unwrap_or_default();
        let page = targets.iter().find(|target| target["type"] == "page");
        if let Some(address) = page.and_then(|page| page["webSocketDebuggerUrl"].as_str()) {
            return address.to_owned();
        }
    }
}
