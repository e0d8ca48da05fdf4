//! The log for programs: one JSON object per line, with what jobs and nodes took.

use serde_json::Value as Json;

use super::studio::{Studio, sampling};

#[test]
fn every_line_is_an_object_and_jobs_and_nodes_are_timed() {
    let studio = Studio::new();
    let server = studio.open(&["--log-format", "json", "--verbose", "DEBUG"]);
    server.queue("timed", &sampling(3, 1));
    server.finished("timed");
    server.process.signal("TERM");
    let (code, log, _) = server.process.end();
    assert_eq!(code, Some(0));
    let lines: Vec<Json> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()));
    let ended = lines.iter().find(|line| line["message"].as_str().unwrap().starts_with("succeeded")).unwrap();
    assert_eq!(ended["span"]["id"], "timed");
    let total = ended["seconds"].as_f64().unwrap();
    let nodes: Vec<_> = lines.iter().filter(|line| line["class"].is_string()).collect();
    assert_eq!(nodes.len(), sampling(3, 1).as_object().unwrap().len());
    assert!(nodes.iter().all(|node| node["span"]["id"] == "timed" && node["node"].is_string()));
    let spent: f64 = nodes.iter().map(|node| node["seconds"].as_f64().unwrap()).sum();
    assert!(spent > 0.0 && spent <= total, "{spent} of {total}");
    assert!(nodes.iter().any(|node| node["class"] == "KSampler"));
}
