//! What is told over websockets, to whom, and in which order.

use std::time::{Duration, Instant};

use serde_json::json;

use super::server::{Heard, Options, Server, Socket};
use super::toys::{TOYS, pictures, show, slow};

async fn toys() -> Server {
    Server::with(Options { nodes: TOYS, ..Options::default() }).await
}

fn words(heard: &[Heard]) -> Vec<String> {
    heard.iter().map(Heard::word).collect()
}

async fn introduce(socket: &mut Socket) {
    socket.say(r#"{"type": "feature_flags", "data": {"supports_preview_metadata": true}}"#).await;
    assert_eq!(socket.json().await["type"], "feature_flags");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_messages_of_a_run_come_in_comfyuis_order() {
    let server = toys().await;
    let client = server.client();
    let mut socket = client.socket("me").await;
    let id = client.queue_for(&slow("x", 1), json!({"client_id": "me"})).await;
    let heard = socket.until("executing null").await;
    let expected = "status status execution_start execution_cached \
                    progress_state executing progress_state \
                    progress_state executing progress_state progress progress_state \
                    progress_state executing executed progress_state \
                    execution_success status executing null";
    assert_eq!(words(&heard).join(" "), expected);
    let Heard::Json(last) = heard.last().unwrap() else { panic!("a binary frame") };
    assert_eq!(*last, json!({"type": "executing", "data": {"node": null, "prompt_id": id}}));
    // The entry is there the moment the end is told.
    let history = client.json(&format!("/history/{id}")).await;
    assert_eq!(history[&id]["outputs"]["3"]["text"], json!(["x"]));
    let executed = heard.iter().find(|frame| frame.word() == "executed").unwrap();
    let expected = json!({"node": "3", "display_node": "3", "output": {"text": ["x"]}, "prompt_id": id});
    assert_eq!(*executed, Heard::Json(json!({"type": "executed", "data": expected})));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_states_tell_every_node_that_has_begun() {
    let server = toys().await;
    let client = server.client();
    let mut socket = client.socket("me").await;
    let id = client.queue_for(&slow("x", 2), json!({"client_id": "me"})).await;
    let heard = socket.until("executing null").await;
    let states: Vec<_> = heard
        .iter()
        .filter_map(|frame| match frame {
            Heard::Json(message) if message["type"] == "progress_state" => Some(&message["data"]["nodes"]),
            _ => None,
        })
        .collect();
    let node = |id: &str, prompt: &str, state: &str, value: f64, max: f64| {
        json!({
            "value": value, "max": max, "state": state, "node_id": id, "prompt_id": prompt,
            "display_node_id": id, "parent_node_id": null, "real_node_id": id,
        })
    };
    let numbers = |node: &serde_json::Value| (node["value"].as_f64(), node["max"].as_f64());
    assert_eq!(numbers(&states[0]["1"]), (Some(0.0), Some(1.0)));
    assert_eq!(numbers(&states[3]["2"]), (Some(1.0), Some(2.0)));
    let last = states.last().unwrap();
    assert_eq!(last.as_object().unwrap().len(), 3);
    let mut second = last["2"].clone();
    assert_eq!(numbers(&second), (Some(2.0), Some(2.0)));
    (second["value"], second["max"]) = (json!(2.0), json!(2.0));
    assert_eq!(second, node("2", &id, "finished", 2.0, 2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_word_on_a_quick_job_waits_until_its_number_is_known() {
    let server = toys().await;
    let client = server.client();
    let mut socket = client.socket("me").await;
    let begun = Instant::now();
    client.queue_for(&show("quick"), json!({"client_id": "me"})).await;
    socket.until("execution_success").await;
    assert_eq!(words(&socket.until("executing null").await).last().unwrap(), "executing null");
    assert!(begun.elapsed() >= Duration::from_millis(14), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn others_hear_of_the_queue_only() {
    let server = toys().await;
    let client = server.client();
    let (mut mine, mut other) = (client.socket("me").await, client.socket("other").await);
    client.queue_for(&pictures("x", 2), json!({"client_id": "me"})).await;
    mine.until("executing null").await;
    assert_eq!(words(&other.rest().await), ["status", "status", "status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_client_is_told_to_all_in_part() {
    let server = toys().await;
    let client = server.client();
    let (mut one, mut other) = (client.socket("one").await, client.socket("other").await);
    introduce(&mut other).await;
    let id = client.queue(&pictures("x", 1)).await;
    client.finished(&id).await;
    for socket in [&mut one, &mut other] {
        let words = words(&socket.rest().await);
        let expected = "status status progress_state progress_state progress_state progress_state progress \
                        binary 1 progress_state progress_state progress_state status";
        assert_eq!(words.join(" "), expected);
    }
    let id = client.queue(&slow("y", 100_000)).await;
    one.until("progress").await;
    client.post("/interrupt", "").await;
    client.finished(&id).await;
    assert!(words(&one.rest().await).contains(&"execution_interrupted".to_owned()));
    assert!(words(&other.rest().await).contains(&"execution_interrupted".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn previews_suit_what_the_client_understands() {
    let server = toys().await;
    let client = server.client();
    let mut socket = client.socket("me").await;
    client.queue_for(&pictures("x", 1), json!({"client_id": "me"})).await;
    let heard = socket.until("executing null").await;
    let steps = words(&heard)[7..11].join(" ");
    assert_eq!(steps, "progress_state executing progress_state progress");
    let Heard::Binary(frame) = &heard[11] else { panic!("{:?}", heard[11]) };
    assert_eq!(frame[..], [&[0, 0, 0, 1, 0, 0, 0, 1][..], b"picture"].concat());
    introduce(&mut socket).await;
    let id = client.queue_for(&pictures("y", 1), json!({"client_id": "me"})).await;
    let heard = socket.until("executing null").await;
    assert_eq!(words(&heard)[9..12].join(" "), "progress_state binary 4 progress");
    let Heard::Binary(frame) = &heard[10] else { panic!("{:?}", heard[10]) };
    let length = u32::from_be_bytes(frame[4..8].try_into().unwrap()) as usize;
    let about: serde_json::Value = serde_json::from_slice(&frame[8..8 + length]).unwrap();
    assert_eq!(
        about,
        json!({
            "node_id": "2", "prompt_id": id, "display_node_id": "2", "parent_node_id": null,
            "real_node_id": "2", "image_type": "image/jpeg",
        })
    );
    assert_eq!(&frame[8 + length..], b"picture");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_first_json_frame_may_introduce_a_client() {
    let server = toys().await;
    let client = server.client();
    let mut socket = client.socket("patient").await;
    socket.say("{not json").await;
    socket.say(r#"{"type": "feature_flags", "data": {}}"#).await;
    let answer = socket.json().await;
    let features = json!({"supports_preview_metadata": true, "max_upload_size": 104_857_600});
    assert_eq!(answer, json!({"type": "feature_flags", "data": features}));
    socket.say(r#"{"type": "feature_flags", "data": {}}"#).await;
    assert_eq!(socket.rest().await, []);
    for first in ["[1, 2]", "null", r#"{"type": "hello"}"#, r#"{"prompt": {}}"#] {
        let mut socket = client.socket("hasty").await;
        socket.say(first).await;
        socket.say(r#"{"type": "feature_flags", "data": {}}"#).await;
        assert_eq!(socket.rest().await, [], "{first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_an_id_gets_one() {
    let server = toys().await;
    for path in ["/ws", "/ws?clientId=", "/api/ws"] {
        let mut socket = server.client().try_socket(path).await.unwrap();
        let greeting = socket.json().await;
        assert_eq!(greeting["data"]["status"]["exec_info"]["queue_remaining"], 0);
        assert_eq!(greeting["data"]["sid"].as_str().unwrap().len(), 32, "{path}");
    }
    assert_eq!(server.client().get("/ws").await.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reconnects_hears_which_node_is_at_work() {
    let server = toys().await;
    let client = server.client();
    let mut socket = client.socket("me").await;
    client.queue_for(&slow("x", 100_000), json!({"client_id": "me"})).await;
    socket.until("progress").await;
    socket.drop_connection();
    let mut socket = client.socket("me").await;
    assert_eq!(socket.json().await, json!({"type": "executing", "data": {"node": "2"}}));
    let mut other = client.socket("other").await;
    client.post("/interrupt", "").await;
    socket.until("execution_interrupted").await;
    socket.until("executing null").await;
    assert_eq!(words(&other.rest().await), ["status"]);
    socket.drop_connection();
    assert_eq!(client.socket("me").await.rest().await, [], "nothing is at work any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_websockets_with_one_id_the_newer_is_told_even_after_the_older_left() {
    let server = toys().await;
    let client = server.client();
    let mut older = client.socket("me").await;
    let mut newer = client.socket("me").await;
    let id = client.queue_for(&show("x"), json!({"client_id": "me"})).await;
    newer.until("executing null").await;
    assert_eq!(older.rest().await, []);
    older.drop_connection();
    client.finished(&id).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.queue_for(&show("y"), json!({"client_id": "me"})).await;
    newer.until("executing null").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_run_still_tells_its_output() {
    let server = toys().await;
    let client = server.client();
    let mut socket = client.socket("me").await;
    for _ in 0..2 {
        client.queue_for(&slow("same", 1), json!({"client_id": "me"})).await;
    }
    socket.until("executing null").await;
    let heard = socket.until("executing null").await;
    let heard: Vec<_> = words(&heard).into_iter().filter(|word| word != "status").collect();
    let expected =
        "execution_start execution_cached executed progress_state execution_success executing null";
    assert_eq!(heard.join(" "), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_holds_up_nobody() {
    let server = toys().await;
    let client = server.client();
    let deaf = client.socket("deaf").await;
    let mut other = client.socket("other").await;
    let id = client.queue_for(&pictures("x", 50), json!({"client_id": "deaf"})).await;
    assert_eq!(client.finished(&id).await["status"]["completed"], true);
    assert_eq!(words(&other.rest().await), ["status", "status", "status"]);
    deaf.drop_connection();
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_the_log_reach_only_those_who_asked() {
    let server = toys().await;
    let client = server.client();
    let mut socket = client.socket("reader").await;
    let wish = |enabled| json!({"clientId": "reader", "enabled": enabled}).to_string();
    let path = "/internal/logs/subscribe";
    for enabled in [true, false] {
        let response = client.request(reqwest::Method::PATCH, path).body(wish(enabled)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.text().await.unwrap(), "");
    }
    assert_eq!(socket.rest().await, []);
    let raw = client.json("/internal/logs/raw").await;
    assert!(raw["entries"].is_array() && raw["size"]["cols"].is_u64());
}
