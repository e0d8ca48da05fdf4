//! What is wrong with a prompt, in ComfyUI's words.

use comfyd::graph::{Problem, Problems, Refusal};
use serde_json::{Value as Json, json};

use crate::lab::{Lab, judge, prompt};

/// One line per problem: `node Class word: details (outputs that depend on it)`.
fn lines(problems: &Problems) -> Vec<String> {
    let lines = problems.0.iter().flat_map(|at| {
        at.problems.iter().map(|problem| {
            let dependents = at.dependents.join(" ");
            format!("{} {} {}: {} ({dependents})", at.node, at.class, problem.word(), problem.details())
        })
    });
    lines.collect()
}

/// The whole prompt is refused for the problems given.
fn refused(prompt: Json, expected: &[&str]) -> Problems {
    match judge(prompt, None) {
        Err(Refusal::OutputsFailed(problems)) => {
            assert_eq!(lines(&problems), expected);
            problems
        }
        other => panic!("expected failed outputs, got {other:?}"),
    }
}

fn message(prompt: Json) -> String {
    judge(prompt, None).expect_err("the prompt is refused").to_string()
}

#[test]
fn a_prompt_that_is_no_object_is_refused() {
    assert!(matches!(judge(json!([]), None), Err(Refusal::NotAnObject { found: "a list" })));
    assert!(matches!(judge(json!("text"), None), Err(Refusal::NotAnObject { found: "a text" })));
}

#[test]
fn the_first_node_without_a_known_class_is_named_even_when_unused() {
    let good = json!({"class_type": "Show", "inputs": {"source": 1}});
    for (bad, expected) in [
        (json!({"inputs": {}}), "Node 7 has no class_type"),
        (json!("not an object"), "Node 7 has no class_type"),
        (json!([1]), "Node 7 has no class_type"),
        (json!({"class_type": "Nothing"}), "Node 7 is of class Nothing, which does not exist here"),
        (json!({"class_type": null}), "Node 7 is of class None, which does not exist here"),
    ] {
        let found = message(json!({"1": good, "7": bad, "8": {}}));
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn a_prompt_without_an_output_to_run_is_refused() {
    let chain = || prompt([("1", "Number", json!({"value": 1})), ("2", "Show", json!({"source": ["1", 0]}))]);
    assert!(matches!(judge(json!({}), None), Err(Refusal::NoOutputs)));
    assert!(matches!(judge(prompt([("1", "Number", json!({}))]), None), Err(Refusal::NoOutputs)));
    assert!(matches!(judge(chain(), Some(&[])), Err(Refusal::NoOutputs)));
    assert!(matches!(judge(chain(), Some(&["1", "9"])), Err(Refusal::NoOutputs)));
    assert_eq!(judge(chain(), Some(&["9", "2"])).expect("valid").plan.outputs, ["2"]);
}

#[test]
fn every_input_of_a_node_is_judged_in_one_go() {
    let bad = json!({"whole": "wide", "real": -1, "crop": "Center", "words": ["1"], "seed": -1});
    let problems = refused(
        prompt([("1", "Widgets", bad)]),
        &[
            "1 Widgets invalid_input_type: whole, wide, invalid literal for int() with base 10: 'wide' (1)",
            "1 Widgets value_smaller_than_min: seed (1)",
            "1 Widgets value_smaller_than_min: real (1)",
            "1 Widgets bad_linked_input: words (1)",
            "1 Widgets value_not_in_list: crop: 'Center' not in ['disabled', 'center'] (1)",
        ],
    );
    assert_eq!(
        problems.summary().lines().last(),
        Some("The value is not in the list: crop: 'Center' not in ['disabled', 'center']")
    );
}

#[test]
fn links_have_to_be_usable() {
    let linked = |link: Json| {
        prompt([
            ("1", "Number", json!({"value": 1})),
            ("2", "Add", json!({"a": link, "b": 1})),
            ("3", "Show", json!({"source": ["2", 0]})),
        ])
    };
    for (link, expected) in [
        (json!([]), "2 Add bad_linked_input: a (3)"),
        (json!(["1"]), "2 Add bad_linked_input: a (3)"),
        (json!(["1", 0, 0]), "2 Add bad_linked_input: a (3)"),
        (json!(["77", 0]), "2 Add exception_during_inner_validation: '77' (3)"),
        (json!([1, 0]), "2 Add exception_during_inner_validation: 1 (3)"),
        (json!([["1"], 0]), "2 Add exception_during_inner_validation: unhashable type: 'list' (3)"),
        (json!(["a", "b"]), "2 Add exception_during_inner_validation: 'a' (3)"),
        (json!(["1", 5]), "2 Add exception_during_inner_validation: tuple index out of range (3)"),
        (json!(["1", -2]), "2 Add exception_during_inner_validation: tuple index out of range (3)"),
        (
            json!(["1", "0"]),
            "2 Add exception_during_inner_validation: tuple indices must be integers or slices, not str (3)",
        ),
    ] {
        let problems = refused(linked(link), &[expected]);
        assert_eq!(problems.summary(), "", "the output itself is not at fault");
    }
}

#[test]
fn slots_below_zero_count_from_the_last_as_in_python() {
    let mut lab = Lab::new();
    let shown =
        lab.run(prompt([("1", "Number", json!({"value": 4})), ("2", "Show", json!({"source": ["1", -1]}))]));
    assert_eq!(shown.outputs["2"]["text"], json!(["4"]));
}

#[test]
fn a_fault_is_described_by_the_link_of_the_consumer() {
    let problems = refused(
        prompt([("2", "Add", json!({"a": ["77", 0], "b": 1})), ("3", "Show", json!({"source": ["2", 0]}))]),
        &["2 Add exception_during_inner_validation: '77' (3)"],
    );
    match &problems.0[0].problems[0] {
        Problem::ExceptionDuringInnerValidation { input, link, fault } => {
            assert_eq!((input.class, input.spec.name), ("Show", "source"));
            assert_eq!(*link, json!(["2", 0]));
            assert_eq!(fault.kind, "KeyError");
            assert_eq!(fault.reason, "node 2 links to node 77, which is not in the prompt");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fault_of_an_output_node_fills_the_summary() {
    let summary = |prompt, expected| refused(prompt, &[expected]).summary();
    assert_eq!(
        summary(
            prompt([("1", "Show", json!({"source": [1, 0]}))]),
            "1 Show exception_during_validation: 1 (1)"
        ),
        "The output node cannot be validated, because node 1 links to node 1, which is not in the prompt: 1"
    );
    assert_eq!(
        summary(json!({"1": {"class_type": "Show"}}), "1 Show exception_during_validation: 'inputs' (1)"),
        "The output node cannot be validated, because node 1 has no inputs: 'inputs'"
    );
    summary(
        json!({"1": {"class_type": "Show", "inputs": null}}),
        "1 Show exception_during_validation: inputs is not an object (1)",
    );
    assert_eq!(
        summary(prompt([("1", "Show", json!({}))]), "1 Show required_input_missing: source (1)"),
        "A required input is missing: source"
    );
}

#[test]
fn types_match_when_they_are_equal_share_one_of_a_set_or_are_any() {
    let fed = |source: &'static str, slot: u32, class: &'static str, input: &str| {
        let source_inputs = match source {
            "Loose" => json!({"anything": ["0", 0]}),
            _ => json!({"value": 1}),
        };
        let nodes = [
            ("0", "Tensor", json!({})),
            ("1", source, source_inputs),
            ("2", class, json!({input: ["1", slot]})),
        ];
        match judge(prompt(nodes), None) {
            Ok(_) => Vec::new(),
            Err(Refusal::OutputsFailed(problems)) => lines(&problems),
            Err(other) => panic!("{other:?}"),
        }
    };
    let fits: Vec<String> = Vec::new();
    assert_eq!(fed("Pair", 0, "Widgets", "whole"), fits);
    assert_eq!(fed("Pair", 0, "Widgets", "anything"), fits);
    assert_eq!(fed("Pair", 0, "Set", "either"), fits);
    assert_eq!(fed("Loose", 0, "Widgets", "crop"), fits);
    for (class, input, expected) in [
        ("Widgets", "whole", "whole, received_type(STRING) mismatch input_type(INT)"),
        ("Widgets", "crop", "crop, received_type(STRING) mismatch input_type(['disabled', 'center'])"),
        ("Set", "either", "either, received_type(STRING) mismatch input_type(BLOCK, INT)"),
    ] {
        assert_eq!(fed("Pair", 1, class, input), [format!("2 {class} return_type_mismatch: {expected} (2)")]);
    }
}

#[test]
fn a_mismatch_stops_the_walk_into_the_linked_node() {
    let nodes = [("1", "Pair", json!({"value": "x"})), ("2", "Widgets", json!({"whole": ["1", 1]}))];
    refused(
        prompt(nodes),
        &["2 Widgets return_type_mismatch: whole, received_type(STRING) mismatch input_type(INT) (2)"],
    );
}

#[test]
fn long_lists_are_counted_and_empty_ones_shown() {
    refused(
        prompt([("1", "Many", json!({"letter": "z"}))]),
        &["1 Many value_not_in_list: letter: 'z' not in (list of length 21) (1)"],
    );
    refused(
        prompt([("1", "Folder", json!({"name": "x.safetensors"}))]),
        &["1 Folder value_not_in_list: name: 'x.safetensors' not in [] (1)"],
    );
    refused(
        prompt([("1", "Widgets", json!({"crop": 3}))]),
        &["1 Widgets value_not_in_list: crop: '3' not in ['disabled', 'center'] (1)"],
    );
}

#[test]
fn combos_of_schema_nodes_are_not_checked() {
    assert!(judge(prompt([("1", "Schema", json!({"crop": "unknown"}))]), None).is_ok());
}

#[test]
fn a_node_judges_its_own_inputs_in_place_of_range_and_list() {
    let picky = |level: Json, other: i64| {
        prompt([("1", "Picky", json!({"crop": "x", "level": level, "other": other}))])
    };
    assert!(judge(picky(json!(6), 1), None).is_ok());
    let failed = |input: &str, reason: &str| format!("1 Picky custom_validation_failed: {input}{reason} (1)");
    for (level, reason) in [(9, " - nine is too much"), (7, ""), (8, " - eight")] {
        let expected = [failed("crop", reason), failed("level", reason)];
        refused(picky(json!(level), 1), &expected.each_ref().map(String::as_str));
    }
    refused(
        picky(json!(9), 4),
        &[
            "1 Picky value_bigger_than_max: other (1)",
            "1 Picky custom_validation_failed: crop - nine is too much (1)",
            "1 Picky custom_validation_failed: level - nine is too much (1)",
        ],
    );
    refused(
        picky(json!("x"), 1),
        &["1 Picky invalid_input_type: level, x, invalid literal for int() with base 10: 'x' (1)"],
    );
}

#[test]
fn good_outputs_run_while_bad_ones_are_reported() {
    let nodes = [
        ("1", "Number", json!({"value": 1})),
        ("2", "Show", json!({"source": ["1", 0]})),
        ("3", "Number", json!({"value": -1000})),
        ("4", "Show", json!({"source": ["3", 0]})),
    ];
    let checked = judge(prompt(nodes), None).expect("one output is good");
    assert_eq!(checked.plan.outputs, ["2"]);
    assert_eq!(lines(&checked.problems), ["3 Number value_smaller_than_min: value (4)"]);
}

#[test]
fn a_bad_node_names_all_outputs_that_need_it_and_no_others() {
    let nodes = [
        ("1", "Number", json!({"value": "x"})),
        ("2", "Pass", json!({"value": ["1", 0]})),
        ("3", "Show", json!({"source": ["2", 0]})),
        ("4", "Number", json!({"value": null})),
        ("5", "Show", json!({"source": ["4", 0]})),
    ];
    refused(
        prompt(nodes),
        &[
            "1 Number invalid_input_type: value, x, invalid literal for int() with base 10: 'x' (2 3)",
            "4 Number invalid_input_type: value, None, int() argument must be a string, a bytes-like object \
             or a real number, not 'NoneType' (5)",
        ],
    );
}

#[test]
fn nodes_that_no_output_needs_are_neither_judged_nor_converted() {
    let nodes = json!({
        "1": {"class_type": "Number", "inputs": {"value": "12"}},
        "2": {"class_type": "Show", "inputs": {"source": ["1", 0], "bogus": [1, 2, 3], "other": "x"}, "_meta": {}},
        "7": {"class_type": "Number", "inputs": {"value": "x"}},
        "8": {"class_type": "Show", "inputs": {}},
        "9": {"class_type": "Number"},
    });
    let checked = judge(nodes.clone(), Some(&["2"])).expect("valid");
    assert!(checked.problems.is_empty());
    let mut expected = nodes;
    expected["1"]["inputs"]["value"] = json!(12);
    assert_eq!(Json::Object(checked.plan.prompt), expected);
}

#[test]
fn circles_are_reported_once_with_their_nodes() {
    let circle = [
        ("1", "Add", json!({"a": ["2", 0], "b": 1})),
        ("2", "Add", json!({"a": ["1", 0], "b": 1})),
        ("3", "Show", json!({"source": ["2", 0]})),
        ("4", "Show", json!({"source": ["1", 0]})),
    ];
    refused(prompt(circle), &["1 Add dependency_cycle: 2 -> 1 (3 4)"]);
    let own = [("1", "Add", json!({"a": ["1", 0], "b": 1})), ("3", "Show", json!({"source": ["1", 0]}))];
    refused(prompt(own), &["1 Add dependency_cycle: 1 (3)"]);
}

#[test]
fn messages_are_sentences_that_name_the_values() {
    let problems = refused(
        prompt([("1", "Widgets", json!({"whole": 101, "seed": 18_446_744_073_709_551_616.0_f64}))]),
        &["1 Widgets value_bigger_than_max: whole (1)", "1 Widgets value_bigger_than_max: seed (1)"],
    );
    let messages: Vec<_> = problems.0[0].problems.iter().map(Problem::message).collect();
    assert_eq!(messages[0], "Value 101 is bigger than the maximum 100");
    assert_eq!(messages[1], "Value 1.8446744073709552e+19 is bigger than the maximum 18446744073709551615");
}
