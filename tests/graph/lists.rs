//! Lists on links: mapped over, joined, taken whole.

use serde_json::{Value as Json, json};

use crate::lab::{Lab, prompt};

#[track_caller]
fn shows<'a>(nodes: impl IntoIterator<Item = (&'a str, &'a str, Json)>, expected: &[&str]) {
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(report.shown("out"), expected, "{:#?}", report.lines());
}

#[test]
fn a_node_is_called_once_per_item_and_shorter_lists_repeat_their_last() {
    shows(
        [
            ("1", "Split", json!({"numbers": "1,2,3"})),
            ("2", "Split", json!({"numbers": "10,20"})),
            ("3", "Add", json!({"a": ["1", 0], "b": ["2", 0], "c": 100})),
            ("out", "Show", json!({"source": ["3", 0]})),
        ],
        &["111", "122", "123"],
    );
}

#[test]
fn shown_lists_of_all_calls_are_joined_and_told_once() {
    let nodes = [("1", "Split", json!({"numbers": "1,2"})), ("out", "Show", json!({"source": ["1", 0]}))];
    let report = Lab::new().run(prompt(nodes));
    let told: Vec<_> = report.lines().into_iter().filter(|line| line.starts_with("executed")).collect();
    assert_eq!(told, [r#"executed out as out {"text":["1","2"]}"#]);
}

#[test]
fn a_node_that_takes_lists_is_called_once_with_all_of_them() {
    shows(
        [
            ("1", "Split", json!({"numbers": "1,2,3"})),
            ("2", "Sum", json!({"values": ["1", 0], "times": 2})),
            ("out", "Show", json!({"source": ["2", 0]})),
        ],
        &["12"],
    );
}

#[test]
fn lists_of_several_calls_become_one() {
    shows(
        [
            ("1", "Split", json!({"numbers": "1,2"})),
            ("2", "Chain", json!({"value": ["1", 0], "count": 0})),
            ("3", "Add", json!({"a": ["2", 0], "b": ["1", 0]})),
            ("out", "Show", json!({"source": ["3", 0]})),
        ],
        &["2", "4"],
    );
}

#[test]
fn an_empty_list_means_no_call() {
    let nodes = [
        ("1", "Split", json!({"numbers": ""})),
        ("2", "Fail", json!({"value": ["1", 0]})),
        ("3", "Sum", json!({"values": ["2", 0], "times": 1})),
        ("out", "Show", json!({"source": ["3", 0]})),
        ("none", "Show", json!({"source": ["2", 0]})),
    ];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(report.shown("out"), ["0"]);
    assert!(!report.outputs.contains_key("none"), "nothing was shown");
}

#[test]
fn a_node_without_inputs_is_called_once() {
    shows([("1", "Tensor", json!({})), ("out", "Show", json!({"source": ["1", 0]}))], &["<BLOCK>"]);
}
