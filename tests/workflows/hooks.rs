//! Hooks in whole runs: LoRA files for some conditionings alone and under keyframes, hooked text encoders, defaults and
//! parts of the run, against the latents that the same graphs gave in ComfyUI 0.3.64 with the same small files.

use std::path::Path;

use candle_core::{DType, Tensor};
use serde_json::{Value, json};

use crate::tiny_kin::{Tensors, draw, read, save};
use crate::{Made, Studio, apart, as_in_comfyui, golden, tiny_qwen};

/// A LoRA of both the text encoder and the diffusion model.
fn lora_of_both() -> Tensors {
    let (model, encoder) = (read(tiny_qwen::DIFFUSION_BF16), read(tiny_qwen::TEXT_ENCODER));
    let width = model["img_in.weight"].dims()[0];
    let layer = "model.layers.0";
    let outputs = |module: &str| encoder[&format!("{layer}.{module}.weight")].dims()[0];
    let (gate, query) = ("mlp.gate_proj", "self_attn.q_proj");
    let text = |module: &str, factor: &str| {
        format!("text_encoders.qwen25_7b.transformer.{layer}.{module}.lora_{factor}.weight")
    };
    let image = |factor: &str| format!("diffusion_model.transformer_blocks.0.attn.to_q.lora_{factor}.weight");
    [
        (text(gate, "A"), draw(6, &[2, 64], 0.3)),
        (text(gate, "B"), draw(7, &[outputs(gate), 2], 0.3)),
        (text(query, "A"), draw(9, &[2, 64], 0.3)),
        (text(query, "B"), draw(10, &[outputs(query), 2], 0.3)),
        (image("A"), draw(11, &[2, width], 0.2)),
        (image("B"), draw(12, &[width, 2], 0.2)),
    ]
    .into()
}

/// A checkpoint without a text encoder, of which some tensors are not those of the miniature.
fn other_model() -> Tensors {
    let mut model = read(tiny_qwen::DIFFUSION_BF16);
    let width = model["img_in.weight"].dims()[0];
    let norm = draw(15, model["txt_norm.weight"].dims(), 0.2).affine(1.0, 1.0).unwrap();
    let others = [
        ("transformer_blocks.0.attn.to_q.weight", draw(13, &[width, width], 0.06)),
        ("transformer_blocks.1.img_mlp.net.2.bias", draw(14, &[width], 0.1)),
        ("txt_norm.weight", norm),
    ];
    model.extend(others.map(|(name, tensor)| (name.to_owned(), tensor.to_dtype(DType::BF16).unwrap())));
    model.into_iter().map(|(name, tensor)| (format!("model.diffusion_model.{name}"), tensor)).collect()
}

/// The miniature checkpoints, with one more LoRA and one more model.
fn write_models(folder: &Path) {
    let tiny = tiny_qwen::models();
    for kind in ["diffusion_models", "text_encoders", "vae", "loras"] {
        std::fs::create_dir_all(folder.join(kind)).unwrap();
        for file in std::fs::read_dir(tiny.join(kind)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.join(kind).join(file.file_name())).unwrap();
        }
    }
    save(&folder.join("loras"), "tiny-both.safetensors", &lora_of_both());
    save(&folder.join("checkpoints"), "tiny-other.safetensors", &other_model());
}

fn studio(models: &Path) -> Studio {
    write_models(models);
    let studio = Studio::with_models(models);
    let mask = golden::path("../pixels/input/mask.png");
    std::fs::copy(mask, studio.services.folders.input.join("mask.png")).unwrap();
    studio
}

fn case(name: &str) -> Made {
    Made::all("hooks").into_iter().find(|case| case.name == name).unwrap()
}

fn graph(name: &str) -> Value {
    case(name).prompt
}

fn latent(studio: &mut Studio, name: &str, prompt: Value) -> Tensor {
    Made { name: name.to_owned(), prompt, ..case("a hook of both sides") }.latent(studio)
}

#[test]
fn hooks_steer_a_run_as_in_comfyui() {
    let folder = tempfile::tempdir().unwrap();
    as_in_comfyui(&mut studio(folder.path()), "hooks", 41, "hooks");
}

/// A hook on everything is a LoRA in the model, and one that counts nothing is none.
#[test]
fn a_hook_of_both_sides_is_a_lora_and_one_of_no_strength_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut studio = studio(folder.path());
    let hooked = graph("a hook of both sides");
    let lora = |strength: f64| {
        let mut graph = hooked.clone();
        let file = graph["hook"]["inputs"]["lora_name"].clone();
        graph["lora"] = json!({"class_type": "LoraLoaderModelOnly", "inputs": {
            "model": ["unet", 0], "lora_name": file, "strength_model": strength,
        }});
        graph["sample"]["inputs"]["model"] = json!(["lora", 0]);
        graph["sample"]["inputs"]["positive"] = json!(["pos", 0]);
        graph["sample"]["inputs"]["negative"] = json!(["neg", 0]);
        graph
    };
    let strength = hooked["hook"]["inputs"]["strength_model"].as_f64().unwrap();
    let by_lora = latent(&mut studio, "a LoRA", lora(strength));
    let by_hook = latent(&mut studio, "a hook", hooked.clone());
    assert!(apart(&by_lora, &by_hook) < 1e-6, "{:.1e}", apart(&by_lora, &by_hook));
    let plain = latent(&mut studio, "plain", lora(0.0));
    assert!(apart(&plain, &by_hook) > 1e-3);
    let mut silent = hooked;
    silent["hook"]["inputs"]["strength_model"] = json!(0.0);
    assert!(apart(&plain, &latent(&mut studio, "a silent hook", silent)) < 1e-6);
}

#[test]
fn what_hooks_cannot_do_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut studio = studio(folder.path());
    let misfit = [
        ("transformer_blocks.0.attn.to_q.lora_A.weight".to_owned(), draw(1, &[2, 3], 1.0)),
        ("transformer_blocks.0.attn.to_q.lora_B.weight".to_owned(), draw(2, &[3, 2], 1.0)),
    ];
    save(&folder.path().join("loras"), "misfit.safetensors", &misfit.into());
    let mut other = graph("a hook of both sides");
    other["hook"]["inputs"]["lora_name"] = json!("misfit.safetensors");
    other["save"] =
        json!({"class_type": "SaveLatent", "inputs": {"samples": ["sample", 0], "filename_prefix": "x"}});
    assert!(studio.failure(other).contains("made for another model"));
    let mut saved = graph("a hook of both sides");
    saved["save"] = json!({"class_type": "SaveConditioning", "inputs": {
        "conditioning": ["props", 0], "filename_prefix": "x",
    }});
    assert!(studio.failure(saved).contains("a conditioning with hooks cannot be saved"));
}
