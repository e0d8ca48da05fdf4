//! Previews made by a small decoder: its arithmetic against the same layers in PyTorch, and when it is used.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use comfyd::graph::{self, CachePolicy, End, Event, Executor, Request};
use comfyd::image;
use comfyd::model::preview::PreviewDecoder;
use comfyd::nodes::{self, Services};
use comfyd::paths::Folders;
use comfyd::sampling::Noise;
use comfyd::stop::Stop;
use comfyd::weights::File;
use serde_json::json;

use crate::{golden, tiny_qwen};

/// Channels of the stages, and of what follows them.
const WIDTHS: [usize; 4] = [12, 8, 6, 6];
const CHANNELS: usize = 16;

/// A decoder in the layout of TAEHV's files; each tensor is a draw of a seed, from 200 on.
fn write_decoder(path: &Path) {
    let mut shapes = vec![
        ("1.weight".to_owned(), vec![WIDTHS[0], CHANNELS, 3, 3]),
        ("1.bias".to_owned(), vec![WIDTHS[0]]),
    ];
    for stage in 0..3 {
        let (first, width, next) = (3 + 6 * stage, WIDTHS[stage], WIDTHS[stage + 1]);
        for block in first..first + 3 {
            for (layer, inputs) in [(0, 2 * width), (2, width), (4, width)] {
                shapes.push((format!("{block}.conv.{layer}.weight"), vec![width, inputs, 3, 3]));
                shapes.push((format!("{block}.conv.{layer}.bias"), vec![width]));
            }
        }
        let frames = if stage == 0 { 1 } else { 2 };
        shapes.push((format!("{}.conv.weight", first + 4), vec![width * frames, width, 1, 1]));
        shapes.push((format!("{}.weight", first + 5), vec![next, width, 3, 3]));
    }
    shapes.push(("22.weight".to_owned(), vec![3, WIDTHS[3], 3, 3]));
    shapes.push(("22.bias".to_owned(), vec![3]));
    let draw = |(index, (name, shape)): (usize, (String, Vec<usize>))| {
        let fan = shape[1..].iter().product::<usize>() as f64;
        let deviation = if shape.len() == 1 { 0.1 } else { 1.3 / fan.sqrt() };
        let draw = Noise::new(200 + index as u64).draw(&shape, &Device::Cpu).unwrap();
        (format!("decoder.{name}"), (draw * deviation).unwrap())
    };
    let tensors: HashMap<_, _> = shapes.into_iter().enumerate().map(draw).collect();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

#[test]
fn a_small_decoder_shows_the_last_of_the_frames_it_makes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taew2_1.safetensors");
    write_decoder(&path);
    let decoder = PreviewDecoder::load(File::open(path).unwrap()).unwrap();
    let latent: Tensor = (Noise::new(9).draw(&[CHANNELS, 5, 7], &Device::Cpu).unwrap() * 1.5).unwrap();
    let picture = decoder.decode(&latent).unwrap();
    assert_eq!(picture.dims(), [40, 56, 3]);
    let found = picture.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let expected = std::fs::read(golden::path("../values/preview_decoder.json")).unwrap();
    let expected: Vec<f32> = serde_json::from_slice(&expected).unwrap();
    for (index, expected) in expected.iter().enumerate() {
        let found = found[index * found.len() / 200];
        assert!((found - expected).abs() < 1e-5, "{index}: {found}, not {expected}");
    }
}

/// The previews of a run, of which each fills 512x512 as in ComfyUI, with or without a decoder beside the models.
fn previews(with_decoder: bool, decoded_previews: bool) -> Vec<Vec<u8>> {
    let base = tempfile::tempdir().unwrap();
    let mut folders = Folders::below(base.path());
    folders.create().unwrap();
    if with_decoder {
        write_decoder(&folders.models.join("vae_approx/taew2_1.safetensors"));
    }
    folders.models = base.path().join("models");
    for kind in ["diffusion_models", "text_encoders"] {
        std::fs::create_dir_all(folders.models.join(kind)).unwrap();
        for file in std::fs::read_dir(tiny_qwen::models().join(kind)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folders.models.join(kind).join(file.file_name())).unwrap();
        }
    }
    let services = Arc::new(Services { previews: true, decoded_previews, ..Services::new(folders) });
    let registry = Arc::new(nodes::registry());
    let mut executor = Executor::new(services.clone(), registry.clone(), CachePolicy::Classic);
    let node = |class: &str, inputs| json!({"class_type": class, "inputs": inputs});
    let prompt = json!({
        "unet": node("UNETLoader", json!({"unet_name": "qwen_image_edit_2509_bf16.safetensors", "weight_dtype": "default"})),
        "clip": node("CLIPLoader", json!({"clip_name": "qwen_2.5_vl_7b_fp8_scaled.safetensors", "type": "qwen_image"})),
        "text": node("CLIPTextEncode", json!({"clip": ["clip", 0], "text": "a fox"})),
        "empty": node("EmptySD3LatentImage", json!({"width": 96, "height": 64, "batch_size": 1})),
        "sample": node("KSampler", json!({
            "model": ["unet", 0], "positive": ["text", 0], "negative": ["text", 0], "latent_image": ["empty", 0],
            "seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
        })),
        "save": node("SaveLatent", json!({"samples": ["sample", 0], "filename_prefix": "x"})),
    });
    let checked = graph::check(prompt, &registry, services.as_ref(), None).unwrap();
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    let mut previews = Vec::new();
    let mut watch = |event| {
        if let Event::Progress { preview: Some(preview), .. } = event {
            let path = base.path().join("preview.jpg");
            std::fs::write(&path, &preview.bytes).unwrap();
            let picture = image::open(&path, image::Turn::AsStored).unwrap().remove(0).rgba;
            assert_eq!(picture.size(), (512, 341));
            previews.push(picture.bytes().to_vec());
        }
    };
    let outcome = executor.run(&checked.plan, &Request::default(), &Stop::new(), &mut watch);
    assert_eq!(outcome.end, End::Succeeded);
    previews
}

#[test]
fn previews_are_decoded_where_that_is_wanted_and_a_decoder_is_there() {
    let (decoded, plain) = (previews(true, true), previews(false, true));
    assert_eq!(plain, previews(true, false));
    assert_eq!((decoded.len(), plain.len()), (2, 2));
    assert!(decoded.iter().zip(&plain).all(|(decoded, plain)| decoded != plain));
}
