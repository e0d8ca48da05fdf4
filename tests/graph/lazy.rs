//! Inputs that are computed only when the node asks for them.

use serde_json::{Value as Json, json};

use crate::lab::{Lab, prompt};

fn switch(condition: Json) -> Json {
    prompt([
        ("1", "Number", json!({"value": 1})),
        ("2", "Add", json!({"a": ["1", 0], "b": 10})),
        ("3", "Number", json!({"value": 3})),
        ("c", "Loose", json!({"anything": ["flag", 0]})),
        ("flag", "Split", json!({"numbers": "1"})),
        ("4", "Switch", json!({"condition": condition, "on_true": ["2", 0], "on_false": ["3", 0]})),
        ("5", "Show", json!({"source": ["4", 0]})),
    ])
}

#[test]
fn only_the_branch_that_is_asked_for_runs() {
    let report = Lab::new().run(switch(json!(true)));
    assert_eq!(report.executing(), ["4", "1", "2", "4", "5"]);
    assert_eq!(report.shown("5"), ["11"]);
    let report = Lab::new().run(switch(json!(false)));
    assert_eq!(report.executing(), ["4", "3", "4", "5"]);
    assert_eq!(report.shown("5"), ["3"]);
}

#[test]
fn a_waiting_node_starts_once_more_and_finishes_once() {
    let report = Lab::new().run(switch(json!(false)));
    let of_switch: Vec<_> = report.lines().into_iter().filter(|line| line.contains("4 ")).collect();
    assert_eq!(
        of_switch[..6],
        [
            "state 4 running 0/1",
            "executing 4 as 4",
            "state 4 running 0/1, 3 running 0/1",
            "state 4 running 0/1, 3 finished 1/1",
            "state 4 running 0/1, 3 finished 1/1",
            "executing 4 as 4",
        ]
    );
    assert_eq!(of_switch[6], "state 4 finished 1/1, 3 finished 1/1");
}

#[test]
fn a_cached_branch_is_taken_without_waiting() {
    let mut lab = Lab::new();
    lab.run(switch(json!(true)));
    let mut again = switch(json!(true));
    again["4"]["inputs"]["extra"] = json!("changed");
    assert_eq!(lab.run(again).executing(), ["4", "5"]);
}

#[test]
fn a_constant_for_a_lazy_input_is_simply_there() {
    let nodes = [
        ("4", "Switch", json!({"condition": true, "on_true": 8})),
        ("5", "Show", json!({"source": ["4", 0]})),
    ];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!((report.executing(), report.shown("5")), (vec!["4", "5"], vec!["8"]));
}

#[test]
fn asking_for_an_input_that_is_not_linked_does_not_hang() {
    let nodes = [("4", "Switch", json!({"condition": true})), ("5", "Show", json!({"source": ["4", 0]}))];
    assert_eq!(Lab::new().run(prompt(nodes)).shown("5"), ["-1"]);
}

#[test]
fn lists_may_need_both_branches() {
    let nodes = [
        ("0", "Split", json!({"numbers": "1,2"})),
        ("1", "Switch", json!({"condition": true, "on_true": ["0", 0], "on_false": ["3", 0]})),
        ("3", "Number", json!({"value": 3})),
        ("5", "Show", json!({"source": ["1", 0]})),
    ];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!((report.executing(), report.shown("5")), (vec!["1", "0", "1", "5"], vec!["1", "2"]));
}
