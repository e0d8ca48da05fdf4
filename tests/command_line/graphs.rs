//! `comfyd validate` and `comfyd bench`: graphs judged and measured.

use serde_json::{Value as Json, json};

use super::{Server, inverted, photo};

/// What `POST /prompt` answers, without the keys of a job.
fn posted(server: &Server, graph: &Json) -> (u16, Json) {
    let request = reqwest::blocking::Client::new().post(format!("{}/prompt", server.url));
    let answer = request.json(&json!({"prompt": graph})).send().unwrap();
    let (status, mut document) = (answer.status().as_u16(), answer.json::<Json>().unwrap());
    for key in ["prompt_id", "number"] {
        document.as_object_mut().unwrap().remove(key);
    }
    (status, document)
}

fn graphs() -> Vec<(&'static str, Json)> {
    let with = |node: &str, content: Json| {
        let mut graph = inverted();
        graph[node] = content;
        graph
    };
    let empty =
        json!({"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}});
    let mut partly = with("1", empty.clone());
    partly["9"] = json!({"class_type": "SaveImage", "inputs": {"images": ["1", 0]}});
    vec![
        ("fine", with("1", empty)),
        ("partly", partly),
        ("no picture", inverted()),
        ("unknown class", with("2", json!({"class_type": "NunchakuQwenImageDiTLoader", "inputs": {}}))),
        ("_meta", with("_meta", json!({"title": "x"}))),
        ("nothing", json!({})),
        ("cut link", with("2", json!({"class_type": "ImageInvert", "inputs": {"image": ["1"]}}))),
        ("absent node", with("2", json!({"class_type": "ImageInvert", "inputs": {"image": ["7", 0]}}))),
        ("mismatch", with("2", json!({"class_type": "ImageInvert", "inputs": {"image": ["1", 1]}}))),
    ]
}

#[test]
fn a_graph_is_judged_as_the_server_judges_it() {
    let server = Server::start(None);
    for (name, graph) in graphs() {
        let file = server.graph("graph.json", &graph);
        let (status, expected) = posted(&server, &graph);
        let base = server.path("server").display().to_string();
        let here = server.run(&["validate", &file, "--json", "--base-directory", &base]);
        let there = server.run(&["validate", &file, "--json", "--url", &server.url]);
        for judged in [here, there] {
            let found: Json =
                serde_json::from_str(&judged.told).unwrap_or_else(|_| panic!("{name}: {}", judged.complaint));
            assert_eq!(found, expected, "{name}");
            assert_eq!(judged.code, Some(i32::from(status != 200)), "{name}");
        }
        let read = server.run(&["validate", &file]);
        for (node, complaints) in expected["node_errors"].as_object().unwrap() {
            assert!(read.told.contains(&format!("node {node} (")), "{name}: {}", read.told);
            for complaint in complaints["errors"].as_array().unwrap() {
                assert!(read.told.contains(complaint["message"].as_str().unwrap()), "{name}: {}", read.told);
            }
        }
    }
    let queue: Json = serde_json::from_str(&server.run(&["queue", "--json"]).told).unwrap();
    assert!(queue["queue_pending"].as_array().unwrap().is_empty(), "judging queues nothing");
    assert_eq!(server.run(&["validate", "nothing.json"]).code, Some(1));
}

/// A small latent, sampled with the model inside the binary.
fn sampled() -> Json {
    json!({
        "1": {"class_type": "UNETLoader", "inputs": {
            "unet_name": "tiny_edit_diffusion_fp8_e4m3fn.safetensors", "weight_dtype": "default"}},
        "2": {"class_type": "CLIPLoader", "inputs": {
            "clip_name": "tiny_edit_text_encoder_fp8_scaled.safetensors", "type": "qwen_image"}},
        "3": {"class_type": "TextEncodeQwenImageEdit", "inputs": {"clip": ["2", 0], "prompt": "a cup"}},
        "4": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": "KSampler", "inputs": {
            "model": ["1", 0], "positive": ["3", 0], "negative": ["3", 0], "latent_image": ["4", 0], "seed": 7,
            "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}},
        "6": {"class_type": "SaveLatent", "inputs": {"samples": ["5", 0], "filename_prefix": "x"}},
    })
}

#[test]
fn a_bench_measures_nodes_and_steps_with_other_seeds_each_time() {
    let server = Server::start(None);
    let graph = server.graph("sampled.json", &sampled());
    let bench = |more: &[&str]| server.run(&[&["bench", &graph, "--set", "5.steps=3"][..], more].concat());
    let done = bench(&["--count", "3", "--warm", "1", "--json"]);
    assert_eq!(done.code, Some(0), "{}", done.complaint);
    let told: Json = serde_json::from_str(&done.told).unwrap();
    assert_eq!((&told["runs"], &told["warm"]), (&json!(3), &json!(1)));
    let at = |value: &Json| value.as_f64().unwrap();
    assert!(
        at(&told["total_ms"]["p50"]) > 0.0 && at(&told["total_ms"]["p95"]) >= at(&told["total_ms"]["p50"])
    );
    assert!(at(&told["server_ms"]["p50"]) <= at(&told["total_ms"]["p50"]));
    let sampler =
        told["nodes"].as_array().unwrap().iter().find(|node| node["class_type"] == "KSampler").unwrap();
    assert_eq!(sampler["runs"], 3, "the cache does not answer for the sampler");
    assert!(sampler["steps"].as_u64().unwrap() >= 3 && at(&sampler["step_ms"]["p50"]) > 0.0, "{sampler}");
    let table = bench(&["--count", "1", "--warm", "0"]);
    assert!(table.told.contains("KSampler") && table.told.contains("p95"), "{}", table.told);
    let fails = server.graph("graph.json", &inverted());
    assert_eq!(server.run(&["bench", &fails]).code, Some(1));
}

#[test]
fn jobs_are_told_in_json_as_well() {
    let server = Server::start(None);
    let graph = server.graph("graph.json", &inverted());
    let image = format!("1={}", photo().display());
    let told = |arguments: &[&str]| {
        let done = server.run(arguments);
        assert_eq!(done.code, Some(0), "{}", done.complaint);
        serde_json::from_str::<Json>(&done.told).unwrap()
    };
    let queued = told(&["submit", &graph, "--image", &image, "--json"]);
    let id = queued["prompt_id"].as_str().unwrap();
    let ended = told(&["wait", id, "--json"]);
    assert_eq!(
        (&ended["prompt_id"], &ended["status"]["status_str"]),
        (&queued["prompt_id"], &json!("success"))
    );
    assert_eq!(ended["pictures"][0], ended["outputs"]["3"]["images"][0]["filename"]);
    let fetched = told(&["submit", &graph, "--image", &image, "--output", "got", "--json"]);
    assert!(server.path(fetched["pictures"][0].as_str().unwrap()).is_file(), "{fetched}");
}
