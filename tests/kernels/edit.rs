//! A small edit by the editor inside the binary, with its diffusion model and VAE on a card that is acted out: how far the
//! picture is from the processor's.

use std::path::Path;
use std::sync::Arc;

use comfyd::graph::{self, CachePolicy, End, Event, Executor, Request};
use comfyd::image;
use comfyd::model::card::Card;
use comfyd::nodes::{self, Arithmetic, Services};
use comfyd::paths::Folders;
use comfyd::stop::Stop;
use serde_json::{Value, json};

use crate::host::{Against, Host};
use crate::network::PLENTY;

/// The shipped edit of a photo, made small. The prompt is read by the processor, without looking at the photo.
fn graph() -> Value {
    let text = std::fs::read("workflows/edit_photo_quick.json").unwrap();
    let mut graph: Value = serde_json::from_slice(&text).unwrap();
    graph["93"] = json!({"class_type": "ImageScale", "inputs": {
        "image": ["78", 0], "upscale_method": "lanczos", "width": 32, "height": 32, "crop": "center",
    }});
    graph["38"]["inputs"]["device"] = json!("cpu");
    for prompt in ["110", "111"] {
        graph[prompt]["inputs"].as_object_mut().unwrap().remove("image1");
    }
    graph
}

/// The bytes of the picture, four for each pixel.
fn picture(base: &Path, card: Option<Card>, eight_bits_on_card: bool) -> Vec<u8> {
    let mut folders = Folders::below(base);
    folders.create().unwrap();
    folders.input = "workflows/input".into();
    let arithmetic = Arithmetic { eight_bits_on_card, ..Arithmetic::default() };
    let services = Arc::new(Services { arithmetic, card, ..Services::new(folders) });
    let registry = Arc::new(nodes::registry());
    let checked = graph::check(graph(), &registry, services.as_ref(), None).unwrap();
    let mut failure = None;
    let mut watch = |event| {
        if let Event::Failed(failed) = event {
            failure = Some(failed);
        }
    };
    let mut executor = Executor::new(services.clone(), registry, CachePolicy::None);
    let outcome = executor.run(&checked.plan, &Request::default(), &Stop::new(), &mut watch);
    assert_eq!(outcome.end, End::Succeeded, "{failure:?}");
    let name = outcome.outputs["60"]["images"][0]["filename"].as_str().unwrap();
    let path = services.folders.output.join(name);
    image::open(&path, image::Turn::AsStored).unwrap().remove(0).rgba.bytes().to_vec()
}

/// The peak signal-to-noise ratio of two pictures, in dB.
fn psnr(found: &[u8], wanted: &[u8]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let squares: f64 = found.iter().zip(wanted).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    // Of four channels, the last is the same everywhere.
    10.0 * (255.0f64.powi(2) / (squares / (0.75 * found.len() as f64)).max(1e-9)).log10()
}

#[test]
fn an_edit_on_a_card_is_that_of_the_processor() {
    let base = tempfile::tempdir().unwrap();
    let card = || Some(Card::new(Host::new(Against::End, 0), PLENTY));
    let wanted = picture(base.path(), None, false);
    let [bf16, int8] = [false, true].map(|int8| psnr(&picture(base.path(), card(), int8), &wanted));
    println!("an edit on a card, from that of the processor in f32: BF16 {bf16:.1} dB, INT8 {int8:.1} dB");
    assert!(bf16 > 30.0 && int8 > 30.0 && (bf16 - int8).abs() > 0.0, "{bf16:.1} dB, {int8:.1} dB");
}
