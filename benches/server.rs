//! What a client waits for: the answer to a prompt, and a small edit from graph to picture.
//!
//! `cargo bench --bench server`

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

#[path = "../tests/support/tiny_qwen.rs"]
mod tiny_qwen;

use std::path::Path;
use std::sync::Arc;

use comfyd::graph::{self, CachePolicy, End, Executor, Request};
use comfyd::nodes::{self, Services};
use comfyd::paths::Folders;
use comfyd::stop::Stop;
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Value, json};

fn services(base: &Path) -> Arc<Services> {
    let mut folders = Folders::below(base);
    tiny_qwen::models().clone_into(&mut folders.models);
    folders.input = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen-tiny/input");
    Arc::new(Services::new(folders))
}

/// A picture, inverted 28 times and saved: 30 nodes in a row.
fn chain() -> Value {
    let mut graph = json!({"0": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}});
    for node in 1..=28 {
        graph[node.to_string()] =
            json!({"class_type": "ImageInvert", "inputs": {"image": [(node - 1).to_string(), 0]}});
    }
    graph["29"] =
        json!({"class_type": "SaveImage", "inputs": {"images": ["28", 0], "filename_prefix": "chain"}});
    graph
}

fn validation(criterion: &mut Criterion) {
    let base = tempfile::tempdir().unwrap();
    let (services, registry, graph) = (services(base.path()), nodes::registry(), chain());
    criterion.bench_function("validate a graph of 30 nodes", |bencher| {
        bencher.iter(|| graph::check(graph.clone(), &registry, services.as_ref(), None).unwrap());
    });
}

/// The official two-photo edit with the miniature checkpoints: 2 steps, two references of 1 MP.
fn edit(criterion: &mut Criterion) {
    let base = tempfile::tempdir().unwrap();
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen-tiny/workflows/edit2509_2img.json");
    let graph: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let (services, registry) = (services(base.path()), Arc::new(nodes::registry()));
    let plan = graph::check(graph, &registry, services.as_ref(), None).unwrap().plan;
    let mut group = criterion.benchmark_group("edit");
    group.sample_size(10).bench_function("two photos, miniature checkpoints", |bencher| {
        bencher.iter(|| {
            let mut executor = Executor::new(Arc::clone(&services), Arc::clone(&registry), CachePolicy::None);
            let outcome = executor.run(&plan, &Request::default(), &Stop::new(), &mut |_| ());
            assert_eq!(outcome.end, End::Succeeded);
        });
    });
    group.finish();
}

criterion_group!(benches, validation, edit);
criterion_main!(benches);
