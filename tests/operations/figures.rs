//! `/metrics`: figures equal to what happened.

#![expect(clippy::float_cmp, reason = "what is counted is whole")]

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::studio::{Open, Studio, colour, sampling};

const TOKEN: &str = "$2b$12$abcdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";

/// Every sample by name and labels.
type Figures = BTreeMap<String, f64>;

fn scrape(server: &Open) -> Figures {
    let (status, text) = server.ask("GET", "/metrics", Some(TOKEN), "");
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"));
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// What was counted between two scrapes, of names that begin so.
fn counted(before: &Figures, after: &Figures, name: &str) -> BTreeMap<String, u64> {
    let grown = |(key, now): (&String, &f64)| {
        let grown = (now - before.get(key).copied().unwrap_or(0.0)).round() as u64;
        (grown > 0 && key.starts_with(name)).then(|| (key[name.len()..].to_owned(), grown))
    };
    after.iter().filter_map(grown).collect()
}

fn with_token(flags: &[&str]) -> (Studio, Open) {
    let studio = Studio::new();
    std::fs::create_dir(studio.path().join("login")).unwrap();
    std::fs::write(studio.path().join("login/PASSWORD"), TOKEN).unwrap();
    let server = studio.open(flags);
    (studio, server)
}

fn submit(server: &Open, graph: &Json, id: &str) -> u16 {
    server.ask("POST", "/prompt", Some(TOKEN), &json!({"prompt": graph, "prompt_id": id}).to_string()).0
}

fn wait_until_idle(server: &Open) {
    server.wait_for("the end of all jobs", || {
        let (_, text) = server.ask("GET", "/prompt", Some(TOKEN), "");
        serde_json::from_str::<Json>(&text).unwrap()["exec_info"]["queue_remaining"] == 0
    });
}

#[test]
fn two_hundred_requests_are_counted_as_they_were_answered() {
    let (_studio, server) = with_token(&[]);
    let before = scrape(&server);
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    let mut ask = |method: &str, path: &str, route: &str, token, body: &str| {
        let (status, _) = server.ask(method, path, token, body);
        *answers
            .entry(format!("{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"))
            .or_default() += 1;
        status
    };
    let unknown = json!({"prompt": {"1": {"class_type": "Nothing", "inputs": {}}}}).to_string();
    for round in 0..10 {
        let graph = json!({"prompt": colour(round), "prompt_id": format!("job {round}")}).to_string();
        for (method, path, route, token, body, expected) in [
            ("GET", "/queue", "/queue", Some(TOKEN), "", 200),
            ("GET", "/api/queue", "/api/queue", Some(TOKEN), "", 200),
            ("GET", "/history?max_items=3", "/history", Some(TOKEN), "", 200),
            ("GET", "/history/nobody", "/history/{id}", Some(TOKEN), "", 200),
            ("GET", "/history/somebody", "/history/{id}", Some(TOKEN), "", 200),
            ("GET", "/view?filename=none.png", "/view", Some(TOKEN), "", 404),
            ("GET", "/no/such/path", "none", Some(TOKEN), "", 404),
            ("DELETE", "/queue", "/queue", Some(TOKEN), "", 405),
            ("GET", "/health", "/health", None, "", 200),
            ("GET", "/ready", "/ready", None, "", 200),
            ("GET", "/queue", "/queue", None, "", 401),
            ("GET", "/queue", "/queue", Some("None"), "", 401),
            ("GET", "/queue", "/queue", Some("my-raw-password"), "", 401),
            ("GET", "/queue", "/queue", Some(&TOKEN[..30]), "", 401),
            ("POST", "/prompt", "/prompt", None, &graph, 401),
            ("POST", "/prompt", "/prompt", Some(TOKEN), "no JSON", 400),
            ("POST", "/prompt", "/prompt", Some(TOKEN), &unknown, 400),
            ("POST", "/prompt", "/prompt", Some(TOKEN), &graph, 200),
            ("POST", "/free", "/free", Some(TOKEN), "{}", 200),
            ("BREW", "/coffee", "none", Some(TOKEN), "", 405),
        ] {
            assert_eq!(ask(method, path, route, token, body), expected, "{method} {path}");
        }
    }
    assert_eq!(answers.values().sum::<u64>(), 200);
    server
        .wait_for("the end of all jobs", || scrape(&server)["comfyd_jobs_total{result=\"success\"}"] >= 10.0);
    let after = scrape(&server);

    let mut counted_answers = counted(&before, &after, "comfyd_http_requests_total");
    counted_answers.retain(|labels, _| !labels.contains("/metrics"));
    let answers: BTreeMap<_, _> =
        answers.into_iter().map(|(labels, count)| (labels.replace("BREW", "OTHER"), count)).collect();
    assert_eq!(counted_answers, answers);
    let mut auth = counted(&before, &after, "comfyd_auth_total");
    auth.retain(|labels, _| labels.contains("refused"));
    let reason = |word: &str, count| (format!("{{result=\"refused\",reason=\"{word}\"}}"), count);
    let reasons = [("no_token", 20), ("unset_variable", 10), ("not_the_hash", 10), ("cut_token", 10)];
    assert_eq!(auth, reasons.into_iter().map(|(word, count)| reason(word, count)).collect());
    assert_eq!(
        counted(&before, &after, "comfyd_jobs_total"),
        [("{result=\"success\"}".to_owned(), 10)].into()
    );
    assert_eq!(counted(&before, &after, "comfyd_jobs_queued_total").values().sum::<u64>(), 10);
    let nodes = counted(&before, &after, "comfyd_nodes_run_total");
    let each = [("{class=\"EmptyImage\"}".to_owned(), 10), ("{class=\"SaveImage\"}".to_owned(), 10)];
    assert_eq!(nodes, each.into());
    assert!(after["comfyd_resident_memory_bytes"] > 1e6);
    assert!(after["comfyd_last_activity_timestamp_seconds"] > 1.7e9);
}

#[test]
fn jobs_are_counted_by_their_end_nodes_by_their_class_steps_one_by_one() {
    let (studio, server) = with_token(&[]);
    let before = scrape(&server);
    let broken = json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "picture.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    });
    // A file that is there while it is judged, and no picture when it is read.
    std::fs::write(studio.path().join("input/picture.png"), "no picture").unwrap();
    assert_eq!(submit(&server, &sampling(4, 1), "a"), 200);
    wait_until_idle(&server);
    assert_eq!(submit(&server, &sampling(4, 1), "the same again"), 200);
    assert_eq!(submit(&server, &broken, "broken"), 200);
    wait_until_idle(&server);
    let after = scrape(&server);
    let nodes = counted(&before, &after, "comfyd_nodes_run_total");
    let graph = sampling(4, 1);
    let graph = graph.as_object().unwrap();
    assert_eq!(nodes["{class=\"KSampler\"}"], 1);
    assert_eq!(nodes["{class=\"LoadImage\"}"], 1, "a node that failed ran as well");
    assert_eq!(nodes.values().sum::<u64>(), graph.len() as u64 + 1);
    assert_eq!(
        counted(&before, &after, "comfyd_nodes_reused_total").values().sum::<u64>(),
        graph.len() as u64
    );
    assert_eq!(counted(&before, &after, "comfyd_node_steps_total")["{class=\"KSampler\"}"], 4);
    assert!(after["comfyd_node_step_seconds_count{class=\"KSampler\"}"] >= 3.0);
    let spent = after["comfyd_node_seconds_total{class=\"KSampler\"}"];
    assert!(spent > 0.0 && spent <= after["comfyd_job_seconds_sum"], "{spent}");

    server.wait_for("a job that runs", || {
        submit(&server, &sampling(10_000, 1), "long") == 200
            && submit(&server, &colour(1), "waiting") == 200
            && scrape(&server)["comfyd_jobs_running"] == 1.0
    });
    let meanwhile = scrape(&server);
    assert!(meanwhile["comfyd_jobs_waiting"] >= 1.0);
    server.ask("POST", "/queue", Some(TOKEN), r#"{"clear": true}"#);
    server.ask("POST", "/interrupt", Some(TOKEN), "");
    wait_until_idle(&server);
    let after = scrape(&server);
    let ended = counted(&before, &after, "comfyd_jobs_total");
    assert_eq!(ended["{result=\"interrupted\"}"], 1);
    assert_eq!(ended["{result=\"success\"}"], 2);
    assert_eq!(ended["{result=\"error\"}"], 1);
    assert_eq!(ended["{result=\"dropped\"}"] as f64, meanwhile["comfyd_jobs_waiting"]);
    let queued = counted(&before, &after, "comfyd_jobs_queued_total").values().sum::<u64>();
    assert_eq!(ended.values().sum::<u64>(), queued, "every job has an end");
}

#[test]
fn open_websockets_are_counted() {
    let (_studio, server) = with_token(&[]);
    let address = format!("ws{}/ws?clientId=me&token={TOKEN}", server.process.url.trim_start_matches("http"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut socket, _) = runtime.block_on(tokio_tungstenite::connect_async(address)).unwrap();
    server.wait_for("a websocket", || scrape(&server)["comfyd_websockets"] == 1.0);
    runtime.block_on(socket.close(None)).unwrap();
    server.wait_for("no websocket", || scrape(&server)["comfyd_websockets"] == 0.0);
}

#[test]
fn metrics_are_behind_the_token_unless_they_are_opened() {
    let (_studio, closed) = with_token(&[]);
    assert_eq!(closed.status("/metrics"), 401);
    let (_studio, open) = with_token(&["--open-metrics"]);
    assert_eq!(open.status("/metrics"), 200);
    assert_eq!(open.status("/queue"), 401);
}
