//! What `comfyd models` says of model folders, healthy and spoilt, and of graphs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value as Json, json};

use crate::site::write;
use crate::{safetensors, tiny_qwen};

/// A folder with the miniature checkpoints of the three files, and one LoRA.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for file in [tiny_qwen::DIFFUSION_FP8, tiny_qwen::TEXT_ENCODER, tiny_qwen::VAE, tiny_qwen::LORA_KOHYA]
        {
            let target = tree.models().join(file);
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(tiny_qwen::models().join(file), target).unwrap();
        }
        tree
    }

    fn models(&self) -> PathBuf {
        self.0.path().join("models")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
        command.arg("models").args(arguments).arg("--base-directory").arg(self.0.path());
        command.env_clear().output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Json {
        let done = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)))
    }

    /// The faults at a place, as `level: problem (mend)`.
    fn faults(&self, place: &str) -> Vec<String> {
        let report = self.json(&["check"]);
        let faults = report["faults"].as_array().unwrap();
        let word = |fault: &Json, key: &str| fault[key].as_str().unwrap().to_owned();
        let at = faults.iter().filter(|fault| fault["place"].as_str().unwrap().ends_with(place));
        at.map(|fault| {
            format!("{}: {} ({})", word(fault, "level"), word(fault, "problem"), word(fault, "mend"))
        })
        .collect()
    }

    fn graph(&self, prompt: &Json) -> String {
        let path = self.0.path().join("graph.json");
        write(&path, prompt.to_string().as_bytes());
        path.to_str().unwrap().to_owned()
    }
}

fn workflow() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/workflows/qwen_image_edit_2509.json").to_owned()
}

#[test]
fn every_file_is_listed_with_family_types_numbers_and_size() {
    let tree = Tree::new();
    let listed = tree.json(&["list"]);
    let of = |folder: &str| {
        listed.as_array().unwrap().iter().find(|file| file["folder"] == folder).unwrap().clone()
    };
    for (folder, family) in [
        ("diffusion_models", "Qwen-Image"),
        ("text_encoders", "Qwen2.5-VL 7B"),
        ("vae", "Wan 2.1 / Qwen-Image VAE"),
        ("loras", "LoRA"),
    ] {
        let file = of(folder);
        let path = tree.models().join(folder).join(file["name"].as_str().unwrap());
        assert_eq!(file["size"], json!(path.metadata().unwrap().len()), "{folder}");
        assert_eq!((&file["families"], &file["problem"]), (&json!([family]), &Json::Null), "{folder}");
    }
    let diffusion = of("diffusion_models");
    let counts: u64 =
        diffusion["dtypes"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(json!(counts), diffusion["parameters"]);
    assert!(diffusion["dtypes"]["F8_E4M3"].as_u64() > Some(100_000), "{diffusion}");
    let shown = String::from_utf8(tree.run(&["list"]).stdout).unwrap();
    assert!(
        shown.contains("vae/qwen_image_vae.safetensors\n") && shown.contains("million numbers in"),
        "{shown}"
    );
}

#[test]
fn a_healthy_tree_and_its_workflow_pass() {
    let tree = Tree::new();
    let done = tree.run(&["check", &workflow()]);
    let shown = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{shown}");
    assert!(shown.contains("ok  ") && shown.contains("vae/qwen_image_vae.safetensors is there"), "{shown}");
    assert!(!shown.contains("fail") && !shown.contains("warn"), "{shown}");
}

#[test]
fn each_kind_of_damage_has_its_own_words_and_mend() {
    let tree = Tree::new();
    let models = tree.models();
    let whole = std::fs::read(models.join(tiny_qwen::VAE)).unwrap();
    let with = |place: &str, bytes: &[u8]| write(&models.join(place), bytes);
    with("vae/qwen_image_vae.safetensors", &whole[..whole.len() / 2]);
    with("vae/empty.safetensors", b"");
    with("vae/header.safetensors", &[&64u64.to_le_bytes()[..], &[b'{'; 64]].concat());
    with("vae/page.safetensors", b"<!DOCTYPE html>");
    with("vae/pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\n");
    with("loras/misplaced.safetensors", &whole);
    with("vae/late.safetensors.part", b"x");
    for number in 1..=3 {
        with(
            &format!("diffusers/Qwen-Image-Edit-2509/transformer/x-0000{number}-of-00003.safetensors"),
            &whole,
        );
    }
    let odd = safetensors::write(
        &models.join("vae"),
        "odd.safetensors",
        &[safetensors::Entry::f32("odd", &[1], &[1.0])],
    );
    assert!(odd.is_file());
    for (place, words) in [
        (
            "qwen_image_vae.safetensors",
            ["fail: it is truncated", "`comfyd fetch-models qwen-image-edit-2509`"],
        ),
        ("empty.safetensors", ["fail: it is empty", "download it again"]),
        ("header.safetensors", ["fail: its header is not valid JSON", "download it again"]),
        ("page.safetensors", ["web page", "download it again"]),
        ("pointer.safetensors", ["Git LFS pointer", "download it again"]),
        ("misplaced.safetensors", ["in a folder for other files (loras)", "models/vae"]),
        (
            "transformer",
            ["in 3 parts", "diffusion_models/qwen_image_edit_2509_fp8_e4m3fn.safetensors, text_"],
        ),
        ("late.safetensors.part", ["warn: a download that has not ended", "delete it"]),
        ("odd.safetensors", ["warn: it is something unknown, with tensors like `odd`", "nothing to do"]),
    ] {
        let faults = tree.faults(place);
        assert_eq!(faults.len(), 1, "{place}: {faults:?}");
        assert!(words.iter().all(|word| faults[0].contains(word)), "{place}: {faults:?}");
    }
    assert_eq!(tree.run(&["check"]).status.code(), Some(1));
}

#[test]
fn what_a_graph_lacks_is_told_with_the_set_that_has_it() {
    let tree = Tree::new();
    std::fs::rename(
        tree.models().join(tiny_qwen::VAE),
        tree.models().join("loras/qwen_image_vae.safetensors"),
    )
    .unwrap();
    std::fs::remove_file(tree.models().join(tiny_qwen::TEXT_ENCODER)).unwrap();
    let report = tree.json(&["check", &workflow()]);
    let graph = &report["graphs"][0];
    assert_eq!((graph["ok"].as_bool(), graph["unknown_nodes"].clone()), (Some(false), json!([])));
    let mend = |folder: &str| {
        let files = graph["files"].as_array().unwrap();
        files.iter().find(|file| file["folder"] == folder).unwrap()["mend"].clone()
    };
    assert_eq!(mend("diffusion_models"), Json::Null);
    assert_eq!(mend("text_encoders"), "`comfyd fetch-models qwen-image-edit-2509` gets it");
    assert_eq!(mend("vae"), "it lies in models/loras: move it into models/vae");
}

#[test]
fn names_that_never_existed_and_absent_nodes_are_explained() {
    let tree = Tree::new();
    let graph = tree.graph(&json!({
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "Qwen-Image-Edit-2509-FP8.safetensors"}},
        "2": {"class_type": "NunchakuQwenImageDiTLoader", "inputs": {}},
        "3": {"class_type": "VAELoader", "inputs": {"vae_name": "of/my/own.safetensors"}},
        "4": {"class_type": "VAELoader", "inputs": {"vae_name": "tiny_edit_vae.safetensors"}},
    }));
    let done = tree.run(&["check", &graph]);
    let shown = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(1));
    for words in [
        "no file of that name is published: `comfyd fetch-models qwen-image-edit-2509`",
        "lacks the nodes NunchakuQwenImageDiTLoader",
        "vae/of/my/own.safetensors is not there: put it into models/vae; there are: qwen_image_vae.safetensors",
        "vae/tiny_edit_vae.safetensors is there",
    ] {
        assert!(shown.contains(words), "`{words}` is not in:\n{shown}");
    }
    let unreadable = tree.run(&["check", Path::new("/nothing.json").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&unreadable.stdout).contains("fail  /nothing.json"));
}
