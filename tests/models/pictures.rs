//! The pictures of recorded workflows, made again from the files they were loaded from.

use comfyd::image::{self, Crop, Filter, Image};
use serde_json::Value;

use crate::golden::{self, Case};

/// Pixels of an area, keeping the shape: the nearest whole sides.
pub fn sides(image: &Image, area: f64) -> (usize, usize) {
    let (width, height) = image.size();
    let scale = (area / (width * height) as f64).sqrt();
    let side = |side: usize| (side as f64 * scale).round_ties_even() as usize;
    (side(width), side(height))
}

/// What arrives at an image input of a recorded workflow.
pub fn pixels(workflow: &Value, link: &Value) -> Image {
    let node = &workflow[link[0].as_str().unwrap()];
    let inputs = &node["inputs"];
    let source = || pixels(workflow, &inputs["image"]);
    match node["class_type"].as_str().unwrap() {
        "LoadImage" => {
            let file = golden::path("input").join(inputs["image"].as_str().unwrap());
            image::load(&file).unwrap().0
        }
        "ImageScaleToTotalPixels" => {
            let size = sides(&source(), inputs["megapixels"].as_f64().unwrap() * 1024.0 * 1024.0);
            source().resized(size, Filter::Lanczos, Crop::Disabled).unwrap()
        }
        "ImageBatch" => {
            let first = pixels(workflow, &inputs["image1"]);
            let second = pixels(workflow, &inputs["image2"]);
            let second = second.resized(first.size(), Filter::Bilinear, Crop::Center).unwrap();
            Image::concatenated(&[&first, &second]).unwrap()
        }
        // The one of the node's sizes that suits the only picture it is used with.
        "FluxKontextImageScale" => source().resized((800, 1328), Filter::Lanczos, Crop::Center).unwrap(),
        other => panic!("no rule for {other}"),
    }
}

/// What the autoencoder of a case was given: by VAEEncode, and for references by the text encoding nodes.
pub fn encoded(case: &Case) -> Vec<Image> {
    let workflow = case.workflow();
    let mut images = Vec::new();
    for node in workflow.as_object().unwrap().values() {
        let inputs = &node["inputs"];
        let area = 1024.0 * 1024.0;
        match node["class_type"].as_str().unwrap() {
            "VAEEncode" => images.push(pixels(&workflow, &inputs["pixels"])),
            "TextEncodeQwenImageEdit" if inputs.get("image").is_some() => {
                let image = pixels(&workflow, &inputs["image"]);
                images.push(image.resized(sides(&image, area), Filter::Area, Crop::Disabled).unwrap());
            }
            "TextEncodeQwenImageEditPlus" => {
                for link in (1..=3).filter_map(|slot| inputs.get(format!("image{slot}"))) {
                    let image = pixels(&workflow, link);
                    let (width, height) = image.size();
                    let scale = (area / (width * height) as f64).sqrt();
                    let side = |side: usize| (side as f64 * scale / 8.0).round_ties_even() as usize * 8;
                    images.push(
                        image.resized((side(width), side(height)), Filter::Area, Crop::Disabled).unwrap(),
                    );
                }
            }
            _ => {}
        }
    }
    images
}
