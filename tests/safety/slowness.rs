//! Clients that begin and do not go on: heads, bodies and websockets that stand still.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::server::{Client, Options, Server};
use super::toys::{TOYS, heavy, show};

/// How long the servers here wait; long enough for busy machines, short enough to wait for.
const PATIENCE: Duration = Duration::from_secs(3);

async fn impatient() -> Server {
    Server::with(Options { nodes: TOYS, patience: Some(PATIENCE), ..Options::default() }).await
}

fn address(server: &Server) -> std::net::SocketAddr {
    server.url.trim_start_matches("http://").parse().unwrap()
}

async fn begin(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address(server)).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Everything the server sends until it closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(4 * PATIENCE, stream.read_to_end(&mut answer)).await;
    // Closing with bytes unread resets the connection, which is an end as well.
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The longest of several whole jobs and questions.
async fn slowest_of(client: &Client, count: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for number in 0..count {
        let asked = Instant::now();
        client.json("/queue").await;
        let id = client.queue(&show(&format!("job {number}"))).await;
        client.finished(&id).await;
        slowest = slowest.max(asked.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_that_stand_still_hold_up_nobody_and_end() {
    let server = impatient().await;
    let client = server.client();
    let mut heads = Vec::new();
    let mut bodies = Vec::new();
    for number in 0..400 {
        let begun = ["", "G", "GET /queue HTTP/1.1\r\n", "GET /queue HTTP/1.1\r\nHost: x\r\nX-Slow: "];
        heads.push(begin(&server, begun[number % 4]).await);
        let target = ["/prompt", "/upload/image", "/userdata/slow.txt", "/interrupt"][number % 4];
        let kind = "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n";
        let start =
            "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"slow.png\"\r\n\r\nbytes";
        bodies.push(begin(&server, &format!("POST {target} HTTP/1.1\r\nHost: x\r\n{kind}\r\n{start}")).await);
    }
    let slowest = slowest_of(&client, 20).await;
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    for head in heads {
        let answer = rest(head).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    for body in bodies {
        let answer = rest(body).await;
        let ended = ["HTTP/1.1 400", "HTTP/1.1 200"].iter().any(|start| answer.starts_with(start));
        assert!(answer.is_empty() || ended, "{answer}");
    }
    for folder in ["input", "temp", "user"] {
        let entries = std::fs::read_dir(server.base().join(folder)).unwrap().map(Result::unwrap);
        // The server keeps its queue there.
        let left: Vec<_> = entries.filter(|entry| entry.file_name() != "comfyd").collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
    slowest_of(&client, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_take_long_while_something_arrives() {
    let server = impatient().await;
    let body = json!({"prompt": show("slow but sure")}).to_string();
    let head = format!(
        "POST /prompt HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = begin(&server, &head).await;
    let step = body.len() / 5;
    for part in body.as_bytes().chunks(step) {
        tokio::time::sleep(PATIENCE / 4).await;
        stream.write_all(part).await.unwrap();
    }
    assert!(rest(stream).await.starts_with("HTTP/1.1 200"));
}

/// A websocket whose client never reads, with as little room on its way as the system allows.
async fn deaf(server: &Server, client: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let mut stream = socket.connect(address(server)).await.unwrap();
    let request = format!(
        "GET /ws?clientId={client} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 101");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_that_never_read_are_let_go_and_delay_nobody() {
    let server = impatient().await;
    let client = server.client();
    let mut silent = Vec::new();
    for number in 0..50 {
        silent.push(deaf(&server, &format!("deaf{number}")).await);
    }
    let mut reader = client.socket("reader").await;
    // Pictures of 12 megabytes, to everybody: far more than systems keep for a slow reader.
    let begun = Instant::now();
    let id = client.queue(&heavy(10)).await;
    client.finished(&id).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    // Whoever reads hears of the work, and of its end.
    reader.until("progress").await;
    reader.until("status").await;
    let slowest = slowest_of(&client, 20).await;
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    tokio::time::sleep(2 * PATIENCE).await;
    for stream in silent {
        // What was under way before the server hung up is still there to be read.
        rest(stream).await;
    }
}
