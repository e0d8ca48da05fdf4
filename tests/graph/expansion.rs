//! Nodes that return a subgraph to be run in their place.

use comfyd::graph::{End, Failure};
use serde_json::{Value as Json, json};

use crate::lab::{Lab, Report, prompt};

fn chain(count: i64, show: bool) -> Json {
    prompt([
        ("1", "Number", json!({"value": 5})),
        ("2", "Chain", json!({"value": ["1", 0], "count": count, "show": show})),
        ("3", "Show", json!({"source": ["2", 0]})),
        ("4", "Show", json!({"source": ["2", 1]})),
    ])
}

#[test]
fn the_subgraph_runs_under_its_parent_and_gives_the_results() {
    let report = Lab::new().run(chain(2, false));
    assert_eq!(report.executing(), ["1", "2", "2.0.0.1", "2.0.0.2", "3", "4"]);
    assert_eq!((report.shown("3"), report.shown("4")), (vec!["7"], vec!["made"]));
    let lines = report.lines();
    assert!(lines.contains(&"executing 2.0.0.2 as 2".to_owned()), "{lines:#?}");
    let finished = "state 1 finished 1/1, 2 finished 1/1, 2.0.0.1 finished 1/1, 2.0.0.2 finished 1/1";
    assert!(lines.contains(&finished.to_owned()), "{lines:#?}");
}

#[test]
fn outputs_inside_run_and_are_told_with_their_parents() {
    let report = Lab::new().run(chain(1, true));
    assert_eq!(report.shown("2.0.0.2"), ["6"]);
    let inner = report.meta.iter().find(|meta| meta.node == "2.0.0.2").expect("listed");
    assert_eq!((inner.display.as_str(), inner.parent.as_deref(), inner.real.as_str()), ("2", Some("2"), "2"));
    let states = report.lines();
    assert!(states.iter().any(|line| line == r#"executed 2.0.0.2 as 2 {"text":["6"]}"#), "{states:#?}");
}

#[test]
fn a_cached_parent_does_not_expand_and_its_outputs_stay_in_history() {
    let mut lab = Lab::new();
    lab.run(chain(1, true));
    let report = lab.run(chain(1, true));
    assert_eq!((report.cached(), report.executing()), (vec!["1", "2", "3", "4"], vec![]));
    assert_eq!(report.shown("2.0.0.2"), ["6"]);
}

#[test]
fn inner_results_are_reused_as_long_as_the_parent_stays() {
    let mut lab = Lab::new();
    lab.run(chain(2, false));
    assert_eq!(lab.run(chain(3, false)).executing(), ["2", "2.0.0.3", "3", "4"], "two of three were known");
    lab.run(prompt([("9", "Sink", json!({"value": 1}))]));
    assert_eq!(lab.run(chain(3, false)).executing().len(), 7);
}

#[test]
fn outputs_of_an_earlier_subgraph_leave_when_the_parent_runs_again() {
    let mut lab = Lab::new();
    assert!(lab.run(chain(1, true)).outputs.contains_key("2.0.0.2"));
    assert!(!lab.run(chain(0, true)).outputs.contains_key("2.0.0.2"));
}

#[test]
fn another_parent_shares_nothing() {
    let two = prompt([
        ("1", "Chain", json!({"value": 1, "count": 1})),
        ("2", "Chain", json!({"value": 1, "count": 1, "show": false})),
        ("3", "Show", json!({"source": ["1", 0]})),
        ("4", "Show", json!({"source": ["2", 0]})),
    ]);
    let report = Lab::new().run(two);
    let inner: Vec<_> = report.executing().into_iter().filter(|id| id.contains('.')).collect();
    assert_eq!(inner, ["1.0.0.1", "2.0.0.1"]);
}

#[test]
fn mapped_calls_may_each_expand_or_not() {
    let nodes = [
        ("0", "Split", json!({"numbers": "0,2,1"})),
        ("1", "Chain", json!({"value": 10, "count": ["0", 0]})),
        ("2", "Show", json!({"source": ["1", 0]})),
        ("3", "Show", json!({"source": ["1", 1]})),
    ];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(report.shown("2"), ["10", "12", "11"]);
    assert_eq!(report.shown("3"), ["done", "made", "made"]);
}

#[test]
fn deep_expansion_does_not_use_the_stack() {
    let nodes = [("1", "Forever", json!({"depth": 600})), ("2", "Show", json!({"source": ["1", 0]}))];
    let mut lab = Lab::new();
    for _ in 0..2 {
        assert_eq!(lab.run(prompt(nodes.clone())).shown("2"), ["0"]);
    }
}

fn fails(nodes: [(&str, &str, Json); 2]) -> Report {
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(report.end, End::Failed);
    report
}

#[test]
fn a_subgraph_that_waits_for_its_parent_is_a_circle() {
    let report = fails([("1", "Selfish", json!({"value": 1})), ("2", "Show", json!({"source": ["1", 0]}))]);
    let failure = report.failure();
    assert_eq!((failure.node.as_str(), failure.class.as_str()), ("1", "Selfish"));
    assert_eq!(failure.kind, Failure::CYCLE);
    assert_eq!(failure.message, "the nodes 1, 1.0.0.1 wait for each other");
    assert!(failure.ends_run());
}

#[test]
fn a_subgraph_that_cannot_run_is_an_error_of_its_parent() {
    for (kind, expected) in [
        ("class", "node 1.0.0.1 is of class Nothing, which does not exist here"),
        ("duplicate", "node 1 exists already; a subgraph needs ids of its own"),
        ("slot", "node 1.0.0.1 of the subgraph has no slot 7"),
        ("link", "the subgraph gives back node 1.0.0.1, which does not exist"),
    ] {
        let report =
            fails([("1", "Lost", json!({"kind": kind})), ("2", "Show", json!({"source": ["1", 0]}))]);
        assert_eq!((report.failure().node.as_str(), report.failure().message.as_str()), ("1", expected));
    }
}

#[test]
fn an_error_inside_names_the_node_of_the_prompt() {
    let report = fails([("1", "Risky", json!({"fail": true})), ("2", "Show", json!({"source": ["1", 0]}))]);
    let failure = report.failure();
    assert_eq!((failure.node.as_str(), failure.class.as_str()), ("1", "Risky"));
    assert_eq!(failure.message, "the outer reason");
}

#[test]
fn a_blocker_inside_passes_to_the_consumers_of_the_parent() {
    let nodes = [("1", "Risky", json!({"fail": false})), ("2", "Show", json!({"source": ["1", 0]}))];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(report.end, End::Succeeded);
    assert!(report.outputs.is_empty());
    assert_eq!((report.failure().node.as_str(), report.failure().kind.as_str()), ("2", Failure::BLOCKED));
}
