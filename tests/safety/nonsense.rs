//! Requests that are too large, too deep, not text, or not what they say: refused, and nothing else happens.

use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::server::{Client, Options, Server};
use super::toys::{TOYS, show};

const LIMIT: usize = 1 << 20;

async fn small() -> Server {
    Server::with(Options { nodes: TOYS, max_upload_bytes: Some(LIMIT), ..Options::default() }).await
}

/// The next job runs, whatever came before.
async fn lives(client: &Client) {
    let id = client.queue(&show("alive")).await;
    assert_eq!(client.finished(&id).await["status"]["status_str"], "success");
}

/// The first line of the answer to bytes as they are.
async fn status_line(client: &Client, request: String) -> String {
    client.raw(request).await.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_or_malformed_are_refused() {
    let server = small().await;
    let client = server.client();
    let long = "x".repeat(80 << 10);
    let many = "X-Many: y\r\n".repeat(500);
    for (request, status) in [
        (format!("GET /queue?{long} HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 4"),
        (format!("GET /queue HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n"), "HTTP/1.1 431"),
        (format!("GET /queue HTTP/1.1\r\nHost: x\r\n{many}\r\n"), "HTTP/1.1 431"),
        ("GET /queue HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("GET /que ue HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("POST /prompt HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n".to_owned(), "HTTP/1.1 400"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\r\n\r\n".to_owned(), "HTTP/1.1 400"),
    ] {
        let line = status_line(&client, request.clone()).await;
        assert!(line.starts_with(status), "{line}: {}", &request[..request.len().min(120)]);
    }
    lives(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_the_limit_are_refused_whether_they_announce_it_or_not() {
    let server = small().await;
    let client = server.client();
    for path in [
        "/prompt",
        "/queue",
        "/history",
        "/free",
        "/settings",
        "/userdata/x",
        "/api/jobs/cancel",
        "/upload/image",
    ] {
        let announced = client.post(path, vec![b' '; LIMIT + 1]).await;
        assert_eq!(announced.status(), StatusCode::PAYLOAD_TOO_LARGE, "{path}");
    }
    for path in ["/prompt", "/settings", "/userdata/x"] {
        let chunk = format!("{:x}\r\n{}\r\n", LIMIT / 32, " ".repeat(LIMIT / 32));
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        let line = status_line(&client, head + &chunk.repeat(40) + "0\r\n\r\n").await;
        assert!(line.starts_with("HTTP/1.1 413"), "{path}: {line}");
    }
    let upload = client.upload("large.png", &vec![0; LIMIT], &[]).await;
    assert_eq!(upload.status(), StatusCode::PAYLOAD_TOO_LARGE);
    for folder in ["input", "temp", "user"] {
        let entries = std::fs::read_dir(server.base().join(folder)).unwrap();
        // The server keeps its queue there.
        let left = entries.filter(|entry| entry.as_ref().unwrap().file_name() != "comfyd").count();
        assert_eq!(left, 0, "{folder}");
    }
    lives(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_too_large_or_no_text_end_their_websocket_only() {
    let server = small().await;
    let client = server.client();
    let mut other = client.socket("other").await;
    let mut large = client.socket("large").await;
    // The server may hang up before all of it is sent.
    let _ = large.try_say(&"x".repeat((4 << 20) + 1)).await;
    assert!(large.is_closed().await);
    let mut fitting = client.socket("fitting").await;
    fitting.say(&format!("\"{}\"", "x".repeat((4 << 20) - 2))).await;
    fitting.say(&format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000))).await;
    fitting.say("{\"type\": 1e999, \"type\": {}}").await;
    assert_eq!(fitting.rest().await, []);
    // A masked text frame of two bytes that are no UTF-8, and the same as a frame of a made-up kind.
    for first in [0x81, 0x8f] {
        let mut broken = client.socket("broken").await;
        broken.write_raw(&[first, 0x82, 0, 0, 0, 0, 0xc3, 0x28]).await;
        assert!(broken.is_closed().await, "{first:x}");
    }
    assert_eq!(other.rest().await, []);
    lives(&client).await;
}

/// Every path that reads a JSON body.
const DOCUMENTS: [(&str, &str); 9] = [
    ("POST", "/prompt"),
    ("POST", "/queue"),
    ("POST", "/history"),
    ("POST", "/interrupt"),
    ("POST", "/free"),
    ("POST", "/settings"),
    ("POST", "/users"),
    ("POST", "/api/jobs/cancel"),
    ("PATCH", "/internal/logs/subscribe"),
];

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_any_shape_are_answered_without_harm() {
    let server = small().await;
    let client = server.client();
    let deep =
        |open: &str, close: &str| format!("{}1{}", open.repeat(50_000), close.repeat(50_000)).into_bytes();
    let graph = show("x").to_string();
    let bodies = [
        Vec::new(),
        b"\x00".to_vec(),
        b"\xff\xfe{\x00}\x00".to_vec(),
        b"{\"prompt\": \"\xc3\x28\"}".to_vec(),
        b"\"\\ud800\"".to_vec(),
        b"[[[".to_vec(),
        deep("[", "]"),
        deep("{\"prompt\": ", "}"),
        deep("{\"1\": {\"inputs\": ", "}}"),
        format!("{{\"number\": {}, \"prompt\": {graph}}}", "9".repeat(10_000)).into_bytes(),
        format!("{{\"number\": 1e400, \"prompt\": {graph}}}").into_bytes(),
        format!("{{\"number\": -1e308, \"number\": {{}}, \"prompt\": {graph}}}").into_bytes(),
        format!("{{\"prompt_id\": [[]], \"client_id\": {{}}, \"extra_data\": 5, \"prompt\": {graph}}}")
            .into_bytes(),
        format!("{{\"extra_data\": {{\"extra_pnginfo\": [1], \"client_id\": []}}, \"prompt\": {graph}}}")
            .into_bytes(),
        b"{\"prompt\": {\"1\": null, \"\": {}, \"\\u0000\": {\"class_type\": \"ToyShow\"}}}".to_vec(),
        b"{\"delete\": {\"a\": 1}, \"clear\": [[]], \"job_ids\": [null], \"username\": 5, \"clientId\": 5}"
            .to_vec(),
    ];
    for (method, path) in DOCUMENTS {
        for body in &bodies {
            let request = client.request(method.parse::<Method>().unwrap(), path).body(body.clone());
            let status = request.send().await.unwrap().status().as_u16();
            assert!(status < 500, "{method} {path} {status}: {:.80}", String::from_utf8_lossy(body));
        }
    }
    for (path, body) in [("/settings/deep", deep("[", "]")), ("/settings/x", b"\xff".to_vec())] {
        assert_eq!(client.post(path, body).await.status(), StatusCode::BAD_REQUEST);
    }
    lives(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_key_that_stands_there_twice_the_last_counts() {
    let server = small().await;
    let client = server.client();
    let body = r#"{"prompt": {}, "prompt_id": "first", "prompt_id": "second",
                   "prompt": {"1": {"class_type": "Nothing", "class_type": "ToyShow", "inputs": {"text": "a", "text": "b"}}}}"#;
    let answer: Json = client.post("/prompt", body).await.json().await.unwrap();
    assert_eq!(answer["prompt_id"], "second");
    assert_eq!(client.finished("second").await["outputs"]["1"]["text"], json!(["b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_are_answered_wherever_they_stand() {
    let server = small().await;
    let client = server.client();
    for path in [
        "/history/%ff%fe",
        "/userdata/%ff",
        "/settings/%c3%28",
        "/object_info/%80",
        "/models/%ff",
        "/%ff",
        "/view?filename=%ff%fe.png",
        "/view?filename=x.png&subfolder=%c3%28",
        "/ws?clientId=%ff",
        "/userdata?dir=%ff",
        "/v2/userdata?path=%ff",
        "/history?max_items=%ff",
        "/api/jobs?status=%ff",
        "/api/jobs/%ff",
        "/experiment/models/preview/loras/0/%ff",
        "/view_metadata/loras?filename=%ff.safetensors",
        "/internal/files/%ff",
        "/view?filename=%zz",
        "/view?filename=%",
        "/history?offset=99999999999999999999",
    ] {
        let line =
            status_line(&client, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
                .await;
        let code: u16 = line.split(' ').nth(1).unwrap_or_else(|| panic!("{path}: {line}")).parse().unwrap();
        assert!((200..500).contains(&code), "{path}: {line}");
    }
    let latin1 = reqwest::header::HeaderValue::from_bytes(b"caf\xe9").unwrap();
    for header in
        ["Accept", "Range", "If-None-Match", "Comfy-Usage-Source", "Accept-Encoding", "Sec-Fetch-Dest"]
    {
        let status =
            client.request(Method::GET, "/queue").header(header, &latin1).send().await.unwrap().status();
        assert_eq!(status, StatusCode::OK, "{header}");
    }
    let form = b"--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"\xff\xfe.png\"\r\n\r\nx\r\n--b--\r\n";
    let request = client.request(Method::POST, "/upload/image");
    let request = request.header("Content-Type", "multipart/form-data; boundary=b").body(form.to_vec());
    assert!(request.send().await.unwrap().status().as_u16() < 500);
    lives(&client).await;
}
