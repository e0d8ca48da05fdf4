//! Thousands of connections at once, and how little they cost.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::connect_async;

/// The program in a process of its own, so that what it uses can be told from what the test uses.
struct Process {
    child: Child,
    address: String,
    _base: tempfile::TempDir,
}

impl Process {
    fn start() -> Self {
        let base = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
        command.args(["serve", "--port", "0", "--base-directory"]).arg(base.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.by_ref().map_while(Result::ok).find(|line| line.contains("listening on ")).unwrap();
        let address = line.split("http://").nth(1).unwrap().trim().to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, _base: base }
    }

    /// Memory in kilobytes.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn run(address: &str, colour: usize) {
    let client = reqwest::Client::new();
    let graph = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": colour}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    });
    let body = json!({"prompt": graph}).to_string();
    let answer = client.post(format!("http://{address}/prompt")).body(body).send().await.unwrap();
    let id = answer.json::<Json>().await.unwrap()["prompt_id"].as_str().unwrap().to_owned();
    loop {
        let history = client.get(format!("http://{address}/history/{id}")).send().await.unwrap();
        if !history.json::<Json>().await.unwrap().as_object().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_connections_are_served_and_cost_little() {
    let room = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let count = usize::try_from(room).unwrap_or(usize::MAX).saturating_sub(200).min(2500);
    let process = Process::start();
    run(&process.address, 0).await;
    let before = process.resident();
    let mut idle = Vec::new();
    for _ in 0..count * 4 / 5 {
        let mut stream = TcpStream::connect(&process.address).await.unwrap();
        stream.write_all(b"GET /prompt HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut start = [0; 15];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
        idle.push(stream);
    }
    let mut sockets = Vec::new();
    for number in 0..count / 5 {
        let url = format!("ws://{}/ws?clientId={number}", process.address);
        sockets.push(connect_async(url).await.unwrap().0);
    }
    let each = (process.resident().saturating_sub(before)) / count as u64;
    assert!(each < 64, "{each} kB a connection");
    let begun = Instant::now();
    run(&process.address, 1).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for socket in &mut sockets {
        let mut told = 0;
        while told < 3 {
            told += usize::from(socket.next().await.unwrap().unwrap().is_text());
        }
    }
    drop((idle, sockets));
    run(&process.address, 2).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn websockets_that_never_read_use_no_memory_to_speak_of() {
    let process = Process::start();
    for colour in 0..20 {
        run(&process.address, colour).await;
    }
    let before = process.resident();
    let mut deaf = Vec::new();
    for number in 0..50 {
        let url = format!("ws://{}/ws?clientId={number}", process.address);
        deaf.push(connect_async(url).await.unwrap().0);
    }
    for colour in 100..400 {
        run(&process.address, colour).await;
    }
    let grown = process.resident().saturating_sub(before);
    assert!(grown < 48 << 10, "{grown} kB");
    drop(deaf);
}
