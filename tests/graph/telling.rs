//! Progress, interrupts, failures, and what nodes are told about the run.

use std::sync::Arc;

use comfyd::graph::{End, Event, Plan};
use serde_json::{Value as Json, json};

use crate::lab::{Lab, prompt};

#[test]
fn each_step_is_a_state_and_a_progress() {
    let nodes = [("1", "Steps", json!({"count": 2})), ("2", "Show", json!({"source": ["1", 0]}))];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(
        report.lines()[2..10],
        [
            "state 1 running 0/1",
            "executing 1 as 1",
            "state 1 running 1/2",
            "progress 1 running 1/2",
            "state 1 running 2/2",
            "progress 1 running 2/2",
            "text 1 a note",
            "state 1 finished 2/2",
        ]
    );
}

#[test]
fn a_picture_travels_with_its_step() {
    let nodes =
        [("1", "Steps", json!({"count": 1, "picture": true})), ("2", "Show", json!({"source": ["1", 0]}))];
    let lines = Lab::new().run(prompt(nodes)).lines();
    assert!(lines.contains(&"progress 1 running 1/1 picture Png".to_owned()), "{lines:#?}");
}

#[test]
fn an_interrupt_stops_between_steps() {
    let nodes = [
        ("1", "Number", json!({"value": 1})),
        ("2", "Steps", json!({"count": 100, "value": ["1", 0]})),
        ("3", "Show", json!({"source": ["2", 0]})),
    ];
    let mut lab = Lab::new();
    let report = lab.run_watched(prompt(nodes.clone()), |event, stop| {
        if matches!(event, Event::Progress { node, .. } if node.value == 3) {
            stop.request();
        }
    });
    assert_eq!(report.end, End::Interrupted);
    let lines = report.lines();
    assert_eq!(
        lines[lines.len() - 2..],
        ["progress 2 running 3/100", "interrupted 2 Steps after [1]"],
        "nothing follows"
    );
    lab.stop.clear();
    let report = lab.run(prompt(nodes));
    assert_eq!((report.end, report.cached()), (End::Succeeded, vec!["1"]));
}

#[test]
fn an_interrupt_stops_between_nodes() {
    let nodes = [("1", "Number", json!({"value": 1})), ("2", "Show", json!({"source": ["1", 0]}))];
    let report = Lab::new().run_watched(prompt(nodes), |event, stop| {
        if matches!(event, Event::Executing { node, .. } if node == "2") {
            stop.request();
        }
    });
    assert_eq!(report.lines().last().map(String::as_str), Some("interrupted 2 Show after [1]"));
    assert_eq!(report.end, End::Interrupted);
}

#[test]
fn a_failure_tells_cause_arguments_and_what_ran() {
    let nodes = [
        ("0", "Pass", json!({"value": 7})),
        ("1", "Split", json!({"numbers": "1,2"})),
        ("2", "Fail", json!({"value": ["1", 0], "note": "n", "extra": 1})),
        ("3", "Show", json!({"source": ["2", 0]})),
        ("4", "Tensor", json!({})),
    ];
    let mut lab = Lab::new();
    lab.request.extra_pnginfo = Some(Arc::new(json!({"workflow": 1})));
    let report = lab.run(prompt(nodes));
    assert_eq!(report.end, End::Failed);
    let failure = report.failure();
    assert_eq!((failure.node.as_str(), failure.class.as_str()), ("2", "Fail"));
    assert_eq!((failure.message.as_str(), failure.kind.as_str()), ("the outer reason", "Failed"));
    assert_eq!(failure.causes.len(), 1);
    assert_eq!(failure.executed, ["0", "1"]);
    assert_eq!(failure.known, ["0", "1", "2", "3", "4"]);
    let mut inputs = Json::Object(failure.inputs.clone());
    let prompt = inputs["prompt"][0].take();
    assert!(prompt.as_str().is_some_and(|text| text.starts_with("{'0': {'class_type': 'Pass'")), "{prompt}");
    assert_eq!(
        inputs,
        json!({
            "value": [1, 2], "note": ["n"], "prompt": [null],
            "extra_pnginfo": ["{'workflow': 1}"], "unique_id": ["2"],
        })
    );
    assert_eq!(report.outputs.keys().collect::<Vec<_>>(), ["0"], "what was shown before stays");
    let lines = report.lines();
    assert!(lines[lines.len() - 2].starts_with("executing 2"), "the failing node never finishes: {lines:#?}");
}

#[test]
fn a_panic_ends_the_node_and_not_the_server() {
    let panicking = |value: i64| {
        prompt([("1", "Panic", json!({"value": value})), ("2", "Show", json!({"source": ["1", 0]}))])
    };
    let mut lab = Lab::new();
    assert_eq!(lab.run(panicking(1)).shown("2"), ["1"]);
    let report = lab.run(panicking(0));
    assert_eq!((report.end, report.failure().kind.as_str()), (End::Failed, "Panicked"));
    assert!(report.failure().message.ends_with("value 0 is not positive"), "{}", report.failure().message);
    assert_eq!(lab.run(panicking(2)).shown("2"), ["1"], "memory from before the panic is gone");
}

#[test]
fn nodes_see_the_converted_prompt_with_fingerprints() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "state").expect("the file can be written");
    let nodes = json!({
        "1": {"class_type": "FileOf", "inputs": {"path": file.path().to_str(), "number": "12"}},
        "2": {"class_type": "Show", "inputs": {"source": ["1", 0]}},
        "3": {"class_type": "Never", "inputs": {"value": 1}, "is_changed": "from an old file"},
        "4": {"class_type": "Asks", "inputs": {"trigger": ["3", 0]}},
    });
    let mut lab = Lab::new();
    lab.request.extra_pnginfo = Some(Arc::new(json!({"workflow": {}})));
    lab.request.previews = Some(true);
    let plan = crate::lab::judge(nodes, None).expect("valid").plan;
    let report = lab.run_plan(&plan, |_, _| {});
    let seen: Json = serde_json::from_str(report.shown("4")[0]).expect("JSON");
    assert_eq!(seen["1"]["inputs"]["number"], 12);
    assert_eq!(seen["1"]["is_changed"], json!(["state"]));
    assert_eq!(seen["3"]["is_changed"], json!([null]));
    assert_eq!(seen["2"].get("is_changed"), None);
    assert_eq!(report.shown("4")[1..], [r#"{"workflow":{}}"#, "true"]);
    assert_eq!(plan.prompt["1"].get("is_changed"), None, "history does not show it");
}

#[test]
fn a_plan_nobody_judged_fails_without_harm() {
    let Json::Object(nodes) = json!({"1": {"class_type": "Nothing"}, "2": {}}) else { unreachable!() };
    for output in ["1", "2", "3"] {
        let plan = Plan { prompt: nodes.clone(), outputs: vec![output.to_owned()] };
        let report = Lab::new().run_plan(&plan, |_, _| {});
        assert_eq!((report.end, report.failure().node.as_str()), (End::Failed, output));
    }
    let Json::Object(nodes) = prompt([("1", "Show", json!({"source": ["77", 0]})), ("2", "Sink", json!({}))])
    else {
        unreachable!()
    };
    for (output, message) in [("1", "input `source` is missing"), ("2", "input `value` is missing")] {
        let plan = Plan { prompt: nodes.clone(), outputs: vec![output.to_owned()] };
        assert_eq!(Lab::new().run_plan(&plan, |_, _| {}).failure().message, message);
    }
}

#[test]
fn null_leaves_an_optional_input_open() {
    let nodes =
        [("0", "Number", json!({"value": 1})), ("1", "Set", json!({"either": ["0", 0], "block": null}))];
    assert_eq!(Lab::new().run(prompt(nodes)).end, End::Succeeded);
    let nodes = [("0", "Number", json!({"value": 1})), ("1", "Set", json!({"either": ["0", 0], "block": 5}))];
    let report = Lab::new().run(prompt(nodes));
    assert_eq!(report.failure().message, "input `block` is not a BLOCK");
}
