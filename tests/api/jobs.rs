//! Queueing, running, interrupting, and what is remembered.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use super::server::{Client, Options, Server};
use super::toys::{TOYS, show, slow};

pub async fn toys() -> Server {
    Server::with(Options { nodes: TOYS, ..Options::default() }).await
}

async fn remaining(client: &Client) -> i64 {
    client.json("/prompt").await["exec_info"]["queue_remaining"].as_i64().unwrap()
}

/// Queues a job that runs until it is interrupted, and waits until it runs.
pub async fn block(client: &Client) -> String {
    let id = client.queue(&slow("block", 100_000)).await;
    for _ in 0..1000 {
        if client.json("/queue").await["queue_running"][0][1] == id.as_str() {
            return id;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{id} does not begin to run")
}

async fn pending(client: &Client) -> Vec<String> {
    let queue = client.json("/queue").await;
    let jobs = queue["queue_pending"].as_array().unwrap();
    jobs.iter().map(|job| job[1].as_str().unwrap().to_owned()).collect()
}

async fn history(client: &Client, query: &str) -> Vec<String> {
    client.json(&format!("/history{query}")).await.as_object().unwrap().keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_job_leaves_graph_outputs_and_milestones() {
    let server = toys().await;
    let client = server.client();
    let body = json!({
        "prompt": {"1": {"class_type": "ToyShow", "inputs": {"text": 12.5}, "_meta": {"title": "é"}}},
        "client_id": "me",
        "prompt_id": "own-id",
        "extra_data": {"note": 1, "api_key_comfy_org": "secret"},
        "unknown": [],
    });
    let (status, answer) = client.submit(&body).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer, json!({"prompt_id": "own-id", "number": 0, "node_errors": {}}));
    let entry = client.finished("own-id").await;
    let keys: Vec<_> = entry.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["prompt", "outputs", "status", "meta"]);
    let graph = json!({"1": {"class_type": "ToyShow", "inputs": {"text": "12.5"}, "_meta": {"title": "é"}}});
    assert_eq!(entry["prompt"], json!([0, "own-id", graph, {"note": 1, "client_id": "me"}, ["1"]]));
    assert_eq!(entry["outputs"], json!({"1": {"text": ["12.5"]}}));
    assert_eq!(
        entry["meta"],
        json!({"1": {"node_id": "1", "display_node": "1", "parent_node": null, "real_node_id": "1"}})
    );
    assert_eq!(entry["status"]["status_str"], "success");
    assert_eq!(entry["status"]["completed"], true);
    let messages = entry["status"]["messages"].as_array().unwrap();
    let words: Vec<_> = messages.iter().map(|message| message[0].as_str().unwrap()).collect();
    assert_eq!(words, ["execution_start", "execution_cached", "execution_success"]);
    assert!(messages.iter().all(|message| message[1]["timestamp"].as_u64().unwrap() > 1_600_000_000_000));
    assert!(messages.iter().all(|message| message[1]["prompt_id"] == "own-id"));
    assert_eq!(client.json("/history/unknown").await, json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_by_number_and_the_front_overtakes() {
    let server = toys().await;
    let client = server.client();
    block(&client).await;
    let order = [
        ("late", json!({"number": 1000})),
        ("later", json!({"number": "1000.5"})),
        ("front", json!({"front": true})),
        ("fronter", json!({"front": true})),
        ("normal", json!({})),
        ("null", json!({"number": -7.5, "client_id": null})),
    ];
    for (id, mut more) in order {
        more["prompt_id"] = json!(id);
        client.queue_for(&show(id), more).await;
    }
    let sorted = ["null", "fronter", "front", "normal", "late", "later"];
    assert_eq!(pending(&client).await, sorted);
    assert_eq!(remaining(&client).await, 7);
    client.post("/interrupt", "").await;
    client.finished("later").await;
    assert_eq!(history(&client, "").await[1..], sorted);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_reaches_a_node_at_work_and_the_next_job_runs() {
    let server = toys().await;
    let client = server.client();
    let id = block(&client).await;
    client.post("/interrupt", r#"{"prompt_id": "another"}"#).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(remaining(&client).await, 1, "another job's interrupt is not ours");
    let pressed = Instant::now();
    client.post("/interrupt", json!({"prompt_id": id}).to_string()).await;
    let entry = client.finished(&id).await;
    assert!(pressed.elapsed() < Duration::from_secs(2), "{:?}", pressed.elapsed());
    assert_eq!(entry["status"]["status_str"], "error");
    assert_eq!(entry["status"]["completed"], false);
    let last = entry["status"]["messages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last[0], "execution_interrupted");
    assert_eq!(last[1]["node_id"], "2");
    assert_eq!(last[1]["node_type"], "ToySlow");
    // An interrupt without a running job is forgotten.
    client.post("/interrupt", "{}").await;
    let next = client.queue(&show("next")).await;
    assert_eq!(client.finished(&next).await["status"]["status_str"], "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_jobs_can_be_deleted_and_cleared() {
    let server = toys().await;
    let client = server.client();
    let running = block(&client).await;
    for id in ["a", "b", "c"] {
        client.queue_for(&show(id), json!({"prompt_id": id})).await;
    }
    client.post("/queue", json!({"delete": ["b", "unknown", running]}).to_string()).await;
    assert_eq!(pending(&client).await, ["a", "c"]);
    client.post("/queue", r#"{"clear": false}"#).await;
    assert_eq!(remaining(&client).await, 3);
    client.post("/queue", r#"{"clear": true, "delete": ["c"]}"#).await;
    assert_eq!(remaining(&client).await, 1);
    client.post("/interrupt", "").await;
    client.finished(&running).await;
    assert_eq!(history(&client, "").await, [running]);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_paged_deleted_and_cleared() {
    let server = toys().await;
    let client = server.client();
    for id in ["a", "b", "c"] {
        client.queue_for(&show(id), json!({"prompt_id": id})).await;
        client.finished(id).await;
    }
    for (query, expected) in [
        ("", &["a", "b", "c"][..]),
        ("?max_items=2", &["b", "c"]),
        ("?max_items=1&offset=0", &["a"]),
        ("?offset=1", &["b", "c"]),
        ("?max_items=0", &[]),
        ("?max_items=64", &["a", "b", "c"]),
    ] {
        assert_eq!(history(&client, query).await, expected, "{query}");
    }
    assert_eq!(client.get("/history?max_items=abc").await.status(), StatusCode::BAD_REQUEST);
    client.post("/history", r#"{"delete": ["b", "unknown"]}"#).await;
    assert_eq!(history(&client, "").await, ["a", "c"]);
    client.post("/history", r#"{"clear": true}"#).await;
    assert_eq!(client.json("/history").await, json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_and_panics_end_one_job_only() {
    let server = toys().await;
    let client = server.client();
    for class in ["ToyFail", "ToyPanic"] {
        let id = client.queue(&json!({"1": {"class_type": class, "inputs": {"text": "the reason"}}})).await;
        let entry = client.finished(&id).await;
        assert_eq!(entry["status"]["status_str"], "error", "{class}");
        let error = &entry["status"]["messages"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(error[0], "execution_error", "{class}");
        assert!(error[1]["exception_message"].as_str().unwrap().contains("the reason"), "{error}");
        assert_eq!(error[1]["node_id"], "1", "{class}");
    }
    let id = client.queue(&show("alive")).await;
    assert_eq!(client.finished(&id).await["status"]["status_str"], "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn freed_results_are_computed_again() {
    let server = toys().await;
    let client = server.client();
    let cached = async || {
        let id = client.queue(&show("same")).await;
        let entry = client.finished(&id).await;
        entry["status"]["messages"][1][1]["nodes"].clone()
    };
    assert_eq!(cached().await, json!([]));
    assert_eq!(cached().await, json!(["1"]));
    client.post("/free", r#"{"unload_models": true}"#).await;
    assert_eq!(cached().await, json!(["1"]));
    client.post("/free", r#"{"free_memory": true}"#).await;
    assert_eq!(cached().await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_answered_while_a_job_runs() {
    let server = toys().await;
    let client = server.client();
    block(&client).await;
    let asked = Instant::now();
    for _ in 0..20 {
        client.queue(&show("quick")).await;
        client.json("/system_stats").await;
    }
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    client.post("/queue", r#"{"clear": true}"#).await;
    client.post("/interrupt", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_interrupts_its_job_and_closes_websockets() {
    let server = toys().await;
    let client = server.client();
    let mut socket = client.socket("watcher").await;
    block(&client).await;
    let asked = Instant::now();
    server.end().await;
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert!(socket.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_good_output_of_two_runs_and_the_other_is_explained() {
    let server = toys().await;
    let client = server.client();
    let graph: Json = json!({
        "1": {"class_type": "ToyShow", "inputs": {"text": "good"}},
        "2": {"class_type": "ToyShow", "inputs": {}},
    });
    let (status, answer) = client.submit(&json!({"prompt": graph})).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["node_errors"]["2"]["errors"][0]["type"], "required_input_missing");
    assert_eq!(answer["node_errors"]["2"]["dependent_outputs"], json!(["2"]));
    let entry = client.finished(answer["prompt_id"].as_str().unwrap()).await;
    assert_eq!(entry["prompt"][4], json!(["1"]));
    let only = json!({"prompt": graph, "partial_execution_targets": ["2"]});
    assert_eq!(client.submit(&only).await.0, StatusCode::BAD_REQUEST);
    for targets in [json!([]), json!(["nobody"])] {
        let (status, answer) =
            client.submit(&json!({"prompt": graph, "partial_execution_targets": targets})).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(answer["error"]["type"], "prompt_no_outputs");
    }
}
