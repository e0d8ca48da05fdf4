//! Clients that submit first and open their websocket then: whatever the job's speed, they hear of its end.

use std::time::{Duration, Instant};

use reqwest::header::USER_AGENT;
use reqwest::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::server::{Client, Heard, Options, Server, Socket};
use super::toys::{TOYS, pictures, show, slow};

async fn toys() -> Server {
    Server::with(Options { nodes: TOYS, ..Options::default() }).await
}

fn words(heard: &[Heard]) -> String {
    heard.iter().map(Heard::word).collect::<Vec<_>>().join(" ")
}

/// Runs a graph to its end for a client without a websocket, and without its history being read.
async fn run(client: &Client, graph: &Json, of: &str) -> String {
    let id = client.queue_for(graph, json!({"client_id": of})).await;
    while client.json("/prompt").await["exec_info"]["queue_remaining"] != 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    id
}

fn remaining(frame: &Heard) -> Option<u64> {
    let Heard::Json(message) = frame else { return None };
    message["data"]["status"]["exec_info"]["queue_remaining"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ended_before_the_first_websocket_is_told_once() {
    let server = toys().await;
    let client = server.client();
    let id = run(&client, &slow("x", 3), "me").await;
    assert_eq!(client.socket("other").await.rest().await, []);
    let mut socket = client.socket("me").await;
    let heard = socket.rest().await;
    let expected = "execution_start execution_cached executing executing executing executed \
                    execution_success status executing null";
    assert_eq!(words(&heard), expected);
    let executed = json!({"node": "3", "display_node": "3", "output": {"text": ["x"]}, "prompt_id": id});
    assert_eq!(heard[5], Heard::Json(json!({"type": "executed", "data": executed})));
    let end = json!({"node": null, "prompt_id": id});
    assert_eq!(heard[8], Heard::Json(json!({"type": "executing", "data": end})));
    for frame in &heard[..7] {
        let Heard::Json(message) = frame else { panic!("{frame:?}") };
        assert_eq!(message["data"]["prompt_id"], id.as_str(), "{message}");
    }
    drop(socket);
    assert_eq!(client.socket("me").await.rest().await, [], "once is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_only_the_websocket_carries_are_told_late_too() {
    let server = toys().await;
    let client = server.client();
    let graph = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 6, "batch_size": 2, "color": 255}},
        "save": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    });
    run(&client, &graph, "me").await;
    let heard = client.socket("me").await.rest().await;
    let expected = "execution_start execution_cached executing executing progress binary 1 progress binary 1 \
                    execution_success status executing null";
    assert_eq!(words(&heard), expected);
    let Heard::Json(at_work) = &heard[3] else { panic!("{:?}", heard[3]) };
    assert_eq!(at_work["data"]["node"], "save");
    let Heard::Binary(frame) = &heard[5] else { panic!("{:?}", heard[5]) };
    assert_eq!(frame[..12], *b"\0\0\0\x01\0\0\0\x02\x89PNG");
    // Pictures of something unfinished are not worth it.
    run(&client, &pictures("x", 3), "you").await;
    assert!(!words(&client.socket("you").await.rest().await).contains("binary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_jobs_are_told_in_order_with_the_number_left() {
    let server = toys().await;
    let client = server.client();
    let first = run(&client, &show("x"), "me").await;
    let second = run(&client, &json!({"1": {"class_type": "ToyFail", "inputs": {"text": "no"}}}), "me").await;
    let heard = client.socket("me").await.rest().await;
    let expected = "execution_start execution_cached executing executed execution_success status executing null \
                    execution_start execution_cached executing execution_error status executing null";
    assert_eq!(words(&heard), expected);
    let ends: Vec<_> = heard.iter().filter(|frame| frame.word() == "executing null").cloned().collect();
    let end = |id: &str| Heard::Json(json!({"type": "executing", "data": {"node": null, "prompt_id": id}}));
    assert_eq!(ends, [end(&first), end(&second)]);
    assert_eq!(heard.iter().filter_map(remaining).collect::<Vec<_>>(), [1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_read_the_history_or_was_there_when_the_job_began_hears_nothing_older() {
    let server = toys().await;
    let client = server.client();
    let id = run(&client, &show("x"), "me").await;
    client.finished(&id).await;
    assert_eq!(client.socket("me").await.rest().await, [], "its history was read");
    let mut socket = client.socket("me").await;
    let id = client.queue_for(&slow("y", 30), json!({"client_id": "me"})).await;
    socket.until("progress").await;
    socket.drop_connection();
    while client.json("/prompt").await["exec_info"]["queue_remaining"] != 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(client.socket("me").await.rest().await, [], "it was there when {id} began");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_websocket_in_the_middle_of_a_job_hears_the_node_at_work_and_then_all_of_it() {
    let server = toys().await;
    let client = server.client();
    let mut watcher = client.socket("watcher").await;
    watch(&mut watcher).await;
    let id = client.queue_for(&slow("x", 60), json!({"client_id": "me"})).await;
    watcher.until("progress").await;
    let mut socket = client.socket("me").await;
    assert_eq!(socket.json().await, json!({"type": "executing", "data": {"node": "2"}}));
    let heard = socket.until("executing null").await;
    assert!(
        words(&heard).starts_with("execution_start execution_cached executing executing progress"),
        "{heard:?}"
    );
    assert_eq!(heard.iter().filter(|frame| frame.word() == "execution_success").count(), 1);
    assert_eq!(
        heard.last(),
        Some(&Heard::Json(json!({"type": "executing", "data": {"node": null, "prompt_id": id}})))
    );
    assert_eq!(socket.rest().await, []);
}

async fn watch(socket: &mut Socket) {
    socket.say(r#"{"type": "feature_flags", "data": {"comfyd_watch": true}}"#).await;
    assert_eq!(socket.json().await["type"], "feature_flags");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_to_watch_hears_of_every_job_and_others_do_not() {
    let server = toys().await;
    let client = server.client();
    let (mut watcher, mut other) = (client.socket("watcher").await, client.socket("other").await);
    watch(&mut watcher).await;
    let mut mine = client.socket("me").await;
    client.queue_for(&pictures("x", 1), json!({"client_id": "me"})).await;
    let heard = mine.until("executing null").await;
    assert_eq!(watcher.until("executing null").await, heard);
    client.queue(&show("y")).await;
    let heard = watcher.until("executing null").await;
    assert!(words(&heard).contains("execution_start execution_cached"), "{heard:?}");
    assert!(!words(&other.rest().await).contains("execution_start"));
    watcher.drop_connection();
    let mut again = client.socket("watcher").await;
    client.queue_for(&show("z"), json!({"client_id": "me"})).await;
    assert_eq!(words(&again.rest().await), "status status status", "the wish ends with the websocket");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_in_javascript_have_time_to_listen_before_they_are_told_anything() {
    let server = toys().await;
    let client = server.client();
    let mut socket = client.socket("me").await;
    for (program, waits) in [
        ("node", true),
        ("node-fetch/1.0 (+https://github.com/bitinn/node-fetch)", true),
        ("axios/1.7.2", true),
        ("Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0", true),
        ("python-requests/2.32.3", false),
        ("Python/3.11 aiohttp/3.9.5", false),
    ] {
        // A busy machine may delay anybody, but not every time.
        let mut quickest = Duration::MAX;
        for _ in 0..5 {
            let begun = Instant::now();
            let body = json!({"prompt": show(program), "client_id": "me"}).to_string();
            let request = client.request(Method::POST, "/prompt").header(USER_AGENT, program).body(body);
            assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
            let mut heard = socket.until("execution_start").await;
            quickest = quickest.min(begun.elapsed());
            heard.extend(socket.until("executing null").await);
            // Only the time differs.
            let told = words(&heard).replace(" executing executed", "").replace(" executed", "");
            let expected = "status status execution_start execution_cached progress_state progress_state \
                            execution_success status executing null";
            let cached = expected.replacen("progress_state progress_state", "progress_state", 1);
            assert!([expected, &cached].contains(&told.as_str()), "{program}: {told}");
        }
        assert_eq!(quickest >= Duration::from_millis(49), waits, "{program}: {quickest:?}");
    }
}
