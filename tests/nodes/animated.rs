//! Batches saved as animations.

use comfyd::graph::Request;
use comfyd::image::{Turn, open};
use serde_json::json;

use crate::workshop::{Workshop, node};

/// Two frames, white above black and grey, saved by a node.
fn saved(class: &str, settings: serde_json::Value) -> (Vec<u8>, Vec<Vec<u8>>, serde_json::Value) {
    let mut workshop = Workshop::new();
    let mut inputs = json!({"images": ["both", 0], "filename_prefix": "moving", "fps": 8.0});
    inputs.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let size = |color| json!({"width": 5, "height": 4, "batch_size": 1, "color": color});
    let prompt = json!({
        "white": node("EmptyImage", size(0xFF_FF_FF)),
        "grey": node("EmptyImage", size(0x80_80_80)),
        "both": node("ImageBatch", json!({"image1": ["white", 0], "image2": ["grey", 0]})),
        "save": node(class, inputs),
    });
    let extra_pnginfo = Some(std::sync::Arc::new(json!({"workflow": {"nodes": []}})));
    let extra = Request { extra_pnginfo, ..Request::default() };
    let (_, shown) = workshop.run_request(prompt, &extra);
    let file = workshop.files(&shown).remove(0);
    let frames = open(&file, Turn::AsStored).unwrap();
    let frames = frames.iter().map(|frame| frame.rgba.bytes().to_vec()).collect();
    (std::fs::read(file).unwrap(), frames, shown.outputs["save"].clone())
}

fn contains(file: &[u8], text: &str) -> bool {
    file.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn an_animated_webp_has_every_frame_and_the_workflow_in_its_tags() {
    let settings = json!({"lossless": true, "quality": 80, "method": "fastest"});
    let (file, frames, output) = saved("SaveAnimatedWEBP", settings);
    assert_eq!(frames, [vec![255; 80], [[128, 128, 128, 255]; 20].concat()]);
    assert!(contains(&file, "prompt:{") && contains(&file, "workflow:{\"nodes\": []}"));
    assert_eq!(output["images"][0]["filename"], "moving_00001_.webp");
    assert_eq!(output["animated"], json!([true]));
}

#[test]
fn an_animated_png_has_its_frames_delays_and_texts() {
    let (file, _, output) = saved("SaveAnimatedPNG", json!({"compress_level": 4}));
    let mut reader = png::Decoder::new(std::io::Cursor::new(&file[..])).read_info().unwrap();
    let animation = *reader.info().animation_control().unwrap();
    assert_eq!((animation.num_frames, animation.num_plays), (2, 0));
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let mut seen = Vec::new();
    for _ in 0..2 {
        reader.next_frame(&mut pixels).unwrap();
        let control = reader.info().frame_control().unwrap();
        seen.push((pixels[0], control.delay_num, control.delay_den));
    }
    assert_eq!(seen, [(255, 125, 1000), (128, 125, 1000)]);
    assert!(contains(&file, "comfprompt\0{") && contains(&file, "comfworkflow\0{\"nodes\": []}"));
    assert_eq!(output["images"][0]["filename"], "moving_00001_.png");
}
