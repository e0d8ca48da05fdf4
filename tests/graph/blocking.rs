//! Values that stop their consumers.

use comfyd::graph::{End, Failure};
use serde_json::json;

use crate::lab::{Lab, prompt};

#[test]
fn a_silent_blocker_stops_all_consumers_and_the_run_succeeds() {
    let nodes = [
        ("1", "Gate", json!({"value": -1})),
        ("2", "Add", json!({"a": ["1", 0], "b": 1})),
        ("3", "Show", json!({"source": ["2", 0]})),
        ("4", "Show", json!({"source": 4})),
    ];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(report.end, End::Succeeded);
    assert_eq!(report.outputs.keys().collect::<Vec<_>>(), ["4"]);
    // Consumers are entered all the same, as in ComfyUI.
    assert_eq!(report.executing(), ["4", "1", "2", "3"]);
    assert!(!report.lines().iter().any(|line| line.starts_with("failed") || line.starts_with("executed 3")));
}

#[test]
fn a_message_is_told_once_and_the_run_succeeds() {
    let nodes = [
        ("1", "Gate", json!({"message": "no face found"})),
        ("2", "Add", json!({"a": ["1", 0], "b": 1})),
        ("3", "Show", json!({"source": ["2", 0]})),
    ];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(report.end, End::Succeeded);
    let failed: Vec<_> = report.lines().into_iter().filter(|line| line.starts_with("failed")).collect();
    assert_eq!(failed, ["failed 2 Add ExecutionBlocked: Execution Blocked: no face found"]);
    assert_eq!(report.failure().kind, Failure::BLOCKED);
    assert!(!report.failure().ends_run());
    assert_eq!(report.failure().executed, ["1"]);
    assert_eq!(report.lines().last().map(String::as_str), Some("succeeded"));
}

#[test]
fn only_the_calls_with_a_blocked_item_are_left_out() {
    let nodes = [
        ("1", "Split", json!({"numbers": "1,-1,3"})),
        ("2", "Gate", json!({"value": ["1", 0]})),
        ("3", "Add", json!({"a": ["2", 0], "b": 10})),
        ("4", "Show", json!({"source": ["3", 0]})),
        ("5", "Sum", json!({"values": ["3", 0], "times": 1})),
        ("6", "Show", json!({"source": ["5", 0]})),
    ];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(report.shown("4"), ["11", "13"]);
    assert!(!report.outputs.contains_key("6"), "a whole list with a blocked item is blocked");
}

#[test]
fn blocked_results_are_cached_like_others() {
    let nodes = [("1", "Gate", json!({"value": -1})), ("2", "Show", json!({"source": ["1", 0]}))];
    let mut lab = Lab::new();
    lab.run(prompt(nodes.clone()));
    let report = lab.run(prompt(nodes));
    assert_eq!(report.lines()[1..3], ["cached [1 2]", "executed 2 as 2 null"]);
}
