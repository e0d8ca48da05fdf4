//! The Qwen2.5-VL text encoder, stage by stage, against what ComfyUI recorded.

use std::sync::LazyLock;

use comfyd::model::text::qwen2_5_vl::Encoder;
use comfyd::model::{TextEncoder, TextPrompt};
use comfyd::stop::Stop;
use comfyd::weights::{File, Weights};

use crate::golden::Case;
use crate::tiny_qwen;

/// Sums of a few thousand products in another order differ by less.
const TOLERANCE: f64 = 1e-4;

static ENCODER: LazyLock<Encoder> = LazyLock::new(|| {
    let file = File::open(tiny_qwen::models().join(tiny_qwen::TEXT_ENCODER)).unwrap();
    Encoder::load(Weights::new(file, "")).unwrap()
});

/// The texts of a case in the order they were encoded.
fn prompts(case: &Case) -> Vec<TextPrompt> {
    let texts = case.facts["tokens"].as_array().unwrap().iter();
    texts
        .map(|text| TextPrompt { text: text["text"].as_str().unwrap().to_owned(), ..TextPrompt::default() })
        .collect()
}

fn check(name: &str) {
    let case = Case::open(name);
    let stop = Stop::new();
    for (index, prompt) in prompts(&case).iter().enumerate() {
        let reading = ENCODER.read(prompt, &stop).unwrap();
        case.assert_close(&format!("te_embeds.{index}"), &reading.embeds, TOLERANCE);
        let hidden = ENCODER.understand(&reading, &stop).unwrap();
        case.assert_close(&format!("te_last_hidden.{index}"), &hidden, TOLERANCE);
        let encoded = ENCODER.encode(prompt, &stop).unwrap();
        case.assert_close(&format!("cond.{index}"), &encoded.hidden, TOLERANCE);
    }
}

#[test]
fn texts_without_pictures_are_encoded_as_recorded() {
    for name in [
        "t2i_20steps",
        "t2i_basic",
        "t2i_bf16_file",
        "t2i_cfg1",
        "t2i_cfgnorm",
        "t2i_empty_prompt",
        "t2i_nonsquare_batch2",
        "t2i_own_template",
        "t2i_weights_syntax",
        "user_graph",
        "user_graph_default_dtype",
        "i2i_060",
        "i2i_gray",
        "i2i_odd",
        "cond_zero",
    ] {
        check(name);
    }
}
