//! The Qwen2.5-VL text encoder, stage by stage, against what ComfyUI recorded.

use std::path::Path;
use std::sync::LazyLock;

use ::safetensors::SafeTensors;
use candle_core::{DType, Device, Tensor};
use comfyd::image::{Crop, Filter};
use comfyd::model::text::qwen_vl::picture::Grid;
use comfyd::model::text::qwen2_5_vl::{Encoder, PICTURES, template};
use comfyd::model::{Compute, Error, TextEncoder, TextPrompt, text};
use comfyd::stop::Stop;
use comfyd::weights::{File, Weights};
use serde_json::Value;

use crate::golden::Case;
use crate::pictures::{pixels, sides};
use crate::tiny_qwen;

/// Sums of a few thousand products in another order differ by less.
const TOLERANCE: f64 = 1e-4;

static ENCODER: LazyLock<Encoder> = LazyLock::new(|| {
    let file = File::open(tiny_qwen::models().join(tiny_qwen::TEXT_ENCODER)).unwrap();
    Encoder::load(Weights::new(file, "")).unwrap()
});

/// What a text encoding node makes of its inputs.
fn prompt(workflow: &Value, node: &Value) -> TextPrompt {
    let inputs = &node["inputs"];
    let look = |link: &Value, area: f64| {
        let image = pixels(workflow, link);
        image.resized(sides(&image, area), Filter::Area, Crop::Disabled).unwrap().to_tensor().unwrap()
    };
    let text = |key: &str| inputs[key].as_str().unwrap().to_owned();
    match node["class_type"].as_str().unwrap() {
        "CLIPTextEncode" => TextPrompt { text: text("text"), ..TextPrompt::default() },
        "TextEncodeQwenImageEdit" => TextPrompt {
            text: text("prompt"),
            images: vec![look(&inputs["image"], 1024.0 * 1024.0)],
            template: None,
        },
        _ => {
            let slots = (1..=3).filter_map(|slot| Some((slot, inputs.get(format!("image{slot}"))?)));
            let (names, images): (Vec<_>, Vec<_>) =
                slots.map(|(slot, link)| (template::picture(slot), look(link, 384.0 * 384.0))).unzip();
            TextPrompt { text: names.concat() + &text("prompt"), images, template: Some(template::EDIT_PLUS) }
        }
    }
}

/// The prompts of a case in the order they were encoded; `tokens` names them by their text.
fn prompts(case: &Case) -> Vec<TextPrompt> {
    let workflow = case.workflow();
    let nodes = workflow.as_object().unwrap().values();
    let encoders = nodes.filter(|node| node["class_type"].as_str().unwrap().contains("TextEncode"));
    let prompts: Vec<TextPrompt> = encoders.map(|node| prompt(&workflow, node)).collect();
    let texts = case.facts["tokens"].as_array().unwrap().iter().map(|read| read["text"].as_str().unwrap());
    texts.map(|text| prompts.iter().find(|prompt| prompt.text == text).unwrap().clone()).collect()
}

fn check(name: &str) {
    let case = Case::open(name);
    let stop = Stop::new();
    let mut picture = 0;
    for (index, prompt) in prompts(&case).iter().enumerate() {
        for image in &prompt.images {
            case.assert_close(&format!("vl_image.{picture}"), image, TOLERANCE);
            let (patches, grid) = PICTURES.patches(image).unwrap();
            assert_eq!(recorded_grid(&case, picture), grid, "{name}: grid of picture {picture}");
            case.assert_close(&format!("vl_patches.{picture}"), &patches, TOLERANCE);
            let out = format!("vision_out.{picture}");
            if !case.repeats(&out) {
                let (seen, _) = ENCODER.look(image, &stop).unwrap();
                case.assert_close(&out, &seen.tokens, TOLERANCE);
            }
            picture += 1;
        }
        let reading = ENCODER.read(prompt, &stop).unwrap();
        case.assert_close(&format!("te_embeds.{index}"), &reading.embeds, TOLERANCE);
        if !prompt.images.is_empty() {
            let positions = Tensor::new(reading.positions.to_vec(), &Device::Cpu).unwrap();
            case.assert_close(&format!("te_position_ids.{index}"), &positions, 0.0);
        }
        let hidden = ENCODER.understand(&reading, &stop).unwrap();
        case.assert_close(&format!("te_last_hidden.{index}"), &hidden, TOLERANCE);
        let kept = hidden.narrow(1, reading.first_kept, reading.counted.len() - reading.first_kept).unwrap();
        case.assert_close(&format!("cond.{index}"), &kept, TOLERANCE);
    }
    assert!(!case.has(&format!("vl_image.{picture}")), "{name}: more pictures were recorded");
}

/// `vl_grid` counts frames, and patches instead of cells.
fn recorded_grid(case: &Case, picture: usize) -> Grid {
    let [[_, rows, columns]]: [[usize; 3]; 1] =
        serde_json::from_value(case.facts["vl_grid"][picture].clone()).unwrap();
    Grid { rows: rows / 2, columns: columns / 2 }
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

#[test]
fn pictures_of_an_edit_are_read_as_recorded() {
    for name in [
        "edit2509_1img",
        "edit2509_2img",
        "edit2509_3img",
        "edit2509_kontextscale",
        "edit2509_template_lightning",
    ] {
        check(name);
    }
}

#[test]
fn one_large_picture_is_read_as_recorded() {
    check("edit_old_1img");
    check("edit_old_no_vae");
}

#[test]
fn pictures_beside_references_are_read_as_recorded() {
    for name in
        ["ref_1img", "ref_3img", "ref_batch2", "ref_index", "ref_odd_latent", "ref_offset", "ref_other_size"]
    {
        check(name);
    }
}

fn refusal(file: &Path, asked: &str) -> String {
    match text::load(File::open(file).unwrap(), asked, Compute::F32) {
        Ok(_) => panic!("{} was accepted as {asked}", file.display()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn files_say_themselves_what_they_are() {
    let file = File::open(tiny_qwen::models().join(tiny_qwen::TEXT_ENCODER)).unwrap();
    for asked in ["qwen_image", "sd3", "stable_diffusion"] {
        let encoder = text::load(file.clone(), asked, Compute::F32).unwrap();
        let prompt = TextPrompt { text: "a red fox".to_owned(), ..TextPrompt::default() };
        let encoded = encoder.encode(&prompt, &Stop::new()).unwrap();
        assert_eq!(encoded.hidden.dims(), [1, 8, 64]);
        assert!(encoded.attention_mask.is_none() && encoded.pooled.is_none());
    }
}

#[test]
fn other_files_and_other_readings_are_refused_with_a_reason() {
    let models = tiny_qwen::models();
    let other = refusal(&models.join(tiny_qwen::VAE), "qwen_image");
    assert!(other.contains("Qwen2.5-VL 7B") && other.contains("VAE"), "{other}");
    let reading = refusal(&models.join(tiny_qwen::TEXT_ENCODER), "hunyuan_image");
    assert!(reading.contains("`hunyuan_image`") && reading.contains("`qwen_image`"), "{reading}");
}

#[test]
fn words_after_a_typed_end_of_text_are_masked() {
    let prompt = TextPrompt { text: "a fox <|endoftext|> at night".to_owned(), ..TextPrompt::default() };
    let encoded = ENCODER.encode(&prompt, &Stop::new()).unwrap();
    let mask = encoded.attention_mask.unwrap().to_vec2::<i64>().unwrap();
    assert_eq!(mask, [[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]]);
    assert_eq!(encoded.hidden.dims(), [1, 11, 64]);
    // What is masked is not looked at: other words there change nothing before them.
    let other = TextPrompt { text: "a fox <|endoftext|> at noon".to_owned(), ..TextPrompt::default() };
    let other = ENCODER.encode(&other, &Stop::new()).unwrap();
    let last =
        |hidden: &Tensor| hidden.narrow(1, 10, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(last(&encoded.hidden), last(&other.hidden));
}

#[test]
fn a_stop_is_noticed_between_layers() {
    let stop = Stop::new();
    stop.request();
    let prompt = TextPrompt { text: "a fox".to_owned(), ..TextPrompt::default() };
    assert!(matches!(ENCODER.encode(&prompt, &stop), Err(Error::Stopped(_))));
}

#[test]
fn an_encoder_without_a_vision_tower_reads_texts_only() {
    let whole = std::fs::read(tiny_qwen::models().join(tiny_qwen::TEXT_ENCODER)).unwrap();
    let tensors = SafeTensors::deserialize(&whole).unwrap().tensors();
    let blind = tensors.into_iter().filter(|(name, _)| !name.starts_with("visual."));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blind.safetensors");
    std::fs::write(&path, ::safetensors::serialize(blind, None).unwrap()).unwrap();
    let encoder = text::load(File::open(&path).unwrap(), "qwen_image", Compute::F32).unwrap();
    let mut prompt = TextPrompt { text: "a fox".to_owned(), ..TextPrompt::default() };
    assert!(encoder.encode(&prompt, &Stop::new()).is_ok());
    prompt.images = vec![Tensor::zeros((1, 28, 28, 3), DType::F32, &Device::Cpu).unwrap()];
    let refusal = encoder.encode(&prompt, &Stop::new()).unwrap_err().to_string();
    assert!(refusal.contains("no `visual.` tensors"), "{refusal}");
}

#[test]
fn pictures_of_any_size_and_further_channels_can_be_read() {
    for (height, width, cells) in [(1, 1, 4), (28, 28, 4), (13, 200, 8), (75, 300, 33)] {
        let image = Tensor::zeros((2, height, width, 4), DType::F32, &Device::Cpu).unwrap();
        let (seen, grid) = ENCODER.look(&image, &Stop::new()).unwrap();
        assert_eq!((seen.tokens.dims(), grid.cells()), ([cells, 64].as_slice(), cells), "{height}x{width}");
    }
}
