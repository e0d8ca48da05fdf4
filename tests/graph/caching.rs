//! What is reused between runs, and what is not.

use comfyd::graph::CachePolicy;
use serde_json::{Value as Json, json};

use crate::lab::{Lab, judge, prompt};

fn chain(value: i64, last: i64) -> Json {
    prompt([
        ("1", "Number", json!({"value": value})),
        ("2", "Add", json!({"a": ["1", 0], "b": 1})),
        ("3", "Add", json!({"a": ["2", 0], "b": last})),
        ("4", "Show", json!({"source": ["3", 0]})),
    ])
}

/// Runs prompts one after another; per run the cached ids and the called ids.
fn check(lab: &mut Lab, runs: &[(Json, &[&str], &[&str])]) {
    for (index, (prompt, cached, executing)) in runs.iter().enumerate() {
        let report = lab.run(prompt.clone());
        assert_eq!(report.cached(), *cached, "cached in run {index}");
        assert_eq!(report.executing(), *executing, "called in run {index}");
    }
}

const ALL: &[&str] = &["1", "2", "3", "4"];

#[test]
fn the_same_prompt_only_shows_its_outputs_again() {
    let mut lab = Lab::new();
    lab.run(chain(1, 1));
    let report = lab.run(chain(1, 1));
    assert_eq!(
        report.lines(),
        [
            "started",
            "cached [1 2 3 4]",
            r#"executed 4 as 4 {"text":["3"]}"#,
            "state 4 finished 1/1",
            "succeeded",
        ]
    );
    assert_eq!(report.shown("4"), ["3"]);
}

#[test]
fn a_cached_output_without_anything_to_show_is_told_as_well() {
    let mut lab = Lab::new();
    lab.run(prompt([("1", "Sink", json!({"value": 1}))]));
    let report = lab.run(prompt([("1", "Sink", json!({"value": 1}))]));
    assert_eq!(report.lines()[2..], ["executed 1 as 1 null", "state 1 finished 1/1", "succeeded"]);
    assert!(report.outputs.is_empty());
}

#[test]
fn one_change_runs_what_depends_on_it() {
    check(
        &mut Lab::new(),
        &[(chain(1, 1), &[], ALL), (chain(1, 2), &["1", "2"], &["3", "4"]), (chain(2, 2), &[], ALL)],
    );
}

#[test]
fn results_leave_when_the_next_prompt_does_not_need_them() {
    let short = prompt([("1", "Number", json!({"value": 1})), ("9", "Show", json!({"source": ["1", 0]}))]);
    check(
        &mut Lab::new(),
        &[(chain(1, 1), &[], ALL), (short, &["1"], &["9"]), (chain(1, 1), &["1"], &["2", "3", "4"])],
    );
}

#[test]
fn ids_titles_and_order_do_not_count() {
    let renamed = json!({
        "d": {"class_type": "Show", "inputs": {"source": ["c", 0]}, "_meta": {"title": "x"}},
        "c": {"class_type": "Add", "inputs": {"b": 1, "a": ["b", 0]}},
        "b": {"class_type": "Add", "inputs": {"a": ["a", 0], "b": 1}},
        "a": {"class_type": "Number", "inputs": {"value": "1"}},
    });
    let mut lab = Lab::new();
    lab.run(chain(1, 1));
    let report = lab.run(renamed);
    assert_eq!(report.cached(), ["d", "c", "b", "a"]);
    assert_eq!(report.outputs["d"], json!({"text": ["3"]}));
    assert_eq!(report.meta[0].node, "d");
}

#[test]
fn slots_classes_and_unknown_inputs_count() {
    let with = |class: &'static str, slot: u32, extra: &str| {
        prompt([
            ("1", class, json!({"value": 1, "extra": extra})),
            ("2", "Show", json!({"source": ["1", slot]})),
        ])
    };
    check(
        &mut Lab::new(),
        &[
            (with("Pair", 0, "x"), &[], &["1", "2"]),
            (with("Pair", 1, "x"), &["1"], &["2"]),
            (with("Pair", 1, "y"), &[], &["1", "2"]),
            (with("Number", 0, "y"), &[], &["1", "2"]),
        ],
    );
}

#[test]
fn equal_nodes_of_one_prompt_share_a_result() {
    let twins = prompt([
        ("1", "Number", json!({"value": 1})),
        ("2", "Number", json!({"value": 1})),
        ("3", "Pass", json!({"value": ["1", 0]})),
        ("4", "Pass", json!({"value": ["2", 0]})),
    ]);
    let report = Lab::new().run(twins);
    assert_eq!(report.executing(), ["1", "3"]);
    assert_eq!((report.shown("3"), report.shown("4")), (vec!["1"], vec!["1"]));
}

#[test]
fn distinct_classes_and_those_that_know_their_id_share_nothing() {
    for class in ["Own", "Names"] {
        let twins = |one: &'static str, two: &'static str| {
            prompt([
                (one, class, json!({"value": 1})),
                (two, class, json!({"value": 1})),
                ("3", "Show", json!({"source": [one, 0]})),
                ("4", "Show", json!({"source": [two, 0]})),
            ])
        };
        let mut lab = Lab::new();
        let report = lab.run(twins("1", "2"));
        assert_eq!((report.shown("3"), report.shown("4")), (vec!["1"], vec!["2"]));
        assert_eq!(lab.run(twins("1", "9")).cached(), ["1", "3"]);
    }
}

#[test]
fn a_changed_fingerprint_runs_the_node_again() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = file.path().to_str().expect("a plain path");
    let read =
        || prompt([("1", "FileOf", json!({"path": path})), ("2", "Show", json!({"source": ["1", 0]}))]);
    let write = |text: &str| std::fs::write(path, text).expect("the file can be written");
    write("one");
    let mut lab = Lab::new();
    assert_eq!(lab.run(read()).shown("2"), ["one"]);
    assert_eq!(lab.run(read()).cached(), ["1", "2"]);
    write("two");
    let report = lab.run(read());
    assert_eq!((report.cached(), report.shown("2")), (vec![], vec!["two"]));
}

#[test]
fn what_is_never_the_same_is_never_reused_nor_what_depends_on_it() {
    // 13 makes the fingerprint itself fail, which counts as never the same.
    for value in [1, 13] {
        let never = || {
            prompt([
                ("1", "Never", json!({"value": value})),
                ("2", "Never", json!({"value": value})),
                ("3", "Add", json!({"a": ["1", 0], "b": ["2", 0]})),
                ("4", "Show", json!({"source": ["3", 0]})),
            ])
        };
        let all: &[&str] = &["2", "1", "3", "4"];
        check(&mut Lab::new(), &[(never(), &[], all), (never(), &[], all)]);
    }
}

#[test]
fn results_of_a_failed_run_stay() {
    let failing = |value: i64| {
        prompt([
            ("1", "Number", json!({"value": 1})),
            ("2", "Panic", json!({"value": ["1", 0]})),
            ("3", "Fail", json!({"value": ["2", 0]})),
            ("4", "Show", json!({"source": ["3", 0], "note": value})),
        ])
    };
    check(&mut Lab::new(), &[(failing(1), &[], &["1", "2", "3"]), (failing(2), &["1", "2"], &["3"])]);
}

#[test]
fn unused_nodes_count_as_cached_too() {
    let full = chain(1, 1);
    let mut lab = Lab::new();
    lab.run(full.clone());
    let mut more = full;
    more["5"] = json!({"class_type": "Number", "inputs": {"value": 1}});
    more["6"] = json!({"class_type": "Add", "inputs": {"a": ["6", 0], "b": ["77", 0]}});
    more["7"] = json!({"class_type": "Add"});
    assert_eq!(lab.run(more).cached(), ["1", "2", "3", "4", "5"]);
}

#[test]
fn forgetting_drops_everything() {
    let mut lab = Lab::new();
    lab.run(chain(1, 1));
    lab.forget();
    check(&mut lab, &[(chain(1, 1), &[], ALL)]);
}

#[test]
fn a_node_remembers_while_its_id_and_class_stay() {
    let memo = |id: &'static str, value: i64| prompt([(id, "Memo", json!({"value": value}))]);
    let mut lab = Lab::new();
    assert_eq!(lab.run(memo("1", 1)).shown("1"), ["1"]);
    assert_eq!(lab.run(memo("1", 2)).shown("1"), ["2"]);
    assert_eq!(lab.run(memo("2", 3)).shown("2"), ["1"]);
    assert_eq!(lab.run(memo("1", 4)).shown("1"), ["1"]);
    lab.run(prompt([("1", "Sink", json!({"value": 4}))]));
    assert_eq!(lab.run(memo("1", 5)).shown("1"), ["1"]);
    lab.forget();
    assert_eq!(lab.run(memo("1", 6)).shown("1"), ["1"]);
}

#[test]
fn least_recently_used_results_leave_first() {
    let one = |value: i64| prompt([("1", "Pass", json!({"value": value}))]);
    let mut lab = Lab::with(CachePolicy::Lru(3));
    check(
        &mut lab,
        &[
            (one(1), &[], &["1"]),
            (one(2), &[], &["1"]),
            (one(1), &["1"], &[]),
            (one(3), &[], &["1"]),
            (one(4), &[], &["1"]),
            (one(1), &["1"], &[]),
            (one(2), &[], &["1"]),
        ],
    );
    // A prompt larger than the limit still runs, and is whole as long as nothing else comes.
    let mut lab = Lab::with(CachePolicy::Lru(1));
    check(&mut lab, &[(chain(1, 1), &[], ALL), (chain(1, 1), ALL, &[])]);
}

#[test]
fn without_a_cache_everything_runs_each_time_and_outputs_are_kept_for_history() {
    let wide = || {
        prompt([
            ("1", "Number", json!({"value": 1})),
            ("2", "Number", json!({"value": 1})),
            ("3", "Add", json!({"a": ["1", 0], "b": ["2", 0]})),
            ("4", "Pass", json!({"value": ["3", 0]})),
            ("5", "Switch", json!({"condition": false, "on_true": ["1", 0], "on_false": ["4", 0]})),
            ("6", "Show", json!({"source": ["5", 0]})),
            ("7", "Chain", json!({"value": ["1", 0], "count": 2, "show": true})),
            ("8", "Show", json!({"source": ["7", 0]})),
        ])
    };
    let mut lab = Lab::with(CachePolicy::None);
    for _ in 0..2 {
        let report = lab.run(wide());
        assert_eq!(report.cached(), Vec::<&str>::new());
        let mut called = report.executing();
        called.retain(|id| !id.contains('.'));
        called.sort_unstable();
        // The switch is asked twice.
        assert_eq!(called, ["1", "2", "3", "4", "5", "5", "6", "7", "8"]);
        assert_eq!(
            (report.shown("4"), report.shown("6"), report.shown("8")),
            (vec!["2"], vec!["2"], vec!["3"])
        );
        assert_eq!(report.shown("7.0.0.3"), ["3"]);
    }
}

#[test]
fn a_plan_can_be_run_again_as_it_is() {
    let plan = judge(chain(1, 1), None).expect("valid").plan;
    let mut lab = Lab::new();
    lab.run_plan(&plan, |_, _| {});
    assert_eq!(lab.run_plan(&plan, |_, _| {}).cached(), ALL);
}
