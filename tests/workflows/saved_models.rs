//! Files of models, as nodes write them: names, types, shapes, texts and numbers against the files that the same graphs
//! made in ComfyUI 0.3.64, and what comes of loading them again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use comfyd::graph::{self, End, Event, Request};
use comfyd::stop::Stop;
use comfyd::weights::{File, Weights};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Studio, golden, tiny_qwen, workflow};

/// A file that ComfyUI wrote.
#[derive(Deserialize)]
struct Saved {
    name: String,
    prompt: Value,
    /// Below the output folder.
    file: PathBuf,
    metadata: Option<BTreeMap<String, String>>,
    tensors: Vec<Recorded>,
}

/// Name, type, shape; a CRC-32 of the bytes, and of what is computed its L2 norm and numbers from its middle. Factors
/// of a LoRA have no sum of bytes, and the first of the two has the numbers of their product.
type Recorded = (String, String, Vec<usize>, Option<u32>, Vec<f64>);

fn recorded() -> Vec<Saved> {
    serde_json::from_slice(&std::fs::read(golden::path("../values/saved.json")).unwrap()).unwrap()
}

fn case(name: &str) -> Saved {
    recorded().into_iter().find(|case| case.name == name).unwrap()
}

const SCALED: &str = "diffusion_models/tiny_scaled.safetensors";

/// The miniature checkpoints, and one in scaled fp8: the same numbers, each matrix halved by its scale.
fn write_models(folder: &Path) {
    for kind in ["diffusion_models", "text_encoders", "vae", "loras"] {
        std::fs::create_dir_all(folder.join(kind)).unwrap();
        for file in std::fs::read_dir(tiny_qwen::models().join(kind)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.join(kind).join(file.file_name())).unwrap();
        }
    }
    let plain = std::fs::read(tiny_qwen::models().join(tiny_qwen::DIFFUSION_FP8)).unwrap();
    let plain = SafeTensors::deserialize(&plain).unwrap();
    let scale = 0.5f32.to_le_bytes();
    let mut views: Vec<(String, TensorView<'_>)> = Vec::new();
    for (name, view) in plain.iter() {
        if let Some(layer) = name.strip_suffix("weight").filter(|_| view.shape().len() == 2) {
            let scale = TensorView::new(Dtype::F32, Vec::new(), &scale).unwrap();
            views.push((format!("{layer}scale_weight"), scale));
        }
        views.push((name.to_owned(), view));
    }
    views.push(("scaled_fp8".to_owned(), TensorView::new(Dtype::F8_E4M3, vec![0], &[]).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join(SCALED)).unwrap();
}

/// A studio with the models of [`write_models`], and their folder.
fn studio() -> (Studio, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    write_models(folder.path());
    (Studio::with_models(folder.path()), folder)
}

/// Runs a graph that saves a file, with the texts that a client sends along; gives the file.
fn save(studio: &mut Studio, case: &Saved) -> PathBuf {
    let checked =
        graph::check(case.prompt.clone(), &studio.registry, studio.services.as_ref(), None).unwrap();
    let extra = json!({"workflow": {"title": "naïve"}});
    let request = Request { extra_pnginfo: Some(Arc::new(extra)), ..Request::default() };
    let mut failure = None;
    let mut watch = |event| {
        if let Event::Failed(failed) = event {
            failure = Some(failed);
        }
    };
    let outcome = studio.executor.run(&checked.plan, &request, &Stop::new(), &mut watch);
    assert_eq!(outcome.end, End::Succeeded, "{}: {failure:?}", case.name);
    studio.services.folders.output.join(&case.file)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f64::from).collect()
}

/// Norm, and three numbers from the middle of each third, as they were recorded.
fn facts(values: &[f64]) -> Vec<f64> {
    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let samples = (0..3).map(|index| values[(2 * index + 1) * values.len() / 6]);
    std::iter::once(norm).chain(samples).collect()
}

/// How far norm and numbers may be from the recorded ones: a share of them, and a share of the numbers' usual size.
fn allowed(case: &str, dtype: &str) -> (f64, f64) {
    if case.starts_with("extracted") && case != "extracted, whole" {
        // Where the largest numbers of factors are cut off depends on the signs of singular vectors. With signs by
        // chance, products of rank 2 differ by up to 0.9 of their usual size in single places, and by 0.1 as a whole.
        (0.15, 0.5)
    } else if dtype.starts_with("F8") {
        // A sum whose last bit is another one may be rounded by chance to the next number.
        (0.13, 0.05)
    } else if dtype == "F32" {
        (1e-4, 1e-4)
    } else {
        (0.01, 0.01)
    }
}

fn compare(case: &Saved, path: &Path) -> Vec<String> {
    let file = std::fs::read(path).unwrap();
    let found = SafeTensors::deserialize(&file).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&file).unwrap();
    let texts = metadata.metadata().as_ref().map(|texts| texts.clone().into_iter().collect());
    assert_eq!(texts, case.metadata, "{}: texts", case.name);
    let mut names: Vec<String> = found.names().into_iter().map(ToString::to_string).collect();
    names.sort();
    let expected: Vec<&String> = case.tensors.iter().map(|(name, ..)| name).collect();
    assert_eq!(names.iter().collect::<Vec<_>>(), expected, "{}: names", case.name);
    let weights = Weights::new(File::open(path).unwrap(), "");
    let wide = |name: &str| weights.stored(name, weights.shape(name).unwrap()).unwrap().to_tensor().unwrap();
    let mut wrong = Vec::new();
    for (name, dtype, shape, sum, numbers) in &case.tensors {
        let tensor = found.tensor(name).unwrap();
        assert_eq!(tensor.shape(), shape, "{}: {name}", case.name);
        assert_eq!(format!("{:?}", tensor.dtype()), *dtype, "{}: {name}", case.name);
        if sum.is_some_and(|sum| sum == crc32fast::hash(tensor.data())) {
            continue;
        }
        if numbers.is_empty() && sum.is_some() {
            wrong.push(format!("{}: the bytes of {name} are others", case.name));
        }
        let all = match name.strip_suffix("lora_up.weight") {
            Some(module) => {
                let down = wide(&format!("{module}lora_down.weight"));
                values(&wide(name).matmul(&down).unwrap())
            }
            None => values(&wide(name)),
        };
        let (share, usual) = allowed(&case.name, dtype);
        for (index, (found, recorded)) in facts(&all).iter().zip(numbers).enumerate() {
            let size = if index == 0 { 0.0 } else { numbers[0] / (all.len() as f64).sqrt() };
            if (found - recorded).abs() > share * recorded.abs() + usual * size + 1e-7 {
                wrong.push(format!("{}: {name} has {found} and not {recorded}", case.name));
            }
        }
        // Whatever chance did to single numbers, it did little to all of them.
        if let Some(norm) = numbers.first().filter(|_| dtype.starts_with("F8")) {
            let off = facts(&all)[0] / norm - 1.0;
            assert!(off.abs() < 1e-3, "{}: {name} is {off:.1e} longer", case.name);
        }
    }
    wrong
}

#[test]
fn files_of_models_are_those_that_comfyui_writes() {
    let (mut studio, _models) = studio();
    let cases = recorded();
    assert_eq!(cases.len(), 18);
    let wrong: Vec<String> = cases.iter().flat_map(|case| compare(case, &save(&mut studio, case))).collect();
    assert!(wrong.is_empty(), "{} numbers are others: {wrong:#?}", wrong.len());
    // Nothing unfinished stays, in no folder.
    let mut folders = vec![studio.services.folders.output.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = entry.file_name().into_string().unwrap();
                assert!(name.ends_with("_00001_.safetensors"), "{name}");
            }
        }
    }
}

/// The latent that a short run ends with, whose three networks come from these outputs.
fn latent(studio: &mut Studio, loaders: &Value, [model, clip]: [Value; 2]) -> Vec<f64> {
    let mut graph = workflow("t2i_basic");
    let nodes = graph.as_object_mut().unwrap();
    nodes.extend(loaders.as_object().unwrap().clone());
    for (id, input, from) in [("66", "model", &model), ("6", "clip", &clip), ("7", "clip", &clip)] {
        nodes[id]["inputs"][input] = from.clone();
    }
    let sampler = nodes.iter().find(|(_, node)| node["class_type"] == "KSampler").unwrap().0.clone();
    nodes[&sampler]["inputs"]["steps"] = json!(2);
    let saving = |node: &Value| node["class_type"].as_str().unwrap().starts_with("SaveImage");
    nodes.retain(|_, node| !saving(node));
    graph["out"] = json!({"class_type": "SaveLatent", "inputs": {
        "samples": [sampler, 0], "filename_prefix": "latents/saved",
    }});
    let files = studio.run("a saved model", graph, "latents");
    values(&candle_core::safetensors::load(&files[0], &Device::Cpu).unwrap()["latent_tensor"])
}

/// The nodes of a recorded graph but for the one that saves.
fn loaders(case: &Saved) -> Value {
    let mut nodes = case.prompt.clone();
    nodes.as_object_mut().unwrap().remove("save");
    nodes
}

#[test]
fn a_saved_model_gives_the_latents_of_what_was_saved() {
    let (mut studio, _models) = studio();
    for name in ["plain", "fp8", "bf16", "lora", "lora in fp8", "merged", "scaled", "lora on scaled"] {
        let case = case(name);
        save(&mut studio, &case);
        let saved = case.prompt["save"]["inputs"]["model"].clone();
        let before = latent(&mut studio, &loaders(&case), [saved, json!(["38", 0])]);
        let file = case.file.file_name().unwrap().to_str().unwrap();
        let again = json!({"again": {"class_type": "UNETLoader", "inputs": {
            "unet_name": file, "weight_dtype": "default",
        }}});
        let after = latent(&mut studio, &again, [json!(["again", 0]), json!(["38", 0])]);
        let error = golden::relative_l2(&after, &before);
        golden::record("saved models, loaded again", error, 1e-5);
        assert!(error < 1e-5, "{name} is off by {error:.1e}");
    }
}

#[test]
fn saved_text_encoders_and_checkpoints_are_found_in_the_output_folder() {
    let (mut studio, _models) = studio();
    let (clip, checkpoint) = (case("clip"), case("checkpoint"));
    save(&mut studio, &clip);
    save(&mut studio, &checkpoint);
    let name = |case: &Saved| case.file.file_name().unwrap().to_str().unwrap().to_owned();
    let before = latent(&mut studio, &loaders(&checkpoint), [json!(["lora", 0]), json!(["38", 0])]);
    let one = json!({"one": {"class_type": "CheckpointLoaderSimple", "inputs": {
        "ckpt_name": name(&checkpoint),
    }}});
    let whole = latent(&mut studio, &one, [json!(["one", 0]), json!(["one", 1])]);
    assert!(golden::relative_l2(&whole, &before) < 1e-5);
    let mut both = loaders(&checkpoint);
    both["text"] = json!({"class_type": "CLIPLoader", "inputs": {
        "clip_name": name(&clip), "type": "qwen_image", "device": "default",
    }});
    let text = latent(&mut studio, &both, [json!(["lora", 0]), json!(["text", 0])]);
    assert!(golden::relative_l2(&text, &before) < 1e-5);
}

#[test]
fn an_extracted_lora_makes_of_the_one_model_the_other() {
    let (mut studio, _models) = studio();
    let case = case("extracted, whole");
    save(&mut studio, &case);
    let with = |name: &str| {
        let mut nodes = loaders(&case);
        nodes["lora"]["inputs"]["lora_name"] = json!(name);
        nodes
    };
    let ends = [json!(["lora", 0]), json!(["38", 0])];
    let meant = latent(&mut studio, &loaders(&case), ends.clone());
    let file = case.file.file_name().unwrap().to_str().unwrap();
    let found = latent(&mut studio, &with(file), ends.clone());
    let without = latent(&mut studio, &loaders(&case), [json!(["base", 0]), json!(["38", 0])]);
    let error = golden::relative_l2(&found, &meant);
    assert!(error < 2e-3, "{error:.1e}");
    assert!(golden::relative_l2(&without, &meant) > 10.0 * error);
}

#[test]
fn a_save_that_is_stopped_leaves_nothing() {
    let (mut studio, _models) = studio();
    let case = case("plain");
    let checked =
        graph::check(case.prompt.clone(), &studio.registry, studio.services.as_ref(), None).unwrap();
    let stop = Stop::new();
    let asked = stop.clone();
    let mut steps = 0;
    let mut watch = |event| {
        if let Event::Progress { .. } = event {
            steps += 1;
            if steps == 2 {
                asked.request();
            }
        }
    };
    let outcome = studio.executor.run(&checked.plan, &Request::default(), &stop, &mut watch);
    assert_ne!(outcome.end, End::Succeeded);
    let folder = studio.services.folders.output.join("diffusion_models");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
}
