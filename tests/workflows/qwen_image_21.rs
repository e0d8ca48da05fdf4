//! Whole graphs of Qwen-Image 2.1, over miniatures of its three files: `values/qwen_image_21_pipeline.safetensors` has the
//! latents that `QwenImage21Pipeline` of diffusers 0.42.1 (transformers 5.24, torch 2.15, F32) ends with for the same
//! weights, photos, prompts, seed and noise levels. ComfyUI itself, which cannot do it at version 0.3.64, was not asked.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use crate::{Studio, golden, tiny_kin, tiny_qwen_21, tiny_qwen3};

/// Relative distance of the latents: the pipeline resizes, reads, sees and samples in sums of another order.
const CLOSE: f64 = 1e-4;

/// Puts the three files where ComfyUI's folders are.
fn furnish(models: &Path) {
    let diffusion = tiny_qwen_21::tensors_reading(tiny_qwen3::WIDTH);
    tiny_kin::save(&models.join("diffusion_models"), "qwen_image_2.1.safetensors", &diffusion);
    tiny_kin::save(&models.join("vae"), "qwen_image_2.1_vae.safetensors", &tiny_qwen_21::vae());
    let texts = models.join("text_encoders");
    std::fs::create_dir_all(&texts).unwrap();
    std::fs::copy(tiny_qwen3::whole(), texts.join("qwen3vl_8b.safetensors")).unwrap();
}

/// An edit of photos, or a picture of a text, in three steps.
fn graph(prompt: &str, photos: &[&str], cfg: f64, cache: &str) -> Value {
    let node = |class: &str, inputs: Value| json!({"class_type": class, "inputs": inputs});
    let mut encode = json!({
        "clip": ["clip", 0], "vae": ["vae", 0], "prompt": prompt, "negative_prompt": "", "resolution": 256,
    });
    let mut graph = json!({
        "model": node("UNETLoader", json!({"unet_name": "qwen_image_2.1.safetensors", "weight_dtype": "default"})),
        "clip": node("CLIPLoader", json!({"clip_name": "qwen3vl_8b.safetensors", "type": "qwen_image"})),
        "vae": node("VAELoader", json!({"vae_name": "qwen_image_2.1_vae.safetensors"})),
        "cached": node("QwenImage21Cache", json!({"model": ["model", 0], "device": cache, "dtype": "default"})),
        "levels": node("ManualSigmas", json!({"sigmas": "1.0, 0.8, 0.5, 0"})),
        "euler": node("KSamplerSelect", json!({"sampler_name": "euler"})),
        "run": node("SamplerCustom", json!({
            "model": ["cached", 0], "add_noise": true, "noise_seed": 7, "cfg": cfg, "positive": ["encode", 0],
            "negative": ["encode", 1], "sampler": ["euler", 0], "sigmas": ["levels", 0],
            "latent_image": ["encode", 2],
        })),
        "save": node("SaveLatent", json!({"samples": ["run", 0], "filename_prefix": "latents/whole"})),
        "decode": node("VAEDecode", json!({"samples": ["run", 0], "vae": ["vae", 0]})),
        "show": node("SaveImage", json!({"images": ["decode", 0], "filename_prefix": "whole"})),
    });
    for (number, photo) in (1..).zip(photos) {
        graph[format!("photo {number}")] = node("LoadImage", json!({"image": photo}));
        encode[format!("images.image_{number}")] = json!([format!("photo {number}"), 0]);
    }
    graph["encode"] = node("TextEncodeQwenImage21", encode);
    graph
}

#[test]
fn graphs_end_where_the_published_pipeline_ends() {
    let models = tempfile::tempdir().unwrap();
    furnish(models.path());
    let mut studio = Studio::with_models(models.path());
    let recorded = golden::path("../values/qwen_image_21_pipeline.safetensors");
    let recorded = candle_core::safetensors::load(recorded, &Device::Cpu).unwrap();
    let cases = [
        ("text", graph("A red fox at night", &[], 1.0, "auto"), [256, 256]),
        ("edit", graph("Make it night.", &["photo_a.png"], 2.0, "auto"), [320, 224]),
        ("edit", graph("Make it night.", &["photo_a.png"], 2.0, "off"), [320, 224]),
        (
            "two pictures",
            graph("Put <image1> beside <image2>.", &["photo_a.png", "photo_b.png"], 1.0, "cpu"),
            [320, 224],
        ),
    ];
    for (name, graph, [width, height]) in cases {
        let files = studio.run(name, graph.clone(), "latents");
        let found = &candle_core::safetensors::load(&files[0], &Device::Cpu).unwrap()["latent_tensor"];
        let expected = &recorded[name];
        let apart = length(&(found.flatten_all().unwrap() - expected.flatten_all().unwrap()).unwrap());
        let apart = apart / length(expected);
        println!("{name}: {apart:.1e}");
        golden::record("Qwen-Image 2.1, whole", apart, CLOSE);
        assert!(apart < CLOSE, "{name}: {apart:.1e}");
        let shown = studio.run(name, graph, "images");
        let picture = ::image::open(&shown[0]).unwrap();
        assert_eq!([picture.width(), picture.height()], [width, height], "{name}");
        assert!(picture.color().has_alpha(), "{name}");
    }
}

fn length(x: &Tensor) -> f64 {
    f64::from(x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt()
}
