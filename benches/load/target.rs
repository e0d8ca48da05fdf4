//! A server in a process of its own, and requests that cost the client next to nothing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

pub struct Target {
    pub name: &'static str,
    pub address: SocketAddr,
    /// Milliseconds from the start of the process to its first answer.
    pub starts: Vec<f64>,
    /// A job that has ended.
    pub finished: String,
    child: Child,
    base: tempfile::TempDir,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Target {
    pub fn comfyd() -> Self {
        Self::start("comfyd", 5, |port, base| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
            command.args(["serve", "--port", &port.to_string(), "--base-directory"]).arg(base);
            command
        })
    }

    /// None where no ComfyUI is named.
    pub fn comfyui() -> Option<Self> {
        let folder = PathBuf::from(std::env::var_os("COMFYUI")?);
        let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        Some(Self::start("ComfyUI", 2, |port, base| {
            let mut command = Command::new(&python);
            command.current_dir(&folder).args(["main.py", "--cpu", "--disable-all-custom-nodes"]);
            command.args(["--disable-api-nodes", "--port", &port.to_string(), "--base-directory"]).arg(base);
            command
        }))
    }

    /// Starts the server so many times and keeps the last one running.
    fn start(name: &'static str, times: usize, command: impl Fn(u16, &Path) -> Command) -> Self {
        let mut starts = Vec::new();
        loop {
            let base = tempfile::tempdir().unwrap();
            std::fs::create_dir(base.path().join("custom_nodes")).unwrap();
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let begun = Instant::now();
            let mut command = command(port, base.path());
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut target = Self { name, address, starts: Vec::new(), finished: String::new(), child, base };
            while !target.answers() {
                assert!(begun.elapsed() < Duration::from_secs(300), "{name} does not answer");
                std::thread::sleep(Duration::from_millis(1));
            }
            starts.push(begun.elapsed().as_secs_f64() * 1e3);
            if starts.len() == times {
                target.starts = starts;
                return target;
            }
        }
    }

    fn answers(&self) -> bool {
        TcpStream::connect(self.address)
            .is_ok_and(|stream| Line(stream).ask("GET", "/system_stats", "").0 == 200)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn line(&self) -> Line {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        Line(stream)
    }

    /// Memory in mebibytes.
    pub fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// A picture to view and a job to remember.
    pub fn prepare(&mut self) {
        let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
        picture.save(self.base.path().join("input/load.png")).unwrap();
        let mut line = self.line();
        self.finished = line.submit(&small(0), "load");
        line.wait_for(&self.finished);
    }
}

/// A graph that makes a small picture and shows it.
pub fn small(colour: usize) -> Json {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": colour}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    })
}

/// A connection that is kept open, one request after the other.
pub struct Line(pub TcpStream);

impl Line {
    pub fn send(&mut self, method: &str, path: &str, body: &str) {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n", body.len());
        self.0.write_all((head + body).as_bytes()).unwrap();
    }

    /// The status and the body of an answer that tells its length.
    pub fn receive(&mut self) -> (u16, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
                let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
                if bytes.len() >= end + 4 + length {
                    return (status, bytes.split_off(end + 4));
                }
            }
            let count = self.0.read(&mut buffer).unwrap_or(0);
            if count == 0 {
                return (0, Vec::new());
            }
            bytes.extend_from_slice(&buffer[..count]);
        }
    }

    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> (u16, Vec<u8>) {
        self.send(method, path, body);
        self.receive()
    }

    /// Queues a graph; its id.
    pub fn submit(&mut self, graph: &Json, client: &str) -> String {
        let (status, answer) =
            self.ask("POST", "/prompt", &json!({"prompt": graph, "client_id": client}).to_string());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        let answer: Json = serde_json::from_slice(&answer).unwrap();
        answer["prompt_id"].as_str().unwrap().to_owned()
    }

    pub fn wait_for(&mut self, id: &str) {
        while self.ask("GET", &format!("/history/{id}"), "").1 == b"{}" {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn wait_until_idle(&mut self) {
        while self.ask("GET", "/prompt", "").1 != br#"{"exec_info": {"queue_remaining": 0}}"# {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
