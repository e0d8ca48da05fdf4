//! A folder of its own with the recorded input files, and prompts run in it by the real executor.

use std::path::PathBuf;
use std::sync::Arc;

use comfyd::graph::{CachePolicy, End, Event, Executor, Failure, Registry, Request, check};
use comfyd::image::{Frame, Turn, open};
use comfyd::nodes::{Services, registry};
use comfyd::paths::{Folders, Kind};
use comfyd::stop::Stop;
use serde_json::{Map, Value as Json, json};

use crate::decoding::golden;

pub struct Workshop {
    folder: tempfile::TempDir,
    pub services: Arc<Services>,
    nodes: Arc<Registry<Services>>,
    executor: Executor<Services>,
}

/// What a run showed.
pub struct Shown {
    pub outputs: Map<String, Json>,
    pub events: Vec<Event>,
}

impl Workshop {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::below(folder.path());
        folders.create().unwrap();
        for file in std::fs::read_dir(golden("input")).unwrap() {
            let file = file.unwrap().path();
            std::fs::copy(&file, folders.input.join(file.file_name().unwrap())).unwrap();
        }
        // The second picture has another size than the first.
        for (folder, files) in [("set", ["rgb.png", "scene.png"]), ("wide", ["scene.png", "rgb.png"])] {
            std::fs::create_dir_all(folders.input.join(folder).join("deep")).unwrap();
            for (file, name) in files.into_iter().zip(["a.png", "b.png"]) {
                std::fs::copy(golden("input").join(file), folders.input.join(folder).join(name)).unwrap();
            }
        }
        let services = Arc::new(Services::new(folders));
        let nodes = Arc::new(registry());
        let executor = Executor::new(services.clone(), nodes.clone(), CachePolicy::Classic);
        Self { folder, services, nodes, executor }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a prompt that must succeed.
    pub fn run(&mut self, prompt: Json) -> Shown {
        let (end, shown) = self.run_request(prompt, &Request::default());
        assert_eq!(end, End::Succeeded, "{:?}", shown.failure());
        shown
    }

    /// Runs a prompt whose nodes fail.
    pub fn fail(&mut self, prompt: Json) -> Failure {
        let (end, shown) = self.run_request(prompt, &Request::default());
        assert_eq!(end, End::Failed);
        shown.failure().unwrap().clone()
    }

    pub fn run_request(&mut self, prompt: Json, request: &Request) -> (End, Shown) {
        let checked = check(prompt, &self.nodes, &self.services, None).unwrap();
        assert!(checked.problems.is_empty(), "{:?}", checked.problems);
        let mut events = Vec::new();
        let outcome =
            self.executor.run(&checked.plan, request, &Stop::new(), &mut |event| events.push(event));
        (outcome.end, Shown { outputs: outcome.outputs, events })
    }

    /// Whether a prompt may run at all.
    pub fn accepts(&self, prompt: Json) -> bool {
        check(prompt, &self.nodes, &self.services, None).is_ok()
    }

    /// The files that a run names, in order.
    pub fn files(&self, shown: &Shown) -> Vec<PathBuf> {
        let images = shown.outputs.values().filter_map(|output| output.get("images")?.as_array()).flatten();
        images
            .map(|image| {
                let kind = Kind::from_word(image["type"].as_str().unwrap()).unwrap();
                let folder = self.services.folders.of(kind).join(image["subfolder"].as_str().unwrap());
                folder.join(image["filename"].as_str().unwrap())
            })
            .collect()
    }

    /// The pictures that a run wrote, in order.
    pub fn pictures(&self, shown: &Shown) -> Vec<Frame> {
        self.files(shown).iter().map(|file| open(file, Turn::AsStored).unwrap().remove(0)).collect()
    }
}

impl Shown {
    fn failure(&self) -> Option<&Failure> {
        self.events.iter().find_map(|event| match event {
            Event::Failed(failure) => Some(failure),
            _ => None,
        })
    }

    /// The texts of the only output.
    pub fn texts(&self) -> &Json {
        &self.outputs.values().next().unwrap()["text"]
    }
}

/// A node of a prompt.
pub fn node(class: &str, inputs: Json) -> Json {
    json!({"class_type": class, "inputs": inputs})
}
