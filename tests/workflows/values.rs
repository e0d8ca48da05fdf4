//! What nodes make of latents and sigmas, against what the same graphs gave in ComfyUI 0.3.64.

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use comfyd::sampling::Noise;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Made, Studio};

fn facts(name: &str) -> PathBuf {
    crate::golden::path("../values").join(name)
}

/// The latents the cases begin with: the first draw of a seed each.
const INPUTS: [(&str, u64, &[usize]); 8] = [
    ("flat_a", 1, &[1, 16, 12, 10]),
    ("flat_b", 2, &[2, 16, 10, 14]),
    ("deep_a", 3, &[1, 16, 1, 12, 10]),
    ("deep_b", 4, &[1, 16, 1, 9, 8]),
    ("three", 5, &[3, 16, 8, 8]),
    ("flat_a2", 6, &[1, 16, 12, 10]),
    ("flat_c", 7, &[1, 16, 10, 14]),
    ("deep_c", 8, &[1, 16, 1, 7, 10]),
];

/// A file as ComfyUI's SaveLatent writes it.
fn write_latent(path: PathBuf, samples: &Tensor) {
    let empty = Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap();
    let tensors = [("latent_tensor", samples.clone()), ("latent_format_version_0", empty)];
    candle_core::safetensors::save(&tensors.into_iter().collect(), path).unwrap();
}

#[test]
fn latents_are_changed_as_comfyui_changes_them() {
    let mut studio = Studio::with_own_input();
    for (name, seed, shape) in INPUTS {
        let samples = Noise::new(seed).draw(shape, &Device::Cpu).unwrap();
        write_latent(studio.services.folders.input.join(format!("{name}.latent")), &samples);
    }
    let cases = Made::all("latents");
    let expected = candle_core::safetensors::load(facts("latents.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(cases.len(), 72);
    for case in cases {
        let mut graph = case.prompt;
        graph["save"] = json!({"class_type": "SaveLatent", "inputs": {
            "samples": [case.result, 0], "filename_prefix": case.name,
        }});
        let files = studio.run(&case.name, graph, "latents");
        let found = candle_core::safetensors::load(&files[0], &Device::Cpu).unwrap();
        let found = &found["latent_tensor"];
        assert_eq!(found.dims(), case.shape, "{}", case.name);
        let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = expected[&case.name].to_vec1::<f32>().unwrap();
        for (index, expected) in expected.iter().enumerate() {
            let found = found[index * found.len() / expected_count(found.len())];
            assert!((found - expected).abs() < 2e-5, "{} {index}: {found}, not {expected}", case.name);
        }
    }
}

/// How many values of a tensor were recorded, evenly spread over it.
fn expected_count(elements: usize) -> usize {
    elements.min(96)
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    values: Vec<f64>,
    prompt: Value,
    result: (String, usize),
}

#[test]
fn sigmas_are_those_of_comfyui() {
    let mut studio = Studio::open();
    let cases: Vec<Listed> = serde_json::from_slice(&std::fs::read(facts("sigmas.json")).unwrap()).unwrap();
    assert_eq!(cases.len(), 71);
    for case in cases {
        let mut graph = case.prompt;
        graph["show"] =
            json!({"class_type": "PreviewAny", "inputs": {"source": [case.result.0, case.result.1]}});
        let shown = studio.shown(&case.name, graph);
        let found: Vec<f64> = match serde_json::from_str(&shown).unwrap() {
            Value::Array(values) => values.iter().map(|value| value.as_f64().unwrap()).collect(),
            one => vec![one.as_f64().unwrap()],
        };
        assert_eq!(found.len(), case.values.len(), "{}: {found:?}", case.name);
        for (found, expected) in found.iter().zip(&case.values) {
            let apart = (found - expected).abs() / expected.abs().max(1e-3);
            assert!(apart < 2e-5, "{}: {found} and not {expected}", case.name);
        }
    }
}

#[test]
fn a_latent_of_an_older_file_is_scaled_back() {
    let mut studio = Studio::with_own_input();
    let samples = Tensor::full(0.18215f32, (1, 16, 2, 2), &Device::Cpu).unwrap();
    let tensors = [("latent_tensor", samples)].into_iter().collect();
    candle_core::safetensors::save(&tensors, studio.services.folders.input.join("old.latent")).unwrap();
    let graph = json!({
        "load": {"class_type": "LoadLatent", "inputs": {"latent": "old.latent"}},
        "save": {"class_type": "SaveLatent", "inputs": {"samples": ["load", 0], "filename_prefix": "new"}},
    });
    let files = studio.run("old", graph, "latents");
    let found = candle_core::safetensors::load(&files[0], &Device::Cpu).unwrap();
    let values = found["latent_tensor"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(values.iter().all(|value| (value - 1.0).abs() < 1e-6), "{values:?}");
    assert_eq!(files[0].file_name().unwrap(), "new_00001_.latent");
}

/// One text prompt at two strengths and places, and the same picture every time the graph is the same.
#[test]
fn guiders_without_influence_of_their_sides_agree() {
    let mut studio = Studio::open();
    let latent = |studio: &mut Studio, guider: Value| {
        let mut graph = crate::workflow("custom_cfgguider");
        let nodes = graph.as_object().unwrap();
        let find = |class: &str| nodes.iter().find(|(_, node)| node["class_type"] == class).unwrap();
        let (id, old) = find("CFGGuider");
        let (id, inputs) = (id.clone(), old["inputs"].clone());
        let (sampler, _) = find("SamplerCustomAdvanced");
        let sampler = sampler.clone();
        let mut guider = guider;
        guider["inputs"]["model"] = inputs["model"].clone();
        for input in ["positive", "conditioning", "cond1"] {
            if guider["inputs"].get(input).is_some() {
                guider["inputs"][input] = inputs["positive"].clone();
            }
        }
        for input in ["negative", "cond2"] {
            if guider["inputs"].get(input).is_some() {
                guider["inputs"][input] = inputs["negative"].clone();
            }
        }
        graph[&id] = guider;
        graph["save"] = json!({"class_type": "SaveLatent", "inputs": {
            "samples": [sampler, 0], "filename_prefix": "guided",
        }});
        let files = studio.run("guiders", graph, "latents");
        let found = candle_core::safetensors::load(&files[0], &Device::Cpu).unwrap();
        found["latent_tensor"].flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let class = |class: &str, inputs: Value| json!({"class_type": class, "inputs": inputs});
    let alone = latent(&mut studio, class("BasicGuider", json!({"conditioning": 0})));
    let unit = latent(&mut studio, class("CFGGuider", json!({"positive": 0, "negative": 0, "cfg": 1.0})));
    assert!(apart(&alone, &unit) < 1e-4);
    let guided = latent(&mut studio, class("CFGGuider", json!({"positive": 0, "negative": 0, "cfg": 3.0})));
    assert!(apart(&alone, &guided) > 0.1);
    for style in ["regular", "nested"] {
        // With the same entry in the middle and below, only the upper scale counts.
        let inputs = json!({"cond1": 0, "cond2": 0, "negative": 0, "cfg_conds": 3.0,
            "cfg_cond2_negative": 1.0, "style": style});
        let dual = latent(&mut studio, class("DualCFGGuider", inputs));
        assert!(apart(&guided, &dual) < 2e-3, "{style}: {}", apart(&guided, &dual));
    }
}

#[derive(Deserialize)]
struct Ran {
    name: String,
    shape: Vec<usize>,
    prompt: Value,
    result: (String, usize),
}

/// Model patches, guiders, conditioning operations, noise and LoRA on fp8 weights, each in a short run.
#[test]
fn short_runs_end_where_they_end_in_comfyui() {
    let mut studio = Studio::open();
    let cases: Vec<Ran> = serde_json::from_slice(&std::fs::read(facts("runs.json")).unwrap()).unwrap();
    let expected = candle_core::safetensors::load(facts("runs.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(cases.len(), 58);
    let mut wrong = Vec::new();
    for case in cases {
        let mut graph = case.prompt;
        graph["save"] = json!({"class_type": "SaveLatent", "inputs": {
            "samples": [case.result.0, case.result.1], "filename_prefix": case.name,
        }});
        let files = studio.run(&case.name, graph, "latents");
        let found = candle_core::safetensors::load(&files[0], &Device::Cpu).unwrap();
        let found = &found["latent_tensor"];
        assert_eq!(found.dims(), case.shape, "{}", case.name);
        let found = found.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = expected[&case.name].to_vec1::<f32>().unwrap();
        let pairs = expected.iter().enumerate().map(|(i, x)| (found[i * found.len() / expected.len()], x));
        let distance: f32 = pairs.map(|(found, expected)| (found - expected).powi(2)).sum::<f32>().sqrt();
        let length: f32 = expected.iter().map(|value| value * value).sum::<f32>().sqrt();
        // The places of a Brownian motion are rounded to six decimals, and the last bit of a sigma may decide how.
        let allowed = if case.name == "sampler_custom" { 5e-3 } else { 1e-3 };
        if distance / length > allowed {
            wrong.push(format!("{} is {:.1e} away", case.name, distance / length));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join(", "));
}
