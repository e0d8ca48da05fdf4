//! `--memory-budget`, `comfyd plan` and `comfyd bench make-checkpoint`.

use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;

struct Ended {
    code: Option<i32>,
    told: String,
    complaint: String,
}

fn comfyd(arguments: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_comfyd")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), told: text(output.stdout), complaint: text(output.stderr) }
}

fn quick(folder: &Path, budget: &[&str]) -> Ended {
    let output = folder.display().to_string();
    let arguments = ["run", "workflows/edit_photo_quick.json", "--set", "3.steps=1", "--output", &output];
    comfyd(&[&arguments, budget].concat())
}

#[test]
fn a_budget_changes_no_picture_and_too_small_a_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let picture = |name: &str, budget: &[&str]| {
        let folder = folder.path().join(name);
        let ended = quick(&folder, budget);
        assert_eq!(ended.code, Some(0), "{}", ended.complaint);
        std::fs::read(ended.told.lines().last().unwrap()).unwrap()
    };
    assert!(picture("free", &[]) == picture("tight", &["--memory-budget", "1GB"]));
    let ended = quick(folder.path(), &["--memory-budget", "30MB"]);
    assert_eq!(ended.code, Some(1));
    for words in ["out of memory", "of the budget of 30.0 MB", "memory budget larger"] {
        assert!(ended.complaint.contains(words), "{}", ended.complaint);
    }
    let ended = quick(folder.path(), &["--memory-budget", "lots"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.complaint.contains("12GB"), "{}", ended.complaint);
}

/// A plan of the shipped graph; the published files are not here.
fn plan(more: &[&str]) -> Json {
    let arguments = ["plan", "workflows/qwen_image_edit_2509.json", "--device", "rtx3090", "--json"];
    let ended = comfyd(&[&arguments, more].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.complaint);
    serde_json::from_str(&ended.told).unwrap()
}

fn stage<'a>(plan: &'a Json, name: &str) -> &'a Json {
    let stages = plan["stages"].as_array().unwrap();
    stages.iter().find(|stage| stage["stage"] == name).unwrap()
}

#[test]
fn a_plan_counts_what_the_graph_does() {
    let whole = plan(&[]);
    let steps = stage(&whole, "sampling steps");
    assert_eq!(steps["uses"], 20);
    // Two references and the picture itself, of a megapixel each, for both prompts.
    let flop = steps["flop"]["products"].as_f64().unwrap() + steps["flop"]["attention"].as_f64().unwrap();
    assert!((9e15..14e15).contains(&flop), "{flop}");
    // Each photo is looked at once, although both prompts show it.
    assert_eq!(stage(&whole, "look at pictures")["uses"], 2);
    assert!(whole["peak_bytes"].as_u64().unwrap() <= 24 << 30);
    assert!(whole["seconds"].as_f64().unwrap() > whole["floor_seconds"].as_f64().unwrap());
    // Without guidance half of it is left out, and so is nothing else.
    let half = plan(&["--set", "3.cfg=1", "--set", "3.steps=4"]);
    let step = |plan: &Json| {
        let steps = stage(plan, "sampling steps");
        steps["seconds"].as_f64().unwrap() / steps["uses"].as_f64().unwrap()
    };
    assert!((step(&whole) / step(&half) - 2.0).abs() < 0.1, "{} {}", step(&whole), step(&half));
    let small = plan(&["--memory-budget", "8GiB"]);
    assert!(small["bytes_brought"].as_u64() > whole["bytes_brought"].as_u64());
    assert!(small["peak_bytes"].as_u64().unwrap() <= 8 << 30);
}

#[test]
fn a_plan_for_people_tells_what_it_assumes() {
    let ended = comfyd(&["plan", "workflows/edit_photo_quick.json", "--device", "cpu"]);
    assert_eq!(ended.code, Some(0), "{}", ended.complaint);
    for words in ["sampling steps", "decode pictures", "in all", "takes for granted", "diffusion model"] {
        assert!(ended.told.contains(words), "{}", ended.told);
    }
    let ended = comfyd(&["plan", "workflows/edit_photo_quick.json", "--device", "toaster"]);
    assert_eq!(ended.code, Some(2));
}

#[test]
fn checkpoints_are_made_where_there_is_room_and_nothing_is_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("models").display().to_string();
    // Neither is asked for, and both are.
    for wrong in [&["bench", "make-checkpoint"][..], &["bench", "make-checkpoint", "--full", "--blocks", "2"]]
    {
        assert_eq!(comfyd(wrong).code, Some(2), "{wrong:?}");
    }
    std::fs::create_dir_all(folder.path().join("models/vae")).unwrap();
    std::fs::write(folder.path().join("models/vae/qwen_image_vae.safetensors"), "real").unwrap();
    let ended = comfyd(&["bench", "make-checkpoint", "--blocks", "1", "--dir", &dir]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.complaint.contains("is there already"), "{}", ended.complaint);
    assert_eq!(std::fs::read(folder.path().join("models/vae/qwen_image_vae.safetensors")).unwrap(), b"real");
    // What takes no room is made in a moment, and is whole to a reader.
    std::fs::remove_file(folder.path().join("models/vae/qwen_image_vae.safetensors")).unwrap();
    let ended = comfyd(&["bench", "make-checkpoint", "--blocks", "4", "--empty", "--dir", &dir]);
    assert_eq!(ended.code, Some(0), "{}", ended.complaint);
    let base = folder.path().display().to_string();
    let listed = comfyd(&["models", "list", "--base-directory", &base]).told;
    for words in ["Qwen-Image,", "Qwen2.5-VL 7B", "Wan 2.1", "9.38 GB"] {
        assert!(listed.contains(words), "{listed}");
    }
    // The measuring of servers is as it was.
    let ended = comfyd(&["bench"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.complaint.contains("<GRAPH>"), "{}", ended.complaint);
}
