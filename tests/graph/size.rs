//! Large prompts: depth costs neither stack nor quadratic time.

use std::time::{Duration, Instant};

use comfyd::graph::{End, Refusal};
use serde_json::{Map, Value as Json, json};

use crate::lab::{Lab, judge};

const NODES: usize = 10_000;

/// Generous for a debug build on a busy machine; a quadratic walk would take minutes.
const LIMIT: Duration = Duration::from_secs(60);

/// Additions from `0` up, each linked to the one before, and an output.
fn chain(first: Json) -> Json {
    let mut nodes = Map::new();
    for index in 0..NODES {
        let before = index.checked_sub(1).map_or(first.clone(), |before| json!([before.to_string(), 0]));
        nodes.insert(index.to_string(), json!({"class_type": "Add", "inputs": {"a": before, "b": 1}}));
    }
    let last = json!([(NODES - 1).to_string(), 0]);
    nodes.insert("out".to_owned(), json!({"class_type": "Show", "inputs": {"source": last}}));
    Json::Object(nodes)
}

#[test]
fn a_long_chain_is_judged_and_run() {
    let start = Instant::now();
    let mut lab = Lab::new();
    lab.states = false;
    let report = lab.run(chain(json!(0)));
    assert_eq!((report.end, report.shown("out")), (End::Succeeded, vec![NODES.to_string().as_str()]));
    assert_eq!(report.executing().len(), NODES + 1);
    drop(report);
    assert_eq!(lab.run(chain(json!(0))).cached().len(), NODES + 1);
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
}

#[test]
fn a_long_circle_is_refused() {
    let start = Instant::now();
    let last = json!([(NODES - 1).to_string(), 0]);
    match judge(chain(last), None) {
        Err(Refusal::OutputsFailed(problems)) => assert_eq!(problems.0.len(), 1),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
}

#[test]
fn a_wide_prompt_runs() {
    let start = Instant::now();
    let mut nodes = Map::new();
    nodes.insert("root".to_owned(), json!({"class_type": "Number", "inputs": {"value": 1}}));
    for index in 0..2_000 {
        let id = index.to_string();
        let middle = json!({"class_type": "Add", "inputs": {"a": ["root", 0], "b": index}});
        nodes.insert(id.clone(), middle);
        nodes.insert(format!("out{id}"), json!({"class_type": "Show", "inputs": {"source": [id, 0]}}));
    }
    let mut lab = Lab::new();
    lab.states = false;
    let report = lab.run(Json::Object(nodes));
    assert_eq!((report.end, report.shown("out1999")), (End::Succeeded, vec!["2000"]));
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
}
