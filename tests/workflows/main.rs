//! Whole workflows, from the graph to the picture on disk, against what ComfyUI made of them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/golden.rs"]
mod golden;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use comfyd::graph::{self, CachePolicy, End, Event, Executor, Request};
use comfyd::image;
use comfyd::nodes::{self, Services};
use comfyd::paths::Folders;
use comfyd::stop::Stop;
use serde_json::Value;

/// How far a byte of a picture may be from the recorded one: sums in another order than torch's move a
/// value across the border between two bytes, and hardly ever two.
const MOST_APART: u8 = 2;

/// Recorded cases this server does not reproduce yet: a LoRA on weights kept as fp8, which ComfyUI rounds back to
/// fp8 with noise of its own.
const OWED: &[&str] = &["lora_kohya_fp8"];

/// One server's worth of state: the miniature checkpoints, the recorded inputs, and a fresh output folder.
struct Studio {
    executor: Executor<Services>,
    services: Arc<Services>,
    registry: Arc<graph::Registry<Services>>,
    _base: tempfile::TempDir,
}

impl Studio {
    fn open() -> Self {
        let base = tempfile::tempdir().unwrap();
        let mut folders = Folders::below(base.path());
        folders.input = golden::path("input");
        tiny_qwen::models().clone_into(&mut folders.models);
        let (services, registry) = (Arc::new(Services::new(folders)), Arc::new(nodes::registry()));
        let executor = Executor::new(Arc::clone(&services), Arc::clone(&registry), CachePolicy::Classic);
        Self { executor, services, registry, _base: base }
    }

    /// The recorded workflows that use no node from beyond this server.
    fn names(&self) -> Vec<String> {
        let files = std::fs::read_dir(golden::path("workflows")).unwrap();
        let mut names: Vec<String> = files
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.retain(|name| !OWED.contains(&name.as_str()));
        names.retain(|name| {
            let classes = workflow(name)
                .as_object()
                .unwrap()
                .values()
                .map(|node| node["class_type"].clone())
                .collect::<Vec<_>>();
            classes.iter().all(|class| self.registry.get(class.as_str().unwrap()).is_some())
        });
        names.sort();
        names
    }

    /// The pictures a workflow saves.
    fn run(&mut self, name: &str, workflow: Value) -> Vec<PathBuf> {
        let checked = graph::check(workflow, &self.registry, self.services.as_ref(), None)
            .unwrap_or_else(|refusal| panic!("{name} was refused: {refusal:?}"));
        assert!(checked.problems.is_empty(), "{name}: {:?}", checked.problems);
        let mut failure = None;
        let mut watch = |event| {
            if let Event::Failed(failed) = event {
                failure = Some(failed);
            }
        };
        let outcome = self.executor.run(&checked.plan, &Request::default(), &Stop::new(), &mut watch);
        assert_eq!(outcome.end, End::Succeeded, "{name}: {failure:?}");
        let pictures =
            outcome.outputs.values().flat_map(|output| output["images"].as_array().cloned().unwrap());
        pictures
            .map(|picture| self.services.folders.output.join(picture["filename"].as_str().unwrap()))
            .collect()
    }
}

fn workflow(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden::path(&format!("workflows/{name}.json"))).unwrap()).unwrap()
}

/// The pictures ComfyUI saved for a case.
fn recorded(name: &str) -> Vec<PathBuf> {
    let numbered = (1..).map(|number| golden::path(&format!("png/{name}_{number:05}_.png")));
    numbered.take_while(|path| path.is_file()).collect()
}

/// The largest difference of two pictures, in bytes.
fn furthest(found: &Path, wanted: &Path) -> u8 {
    let [found, wanted] =
        [found, wanted].map(|path| image::open(path, image::Turn::AsStored).unwrap().remove(0).rgba);
    assert_eq!(found.size(), wanted.size());
    found.bytes().iter().zip(wanted.bytes()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn every_recorded_workflow_gives_the_recorded_pictures() {
    let mut studio = Studio::open();
    let mut table = Vec::new();
    for name in studio.names().into_iter().filter(|name| !recorded(name).is_empty()) {
        let (found, wanted) = (studio.run(&name, workflow(&name)), recorded(&name));
        assert_eq!(found.len(), wanted.len(), "{name}: pictures");
        for (found, wanted) in found.iter().zip(&wanted) {
            let texts = [found, wanted].map(|path| image::text_chunks(&std::fs::read(path).unwrap()));
            assert_eq!(texts[0], texts[1], "{name}: text chunks");
            table.push((furthest(found, wanted), name.clone()));
        }
    }
    table.sort();
    for (apart, name) in &table {
        println!("{apart:>3}/255  {name}");
    }
    assert!(table.len() >= 30, "only {} pictures were compared", table.len());
    assert!(table.iter().all(|(apart, _)| *apart <= MOST_APART), "pictures differ: {table:?}");
}

/// Cases whose picture was recorded as a tensor only.
#[test]
fn every_recorded_image_comes_out_of_its_workflow() {
    let mut studio = Studio::open();
    for name in studio.names().into_iter().filter(|name| recorded(name).is_empty()) {
        let case = golden::Case::open(&name);
        if !case.has("image.0") {
            continue;
        }
        let images: Vec<_> =
            studio.run(&name, workflow(&name)).iter().map(|path| image::load(path).unwrap().0).collect();
        let all = image::Image::concatenated(&images.iter().collect::<Vec<_>>()).unwrap();
        // Saving cut each value to a byte; half a step puts it back into the middle.
        let all = all.map(|value| value + 0.5 / 255.0).to_tensor().unwrap();
        case.assert_close("image.0", &all, 5e-3);
    }
}
