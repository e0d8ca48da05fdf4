//! The node that lets a text encoder write.

use comfyd::model::text::generation::{Choosing, Question};
use comfyd::model::{Compute, text};
use comfyd::stop::Stop;
use comfyd::weights::File;
use serde_json::{Value, json};

use crate::{Studio, tiny_qwen};

/// A graph that shows what is written, with further inputs of the node.
fn graph(further: Value, output: usize) -> Value {
    let mut inputs = json!({
        "clip": ["1", 0], "prompt": "A red fox at night", "max_length": 5, "thinking": true,
        "use_default_template": true, "mtp": "auto",
    });
    inputs.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    json!({
        "1": {"class_type": "CLIPLoader", "inputs": {
            "clip_name": "qwen_2.5_vl_7b_fp8_scaled.safetensors", "type": "qwen_image", "device": "default",
        }},
        "2": {"class_type": "TextGenerate", "inputs": inputs},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", output]}},
        "picture": {"class_type": "EmptyImage", "inputs": {
            "width": 56, "height": 28, "batch_size": 2, "color": 255,
        }},
    })
}

#[test]
fn a_node_shows_what_the_encoder_writes() {
    let file = File::open(tiny_qwen::models().join(tiny_qwen::TEXT_ENCODER)).unwrap();
    let encoder = text::load(file, "qwen_image", Compute::F32).unwrap();
    let question = Question { text: "A red fox at night".to_owned(), templated: true, ..Question::default() };
    let how = Choosing { most: 5, sampling: None };
    let expected = encoder.generate(&question, &how, &Stop::new(), &mut |_| ()).unwrap();
    let mut studio = Studio::open();
    let likeliest = json!({"sampling_mode": "off"});
    assert_eq!(studio.shown("likeliest", graph(likeliest.clone(), 0)), expected.text);
    assert_eq!(studio.shown("thoughts", graph(likeliest, 1)), "");
    let by_chance = |seed: u64| {
        json!({
            "sampling_mode": "on", "sampling_mode.temperature": 1.5, "sampling_mode.top_k": 0,
            "sampling_mode.top_p": 1.0, "sampling_mode.min_p": 0.0, "sampling_mode.repetition_penalty": 1.05,
            "sampling_mode.presence_penalty": 0.5, "sampling_mode.seed": seed,
        })
    };
    let [once, again, other] =
        [u64::MAX, u64::MAX, 1].map(|seed| studio.shown("by chance", graph(by_chance(seed), 0)));
    assert_eq!(once, again);
    assert_ne!(once, other);
    let blind = studio.shown("a prompt", graph(json!({"sampling_mode": "off"}), 0));
    let seeing = json!({"sampling_mode": "off", "image": ["picture", 0], "system_prompt": "Look."});
    assert_ne!(studio.shown("pictures", graph(seeing, 0)), blind);
}

#[test]
fn films_are_refused_by_name() {
    let failure = Studio::open().failure(graph(json!({"sampling_mode": "off", "video": ["picture", 0]}), 0));
    assert!(failure.contains("video"), "{failure}");
}
