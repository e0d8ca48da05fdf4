//! Files of ComfyUI's editor become the prompts that the editor itself makes of them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/tiny_kin.rs"]
mod tiny_kin;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;
#[path = "../support/tiny_qwen3.rs"]
mod tiny_qwen3;
#[path = "../support/tiny_qwen_21.rs"]
mod tiny_qwen_21;

mod templates;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use comfyd::graph::workflow::{self, Converted};
use comfyd::nodes::{self, Services};
use comfyd::paths::Folders;
use serde_json::{Value as Json, json};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workflow_files/files").join(name)
}

fn read(name: &str) -> Json {
    serde_json::from_slice(&std::fs::read(file(name)).unwrap()).unwrap()
}

fn convert(document: Json) -> Converted {
    let base = tempfile::tempdir().unwrap();
    let services = Services::new(Folders::below(base.path()));
    workflow::to_prompt(document, &nodes::registry(), &services).unwrap()
}

fn comfyd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_comfyd")).args(arguments).output().unwrap()
}

#[test]
fn reroutes_primitives_bypassed_and_muted_nodes_are_taken_away_as_in_the_editor() {
    let converted = convert(read("plain.json"));
    assert_eq!(Json::Object(converted.prompt), read("plain.prompt.json"));
    assert!(converted.unknown.is_empty());
}

#[test]
fn subgraphs_stand_where_they_are_placed_with_the_values_shown_there() {
    let converted = convert(read("subgraphs.json"));
    assert_eq!(Json::Object(converted.prompt), read("subgraphs.prompt.json"));
}

#[test]
fn keys_come_in_the_order_of_the_browser() {
    let converted = convert(read("subgraphs.json"));
    let keys: Vec<_> = converted.prompt.keys().map(String::as_str).collect();
    let wanted = read("subgraphs.prompt.json");
    assert_eq!(keys, wanted.as_object().unwrap().keys().collect::<Vec<_>>());
}

#[test]
fn missing_values_are_those_of_a_new_node() {
    let sampler = json!({"nodes": [{"id": 1, "type": "KSampler", "widgets_values": [5]}]});
    let converted = convert(sampler);
    let inputs = &converted.prompt["1"]["inputs"];
    assert_eq!((&inputs["seed"], &inputs["steps"], &inputs["cfg"]), (&json!(5), &json!(20), &json!(8.0)));
    assert_eq!(inputs["sampler_name"], "euler");
}

#[test]
fn files_older_than_a_widget_keep_their_other_values() {
    let resize = json!({"nodes": [
        {"id": 1, "type": "ResizeImageMaskNode", "widgets_values": ["scale total pixels", 1.6, "lanczos"]},
    ]});
    let converted = convert(resize);
    let inputs = &converted.prompt["1"]["inputs"];
    assert_eq!(inputs["resize_type.megapixels"], 1.6);
    assert_eq!((&inputs["resize_type.multiple"], &inputs["scale_method"]), (&json!(8), &json!("lanczos")));
}

#[test]
fn lists_are_wrapped_so_that_they_are_no_links() {
    let named = json!({"nodes": [{"id": 1, "type": "Unknown", "widgets_values": {"size": [1, 2]}}]});
    let converted = convert(named);
    assert_eq!(converted.prompt["1"]["inputs"]["size"], json!({"__value__": [1, 2]}));
    assert_eq!(converted.unknown.into_iter().collect::<Vec<_>>(), ["Unknown"]);
}

#[test]
fn subgraphs_that_contain_each_other_are_refused() {
    let subgraph = |id: &str, inner: &str| json!({"id": id, "name": id, "nodes": [{"id": 1, "type": inner}]});
    let document = json!({
        "nodes": [{"id": 1, "type": "one"}],
        "definitions": {"subgraphs": [subgraph("one", "two"), subgraph("two", "one")]},
    });
    let base = tempfile::tempdir().unwrap();
    let services = Services::new(Folders::below(base.path()));
    let refusal = workflow::to_prompt(document, &nodes::registry(), &services).unwrap_err();
    assert!(refusal.to_string().contains("one > two > one"), "{refusal}");
}

#[test]
fn links_in_a_circle_and_links_to_nowhere_end() {
    let reroute = |id: u8, link: u8| json!({"id": id, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": link}]});
    let preview = |id: u8, link: u8| json!({"id": id, "type": "PreviewImage", "inputs": [{"name": "images", "type": "IMAGE", "link": link}]});
    let document = json!({
        "nodes": [reroute(1, 2), reroute(2, 1), preview(3, 3), preview(4, 99), preview(5, 4)],
        "links": [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 1, 0, "*"], [3, 2, 0, 3, 0, "*"], [4, 77, 0, 5, 0, "*"]],
    });
    let prompt = convert(document).prompt;
    assert_eq!(prompt.keys().collect::<Vec<_>>(), ["3", "4", "5"]);
    assert!(prompt.values().all(|node| node["inputs"] == json!({})));
}

#[test]
fn any_document_is_converted_or_refused_in_words() {
    let base = tempfile::tempdir().unwrap();
    let services = Services::new(Folders::below(base.path()));
    let documents = [
        json!({"nodes": []}),
        json!({"nodes": [1]}),
        json!({"nodes": [{"id": {}, "type": "A"}]}),
        json!({"nodes": [{"id": 1, "type": "A", "inputs": null, "outputs": null, "widgets_values": 5, "mode": -1}]}),
        json!({"nodes": [{"id": 1, "type": "A", "inputs": [{"name": "x", "link": 1}]}], "links": [[1, 1, -5, 1, -7, 0]]}),
        json!({"nodes": [], "links": [[1]]}),
        json!({"nodes": [{"id": "a", "type": "s"}], "definitions": {"subgraphs": [{"id": "s", "nodes": []}]}}),
    ];
    for document in documents {
        let told = workflow::to_prompt(document.clone(), &nodes::registry(), &services);
        if let Err(refusal) = told {
            assert!(refusal.to_string().starts_with("this is no workflow"), "{document}: {refusal}");
        }
    }
}

#[test]
fn a_workflow_runs_from_its_file_and_from_the_picture_it_made() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().to_str().unwrap();
    let source = file("subgraphs.json");
    let ran = comfyd(&["run", source.to_str().unwrap(), "--base-directory", base]);
    let told = String::from_utf8(ran.stdout).unwrap();
    // One output hangs on a bypassed subgraph and has nothing to show; the others are made.
    let complaint = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{told}{complaint}");
    assert!(complaint.contains("node 10 (PreviewImage): A required input is missing: images"), "{complaint}");
    let picture = told.lines().find(|line| line.ends_with("nested_00001_.png")).unwrap();
    let again = comfyd(&["run", picture, "--base-directory", base]);
    assert_eq!(again.status.code(), Some(1), "{}", String::from_utf8_lossy(&again.stderr));
    let second = folder.path().join("output/nested_00002_.png");
    assert_eq!(std::fs::read(picture).unwrap(), std::fs::read(second).unwrap());
}

#[test]
fn convert_prints_what_would_be_queued() {
    let printed = comfyd(&["convert", file("plain.json").to_str().unwrap()]);
    assert!(printed.status.success());
    assert_eq!(serde_json::from_slice::<Json>(&printed.stdout).unwrap(), read("plain.prompt.json"));
}

#[test]
fn nodes_tells_what_a_graph_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let lacking = folder.path().join("lacking.json");
    std::fs::write(&lacking, json!({"nodes": [{"id": 1, "type": "NoSuchNode"}]}).to_string()).unwrap();
    let told = comfyd(&["nodes", file("plain.json").to_str().unwrap(), lacking.to_str().unwrap()]);
    assert_eq!(told.status.code(), Some(1));
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(text.contains("plain.json: all 11 nodes are there"), "{text}");
    assert!(text.contains("lacking.json: lacks NoSuchNode"), "{text}");
    let all = String::from_utf8(comfyd(&["nodes"]).stdout).unwrap();
    assert!(all.lines().any(|line| line.starts_with("KSampler ")), "{all}");
}
