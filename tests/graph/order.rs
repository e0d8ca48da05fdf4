//! Which node runs when, and what is told on the way.

use serde_json::{Value as Json, json};

use crate::lab::{Lab, judge, prompt};

fn order(prompt: Json) -> Vec<String> {
    Lab::new().run(prompt).executing().into_iter().map(str::to_owned).collect()
}

#[test]
fn a_chain_tells_every_step_in_order() {
    let nodes = [
        ("1", "Number", json!({"value": 4})),
        ("2", "Add", json!({"a": ["1", 0], "b": 1})),
        ("3", "Show", json!({"source": ["2", 0]})),
    ];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(
        report.lines(),
        [
            "started",
            "cached []",
            "state 1 running 0/1",
            "executing 1 as 1",
            "state 1 finished 1/1",
            "state 1 finished 1/1, 2 running 0/1",
            "executing 2 as 2",
            "state 1 finished 1/1, 2 finished 1/1",
            "state 1 finished 1/1, 2 finished 1/1, 3 running 0/1",
            "executing 3 as 3",
            r#"executed 3 as 3 {"text":["5"]}"#,
            "state 1 finished 1/1, 2 finished 1/1, 3 finished 1/1",
            "succeeded",
        ]
    );
}

#[test]
fn the_last_link_of_a_node_runs_first() {
    let nodes = [
        ("1", "Number", json!({"value": 1})),
        ("2", "Number", json!({"value": 2})),
        ("3", "Number", json!({"value": 3})),
        ("4", "Add", json!({"a": ["1", 0], "b": ["2", 0], "c": ["3", 0]})),
        ("5", "Show", json!({"source": ["4", 0]})),
    ];
    assert_eq!(order(prompt(nodes)), ["3", "2", "1", "4", "5"]);
}

#[test]
fn nodes_close_to_an_output_run_before_others() {
    // 6 feeds the output directly, 1 and 2 only through 4 and 5.
    let nodes = [
        ("1", "Number", json!({"value": 1})),
        ("2", "Add", json!({"a": ["1", 0], "b": 0})),
        ("4", "Add", json!({"a": ["2", 0], "b": 0})),
        ("5", "Show", json!({"source": ["4", 0]})),
        ("6", "Number", json!({"value": 6})),
        ("7", "Show", json!({"source": ["6", 0]})),
    ];
    assert_eq!(order(prompt(nodes)), ["6", "7", "1", "2", "4", "5"]);
}

#[test]
fn a_diamond_runs_its_root_once() {
    let nodes = [
        ("4", "Show", json!({"source": ["3", 0]})),
        ("3", "Add", json!({"a": ["1", 0], "b": ["2", 0]})),
        ("2", "Add", json!({"a": ["1", 0], "b": 1})),
        ("1", "Number", json!({"value": 1})),
    ];
    assert_eq!(order(prompt(nodes)), ["1", "2", "3", "4"]);
}

#[test]
fn only_what_an_output_needs_runs() {
    let nodes = [
        ("1", "Number", json!({"value": 1})),
        ("2", "Show", json!({"source": ["1", 0]})),
        ("3", "Add", json!({"a": ["1", 0], "b": 1})),
        ("4", "Show", json!({"source": ["3", 0]})),
        ("5", "Add", json!({"a": ["1", 0], "b": 9})),
    ];
    let plan = judge(prompt(nodes), Some(&["4"])).expect("valid").plan;
    let report = Lab::new().run_plan(&plan, |_, _| {});
    assert_eq!(report.executing(), ["1", "3", "4"]);
    assert_eq!(report.outputs.keys().collect::<Vec<_>>(), ["4"]);
}

#[test]
fn links_to_undeclared_inputs_are_not_followed() {
    let nodes = [
        ("1", "Fail", json!({"value": 1})),
        ("2", "Show", json!({"source": 3, "bogus": ["1", 0], "worse": ["77", 0]})),
    ];
    assert_eq!(order(prompt(nodes)), ["2"]);
}

#[test]
fn an_output_may_feed_another_one() {
    let nodes = [
        ("1", "Pass", json!({"value": 5})),
        ("2", "Pass", json!({"value": ["1", 0]})),
        ("3", "Sink", json!({"value": ["2", 0]})),
    ];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(report.executing(), ["1", "2", "3"]);
    assert_eq!(report.outputs.keys().collect::<Vec<_>>(), ["1", "2"]);
    let told =
        report.meta.iter().map(|meta| (meta.node.as_str(), meta.real.as_str(), meta.parent.as_deref()));
    assert_eq!(told.collect::<Vec<_>>(), [("1", "1", None), ("2", "2", None)]);
}
