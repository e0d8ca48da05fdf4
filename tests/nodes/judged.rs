//! Random graphs, sound and broken, are judged as ComfyUI 0.3.64 judged them: the same ones are accepted, and the
//! others refused for the same reasons. `tests/golden/judged.jsonl` holds one graph and its answer per line.

use std::collections::BTreeMap;

use comfyd::graph::{NodeProblems, Problem, Problems, Refusal, check};
use comfyd::nodes::{Services, registry};
use comfyd::paths::Folders;
use serde_json::{Value as Json, json};

/// What is compared of an answer: the kind of refusal, and per node its errors. Which outputs they stop depends on
/// the order of a Python set there, so that is left out.
#[derive(Debug, PartialEq)]
struct Judgement {
    error: Option<&'static str>,
    nodes: BTreeMap<String, Json>,
}

impl Judgement {
    fn recorded(line: &Json) -> Self {
        let words = ["invalid_prompt", "prompt_no_outputs", "prompt_outputs_failed_validation", "no_prompt"];
        let error = line.get("error").map(|error| words.into_iter().find(|word| error == word).unwrap());
        let nodes = line.get("node_errors").and_then(Json::as_object).into_iter().flatten();
        Self { error, nodes: nodes.map(|(id, errors)| (id.clone(), errors.clone())).collect() }
    }

    fn of(services: &Services, body: &Json) -> Self {
        let only: Option<Vec<String>> = body
            .get("partial_execution_targets")
            .map(|targets| serde_json::from_value(targets.clone()).unwrap());
        match check(body["prompt"].clone(), &registry(), services, only.as_deref()) {
            Ok(checked) => Self { error: None, nodes: told(&checked.problems) },
            Err(Refusal::NoOutputs) => Self { error: Some("prompt_no_outputs"), nodes: BTreeMap::new() },
            Err(Refusal::OutputsFailed(problems)) => {
                Self { error: Some("prompt_outputs_failed_validation"), nodes: told(&problems) }
            }
            Err(_) => Self { error: Some("invalid_prompt"), nodes: BTreeMap::new() },
        }
    }
}

fn told(problems: &Problems) -> BTreeMap<String, Json> {
    let node = |at: &NodeProblems| {
        let mut errors: Vec<_> = at.problems.iter().map(error).collect();
        errors.sort_by_key(ToString::to_string);
        (at.node.clone(), Json::from(errors))
    };
    let mut nodes: BTreeMap<_, _> = problems.0.iter().map(node).collect();
    // ComfyUI 0.3.64 refuses a circle without a word about the nodes.
    nodes.retain(|_, errors| !errors.to_string().contains("dependency_cycle"));
    nodes
}

/// What Python said is its own affair, and lists of files are each server's.
fn error(problem: &Problem) -> Json {
    let (word, details) = (problem.word(), problem.details());
    let details = if word.starts_with("exception") { "" } else { details.split(" not in ").next().unwrap() };
    json!([word, details])
}

#[test]
fn random_graphs_are_judged_as_recorded() {
    let base = tempfile::tempdir().unwrap();
    let folders = Folders::below(base.path());
    folders.create().unwrap();
    let services = Services::new(folders);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/judged.jsonl");
    let text = std::fs::read_to_string(file).unwrap();
    let mut different = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line: Json = serde_json::from_str(line).unwrap();
        let (recorded, found) = (Judgement::recorded(&line), Judgement::of(&services, &line["body"]));
        if recorded != found {
            different.push(format!(
                "line {}: {}\n  recorded {recorded:?}\n  found {found:?}",
                number + 1,
                line["body"]
            ));
        }
    }
    assert!(text.lines().count() >= 500);
    assert!(different.is_empty(), "{} graphs:\n{}", different.len(), different.join("\n"));
}
