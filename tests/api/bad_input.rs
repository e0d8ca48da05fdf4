//! Input that no honest client sends. The server answers clearly and lives on.

use reqwest::StatusCode;
use serde_json::{Map, Value as Json, json};

use super::server::{Client, Options, Server};
use super::toys::{TOYS, show};

async fn toys() -> Server {
    Server::with(Options { nodes: TOYS, ..Options::default() }).await
}

/// The next job runs, whatever came before.
async fn lives(client: &Client) {
    let id = client.queue(&show("alive")).await;
    assert_eq!(client.finished(&id).await["status"]["status_str"], "success");
}

/// The answer to a body that must be refused in ComfyUI's shape.
async fn refused(client: &Client, body: impl Into<reqwest::Body>) -> Json {
    let response = client.post("/prompt", body).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let answer: Json = response.json().await.unwrap();
    for key in ["type", "message", "details"] {
        assert!(answer["error"][key].is_string(), "{answer}");
    }
    assert!(answer["error"]["extra_info"].is_object() && answer["node_errors"].is_object(), "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_json_are_a_clear_400() {
    let server = toys().await;
    let client = server.client();
    let bomb = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    for body in [
        Vec::new(),
        b"{".to_vec(),
        b"this is not json".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        br#"{"prompt": "\ud800"}"#.to_vec(),
        bomb("[", "]").into_bytes(),
        bomb("{\"a\":", "}").into_bytes(),
        format!("{{\"prompt\": {}}}", bomb("[", "]")).into_bytes(),
    ] {
        assert_eq!(refused(&client, body).await["error"]["type"], "invalid_json");
    }
    for path in ["/queue", "/history", "/free", "/settings", "/settings/x"] {
        assert_eq!(client.post(path, "{broken").await.status(), StatusCode::BAD_REQUEST, "{path}");
    }
    for body in ["[]", "null", "3", "\"text\""] {
        assert_eq!(refused(&client, body).await["error"]["type"], "invalid_json");
    }
    lives(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_read_whatever_it_is_called_and_with_a_byte_order_mark() {
    let server = toys().await;
    let client = server.client();
    let body = format!("\u{feff}{}", json!({"prompt": show("bom")}));
    for kind in ["text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "application/octet-stream"]
    {
        let request = client.request(reqwest::Method::POST, "/prompt").header("content-type", kind);
        let response = request.body(body.clone()).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_of_the_wrong_shape_are_refused_in_comfyuis_words() {
    let server = toys().await;
    let client = server.client();
    let mut kinds = Vec::new();
    for body in [
        json!({}),
        json!({"prompt": {}}),
        json!({"prompt": []}),
        json!({"prompt": "text"}),
        json!({"prompt": {"1": 5}}),
        json!({"prompt": {"1": {}}}),
        json!({"prompt": {"1": {"class_type": "NoSuchClass", "inputs": {}}}}),
        json!({"prompt": {"1": {"class_type": null, "inputs": {}}}}),
        json!({"prompt": {"1": {"class_type": "ToyShow"}}}),
        json!({"prompt": {"1": {"class_type": "ToyShow", "inputs": 7}}}),
        json!({"prompt": {"1": {"class_type": "ToyShow", "inputs": {"text": ["9", 0]}}}}),
        json!({"prompt": {"1": {"class_type": "ToySource", "inputs": {"text": "x"}}}}),
        json!({"prompt": show("x"), "number": "many"}),
    ] {
        kinds.push(refused(&client, body.to_string()).await["error"]["type"].as_str().unwrap().to_owned());
    }
    let invalid = "invalid_prompt";
    let failed = "prompt_outputs_failed_validation";
    let none = "prompt_no_outputs";
    let expected = [
        "no_prompt",
        none,
        invalid,
        invalid,
        invalid,
        invalid,
        invalid,
        invalid,
        failed,
        failed,
        failed,
        none,
        "invalid_number",
    ];
    assert_eq!(kinds, expected);
    lives(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_out_of_range_are_blamed_on_their_input() {
    let server = toys().await;
    let client = server.client();
    let graph = |steps: &str| {
        format!(
            r#"{{"prompt": {{"1": {{"class_type": "ToySource", "inputs": {{"text": "x"}}}},
                "2": {{"class_type": "ToySlow", "inputs": {{"text": ["1", 0], "steps": {steps}, "pictures": 0}}}},
                "3": {{"class_type": "ToyShow", "inputs": {{"text": ["2", 0]}}}}}}}}"#
        )
    };
    for (steps, kind) in [
        ("0", "value_smaller_than_min"),
        ("-1e300", "value_smaller_than_min"),
        ("18446744073709551616", "value_bigger_than_max"),
        ("100001", "value_bigger_than_max"),
        ("NaN", "invalid_input_type"),
        ("Infinity", "invalid_input_type"),
        ("\"wide\"", "invalid_input_type"),
        ("null", "invalid_input_type"),
        ("[\"1\"]", "bad_linked_input"),
    ] {
        let answer = refused(&client, graph(steps)).await;
        let error = &answer["node_errors"]["2"]["errors"][0];
        assert_eq!(error["type"], kind, "{steps}: {answer}");
        assert_eq!(error["extra_info"]["input_name"], "steps", "{steps}");
        assert!(error["extra_info"]["input_config"].is_array(), "{steps}");
        assert_eq!(answer["node_errors"]["2"]["dependent_outputs"], json!(["3"]));
    }
    lives(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_ten_thousand_nodes_is_refused() {
    let server = toys().await;
    let client = server.client();
    let node = |index: usize| {
        let link = json!([((index + 1) % 10_000).to_string(), 0]);
        (
            index.to_string(),
            json!({"class_type": "ToySlow", "inputs": {"text": link, "steps": 1, "pictures": 0}}),
        )
    };
    let mut graph: Map<_, _> = (0..10_000).map(node).collect();
    graph.insert("out".to_owned(), json!({"class_type": "ToyShow", "inputs": {"text": ["0", 0]}}));
    let answer = refused(&client, json!({"prompt": graph}).to_string()).await;
    assert_eq!(answer["error"]["type"], "prompt_outputs_failed_validation");
    lives(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_a_413_that_reaches_a_client_still_sending() {
    let server = Server::with(Options { nodes: TOYS, ..Options::default() }).await;
    let client = server.client();
    for path in ["/prompt", "/upload/image", "/userdata/big.bin"] {
        let response = client.post(path, vec![b' '; 101 << 20]).await;
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "{path}");
        assert!(response.text().await.unwrap().contains("104857600"), "{path}");
    }
    lives(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_hides_its_size_is_a_413_as_well() {
    let server =
        Server::with(Options { nodes: TOYS, max_upload_bytes: Some(1000), ..Options::default() }).await;
    let client = server.client();
    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    for (path, kind) in [("/prompt", "text/plain"), ("/upload/image", "multipart/form-data; boundary=b")] {
        let start = if kind.starts_with("multi") {
            let part = "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"x\"\r\n\r\n";
            format!("{:x}\r\n{part}\r\n", part.len())
        } else {
            String::new()
        };
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n{start}{chunk}{chunk}0\r\n\r\n"
        );
        let answer = client.raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
    }
    lives(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_paths_and_queries_are_no_500() {
    let server = toys().await;
    let client = server.client();
    for path in [
        "/history/%FF",
        "/history/%00",
        "/view?filename=%FF%FE",
        "/object_info/%FF",
        "/models/%2e%2e",
        "/userdata/%FF",
        "/settings/%FF",
        "/view?filename[]=x",
        "/%FF",
        "/prompt?%FF=%FF&&=",
        "/view?filename=x%0Ay.png",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = client.raw(request).await;
        let status = answer.lines().next().unwrap();
        assert!(["200", "400", "403", "404"].iter().any(|good| status.contains(good)), "{path}: {status}");
    }
    lives(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_too_large_closes_its_websocket_only() {
    let server = toys().await;
    let client = server.client();
    let mut socket = client.socket("loud").await;
    let mut other = client.socket("other").await;
    // The server may hang up before all of it is sent.
    let _ = socket.try_say(&"x".repeat(5 << 20)).await;
    assert!(socket.is_closed().await);
    client.queue_for(&show("x"), json!({"client_id": "other"})).await;
    other.until("executing null").await;
    lives(&client).await;
}
