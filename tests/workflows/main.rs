//! Whole workflows, from the graph to the picture on disk, against what ComfyUI made of them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/golden.rs"]
mod golden;
#[path = "../support/tiny_kin.rs"]
mod tiny_kin;
#[path = "../support/tiny_qwen.rs"]
mod tiny_qwen;
#[path = "../support/tiny_qwen3.rs"]
mod tiny_qwen3;
#[path = "../support/tiny_qwen_21.rs"]
mod tiny_qwen_21;

mod adapters;
mod checkpoint;
mod fast;
mod hooks;
mod previews;
mod qwen_image_21;
mod saved_models;
mod steered;
mod upscale;
mod values;
mod windows;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use comfyd::graph::{self, CachePolicy, End, Event, Executor, Request};
use comfyd::image;
use comfyd::nodes::{self, Arithmetic, Services};
use comfyd::paths::Folders;
use comfyd::stop::Stop;
use serde::Deserialize;
use serde_json::{Value, json};

/// How far a byte of a picture may be from the recorded one: sums in another order than torch's move a
/// value across the border between two bytes, and hardly ever two.
const MOST_APART: u8 = 2;

/// The one case with more: at a thousand times the timesteps it was made for, the network's sinusoids turn so
/// fast that the last bit of their frequencies shows.
const UNSTEADY: (&str, u8) = ("shift_sd3", 6);

/// A prompt for which ComfyUI made something of that shape: what its node `result` gives.
#[derive(Deserialize)]
struct Made {
    name: String,
    shape: Vec<usize>,
    prompt: Value,
    result: String,
}

impl Made {
    /// The graphs of a file of facts.
    fn all(facts: &str) -> Vec<Self> {
        let path = golden::path(&format!("../values/{facts}.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// The latent that the graph gives here.
    fn latent(&self, studio: &mut Studio) -> Tensor {
        let mut graph = self.prompt.clone();
        graph["save"] = json!({"class_type": "SaveLatent", "inputs": {
            "samples": [self.result, 0], "filename_prefix": "made",
        }});
        let files = studio.run(&self.name, graph, "latents");
        candle_core::safetensors::load(&files[0], &Device::Cpu).unwrap().remove("latent_tensor").unwrap()
    }
}

/// How far a latent is from another one.
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    let wide = |x: &Tensor| -> Vec<f64> {
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
    };
    golden::relative_l2(&wide(a), &wide(b))
}

/// Holds what so many graphs give here against what they gave in ComfyUI.
fn as_in_comfyui(studio: &mut Studio, facts: &str, count: usize, group: &str) {
    let path = golden::path(&format!("../values/{facts}.safetensors"));
    let expected = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let cases = Made::all(facts);
    assert_eq!(cases.len(), count);
    let mut off = Vec::new();
    for case in cases {
        let found = case.latent(studio);
        assert_eq!(found.dims(), case.shape, "{}", case.name);
        let error = apart(&found, &expected[&case.name]);
        // One value that is rounded otherwise, by chance, shows in all that follows from it.
        let eight = case.name.ends_with("in eight bits");
        let allowed = if eight { 2e-2 } else { 2e-5 };
        let group = if eight { format!("{group}; in eight bits") } else { group.to_owned() };
        golden::record(&group, error, allowed);
        if error >= allowed {
            off.push(format!("{} is off by {error:.1e}", case.name));
        }
    }
    assert!(off.is_empty(), "{off:#?}");
}

/// One server's worth of state: the miniature checkpoints, the recorded inputs, and a fresh output folder.
struct Studio {
    executor: Executor<Services>,
    services: Arc<Services>,
    registry: Arc<graph::Registry<Services>>,
    _base: tempfile::TempDir,
}

impl Studio {
    fn open() -> Self {
        Self::with_input(Some(golden::path("input")))
    }

    /// With an empty input folder that may be written to.
    fn with_own_input() -> Self {
        Self::with_input(None)
    }

    /// With other models, and copies of the recorded inputs.
    fn with_models(models: &Path) -> Self {
        let studio = Self::new(None, models, Arithmetic::default());
        for file in std::fs::read_dir(golden::path("input")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), studio.services.folders.input.join(file.file_name())).unwrap();
        }
        studio
    }

    fn with_input(input: Option<PathBuf>) -> Self {
        Self::new(input, tiny_qwen::models(), Arithmetic::default())
    }

    fn computing(arithmetic: Arithmetic) -> Self {
        Self::new(Some(golden::path("input")), tiny_qwen::models(), arithmetic)
    }

    fn new(input: Option<PathBuf>, models: &Path, arithmetic: Arithmetic) -> Self {
        let base = tempfile::tempdir().unwrap();
        let mut folders = Folders::below(base.path());
        folders.create().unwrap();
        folders.input = input.unwrap_or(folders.input);
        models.clone_into(&mut folders.models);
        let services = Services { arithmetic, ..Services::new(folders) };
        let (services, registry) = (Arc::new(services), Arc::new(nodes::registry()));
        let executor = Executor::new(Arc::clone(&services), Arc::clone(&registry), CachePolicy::Classic);
        Self { executor, services, registry, _base: base }
    }

    /// The recorded workflows.
    fn names() -> Vec<String> {
        let files = std::fs::read_dir(golden::path("workflows")).unwrap();
        let mut names: Vec<String> = files
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// The pictures a workflow saves.
    fn pictures(&mut self, name: &str) -> Vec<PathBuf> {
        self.run(name, workflow(name), "images")
    }

    /// The files that a workflow tells of under `kind`.
    fn run(&mut self, name: &str, workflow: Value, kind: &str) -> Vec<PathBuf> {
        let outputs = self.outputs(name, workflow);
        let files = outputs.values().filter_map(|output| output.get(kind)?.as_array()).flatten();
        let folder = |file: &Value| self.services.folders.output.join(file["subfolder"].as_str().unwrap());
        files.map(|file| folder(file).join(file["filename"].as_str().unwrap())).collect()
    }

    /// The text that a workflow's PreviewAny shows.
    fn shown(&mut self, name: &str, workflow: Value) -> String {
        let outputs = self.outputs(name, workflow);
        outputs.values().find_map(|output| output["text"][0].as_str()).unwrap().to_owned()
    }

    /// What is said of a workflow that fails while it runs.
    fn failure(&mut self, workflow: Value) -> String {
        let checked = graph::check(workflow, &self.registry, self.services.as_ref(), None).unwrap();
        let mut failure = String::new();
        let mut watch = |event| {
            if let Event::Failed(failed) = event {
                failure = failed.message;
            }
        };
        let outcome = self.executor.run(&checked.plan, &Request::default(), &Stop::new(), &mut watch);
        assert_ne!(outcome.end, End::Succeeded);
        failure
    }

    fn outputs(&mut self, name: &str, workflow: Value) -> serde_json::Map<String, Value> {
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
        outcome.outputs
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
    let mut table: Vec<(u8, String)> = Vec::new();
    for name in Studio::names().into_iter().filter(|name| !recorded(name).is_empty()) {
        let (found, wanted) = (studio.pictures(&name), recorded(&name));
        assert_eq!(found.len(), wanted.len(), "{name}: pictures");
        for (found, wanted) in found.iter().zip(&wanted) {
            let texts = [found, wanted].map(|path| image::text_chunks(&std::fs::read(path).unwrap()));
            assert_eq!(texts[0], texts[1], "{name}: text chunks");
            table.push((furthest(found, wanted), name.clone()));
        }
    }
    assert_eq!(table.len(), 54, "recorded pictures");
    let most = |name: &str| if name == UNSTEADY.0 { UNSTEADY.1 } else { MOST_APART };
    for (apart, name) in &table {
        let group = format!("pictures of {}, in 255ths", name.split('_').next().unwrap());
        golden::record(&group, (*apart).into(), most(name).into());
    }
    table.retain(|(apart, name)| *apart > most(name));
    assert!(table.is_empty(), "pictures differ: {table:?}");
}

/// Cases whose picture was recorded as a tensor only.
#[test]
fn every_recorded_image_comes_out_of_its_workflow() {
    let mut studio = Studio::open();
    for name in Studio::names().into_iter().filter(|name| recorded(name).is_empty()) {
        let case = golden::Case::open(&name);
        if !case.has("image.0") {
            continue;
        }
        let images: Vec<_> = studio.pictures(&name).iter().map(|path| image::load(path).unwrap().0).collect();
        let all = image::Image::concatenated(&images.iter().collect::<Vec<_>>()).unwrap();
        // Saving cut each value to a byte; half a step puts it back into the middle.
        let all = all.map(|value| value + 0.5 / 255.0).to_tensor().unwrap();
        case.assert_close("image.0", &all, 5e-3);
    }
}

/// Cases of which only the latent was recorded. It is read from the file that SaveLatent writes.
#[test]
fn every_recorded_latent_comes_out_of_its_workflow() {
    let mut studio = Studio::open();
    let mut worst = (0.0, String::new());
    let mut compared = 0;
    for name in Studio::names().into_iter().filter(|name| recorded(name).is_empty()) {
        let case = golden::Case::open(&name);
        if case.has("image.0") {
            continue;
        }
        let mut graph = workflow(&name);
        let sampler = graph.as_object().unwrap().iter().find(|(_, node)| node["class_type"] == "KSampler");
        let samples = serde_json::json!([sampler.unwrap().0, 0]);
        graph["save"] = serde_json::json!({"class_type": "SaveLatent", "inputs": {
            "samples": samples, "filename_prefix": format!("latents/{name}"),
        }});
        let files = studio.run(&name, graph, "latents");
        let tensors = candle_core::safetensors::load(&files[0], &Device::Cpu).unwrap();
        assert_eq!(tensors["latent_format_version_0"].dims(), [0]);
        let distance = case.distance("latent_out.0", &tensors["latent_tensor"]).unwrap();
        if distance > worst.0 {
            worst = (distance, name);
        }
        compared += 1;
    }
    println!("{compared} latents, worst {:.1e} in {}", worst.0, worst.1);
    assert!(compared >= 50, "only {compared} latents were compared");
    assert!(worst.0 < 1e-3, "{} is {:.1e} away", worst.1, worst.0);
}
