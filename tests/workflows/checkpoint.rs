//! One file with all three networks, as checkpoints are published.

use std::path::Path;
use std::sync::Arc;

use comfyd::graph::{CachePolicy, Executor};
use comfyd::nodes::{self, Services};
use comfyd::paths::Folders;
use safetensors::SafeTensors;
use serde_json::json;

use crate::{Studio, furthest, recorded, tiny_qwen, workflow};

/// Where each network lies in such a file.
const PARTS: [(&str, &str); 3] = [
    (tiny_qwen::DIFFUSION_FP8, "model.diffusion_model."),
    (tiny_qwen::TEXT_ENCODER, "text_encoders.qwen25_7b.transformer."),
    (tiny_qwen::VAE, "vae."),
];

fn write(path: &Path) {
    let files = PARTS.map(|(name, _)| std::fs::read(tiny_qwen::models().join(name)).unwrap());
    let parts: Vec<_> = files.iter().map(|file| SafeTensors::deserialize(file).unwrap()).collect();
    let tensors = parts.iter().zip(PARTS).flat_map(|(part, (_, prefix))| {
        part.iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
    });
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

#[test]
fn a_checkpoint_gives_the_picture_of_its_three_files() {
    let base = tempfile::tempdir().unwrap();
    let folders = Folders::below(base.path());
    folders.create().unwrap();
    let checkpoints = folders.models.join("checkpoints");
    std::fs::create_dir_all(&checkpoints).unwrap();
    write(&checkpoints.join("all_in_one.safetensors"));
    let (services, registry) = (Arc::new(Services::new(folders)), Arc::new(nodes::registry()));
    let executor = Executor::new(Arc::clone(&services), Arc::clone(&registry), CachePolicy::Classic);
    let mut studio = Studio { executor, services, registry, _base: base };
    let mut graph = workflow("t2i_basic");
    let nodes = graph.as_object_mut().unwrap();
    for loader in ["37", "38", "39"] {
        nodes.remove(loader);
    }
    nodes.insert(
        "1".to_owned(),
        json!({"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "all_in_one.safetensors"}}),
    );
    for (node, input, slot) in [("66", "model", 0), ("6", "clip", 1), ("7", "clip", 1), ("8", "vae", 2)] {
        nodes[node]["inputs"][input] = json!(["1", slot]);
    }
    let pictures = studio.run("t2i_basic", graph, "images");
    assert!(furthest(&pictures[0], &recorded("t2i_basic")[0]) <= 2);
}
