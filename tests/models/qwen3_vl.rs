//! The Qwen3-VL text encoder against `QwenImage21Pipeline._get_qwen_prompt_embeds` of diffusers 0.42.1 over the
//! miniature in transformers 5.24.0 (torch 2.15, F32): `golden/qwen3-vl` has the states it gives, where pictures lie in
//! them, and what `generate` writes after each prompt without chance.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use ::safetensors::Dtype;
use ::safetensors::tensor::TensorView;
use candle_core::{Device, Tensor};
use comfyd::model::{Compute, TextEncoder, TextPrompt, text};
use comfyd::stop::Stop;
use comfyd::weights::File;
use serde::Deserialize;

use crate::golden::{self, relative_l2};
use crate::tiny_qwen3::{self, Form};

/// Sums of a few thousand products in another order differ by less.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
pub struct Recorded {
    pub text: String,
    /// Height and width of each picture.
    sizes: Vec<[usize; 2]>,
    pictures: Vec<[usize; 2]>,
    /// Tokens after the prompt; likewise with the embeddings as the last matrix.
    pub generated: Vec<u32>,
    #[serde(default)]
    pub tied: Vec<u32>,
}

pub static CASES: LazyLock<BTreeMap<String, Recorded>> =
    LazyLock::new(|| serde_json::from_str(include_str!("../golden/qwen3-vl/facts.json")).unwrap());

static HIDDEN: LazyLock<HashMap<String, Tensor>> = LazyLock::new(|| {
    candle_core::safetensors::load(golden::path("../qwen3-vl/hidden.safetensors"), &Device::Cpu).unwrap()
});

pub static ENCODER: LazyLock<Arc<dyn TextEncoder>> = LazyLock::new(|| load(tiny_qwen3::whole()));

fn load(path: &Path) -> Arc<dyn TextEncoder> {
    text::load(File::open(path).unwrap(), "qwen_image", Compute::F32).unwrap()
}

/// The picture with this index, of whole numbers up to 255.
fn picture(index: usize, [height, width]: [usize; 2]) -> Tensor {
    let value = |at: usize| {
        let (y, x, c) = (at / 3 / width, at / 3 % width, at % 3);
        ((31 * y + 17 * x + 71 * c + (x * y) % 97 + 40 * index) % 256) as f32 / 255.0
    };
    let values = (0..3 * height * width).map(value).collect();
    Tensor::from_vec(values, (1, height, width, 3), &Device::Cpu).unwrap()
}

impl Recorded {
    pub fn prompt(&self) -> TextPrompt {
        let images = self.sizes.iter().enumerate().map(|(index, size)| picture(index, *size)).collect();
        TextPrompt { text: self.text.clone(), images, template: None }
    }
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn hidden(encoder: &dyn TextEncoder, prompt: &TextPrompt) -> Tensor {
    encoder.encode(prompt, &Stop::new()).unwrap().hidden.squeeze(0).unwrap()
}

#[test]
fn prompts_are_read_as_the_pipeline_reads_them() {
    for (name, case) in &*CASES {
        let prompt = case.prompt();
        let read = ENCODER.encode(&prompt, &Stop::new()).unwrap();
        let found = read.hidden.squeeze(0).unwrap();
        assert_eq!(found.dims(), HIDDEN[name].dims(), "{name}");
        let error = relative_l2(&values(&found), &values(&HIDDEN[name]));
        println!("{name}: {error:.1e}");
        golden::record("Qwen3-VL", error, TOLERANCE);
        assert!(error < TOLERANCE, "{name}: {error:.1e}");
        let pictures: Vec<_> = read.pictures.iter().map(|rows| [rows.start, rows.end]).collect();
        assert_eq!(pictures, case.pictures, "{name}");
        assert!(read.attention_mask.is_none() && read.pooled.is_none());
        let estimate = ENCODER.estimate(&prompt).unwrap();
        assert_eq!(estimate.shape, found.dims(), "{name}");
        assert_eq!(estimate.looks.len(), case.sizes.len());
    }
}

#[test]
fn files_with_short_names_and_eight_bits_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = CASES["one_picture"].prompt();
    let whole = hidden(&**ENCODER, &prompt);
    for (name, form, allowed) in [
        ("short", Form { short: true, headless: true, ..Form::default() }, 0.0),
        ("eight bits", Form { short: true, eight_bits: true, headless: true }, TOLERANCE),
    ] {
        let encoder = load(&tiny_qwen3::write(folder.path(), name, form));
        let error = relative_l2(&values(&hidden(&*encoder, &prompt)), &values(&whole));
        println!("{name}: {error:.1e}");
        assert!(error <= allowed, "{name}: {error:.1e}");
    }
}

#[test]
fn it_ends_at_the_layer_that_is_asked_for() {
    let prompt = CASES["text"].prompt();
    let ending = |layer| hidden(&*ENCODER.ending_at(layer).unwrap(), &prompt);
    let whole = hidden(&**ENCODER, &prompt);
    assert_eq!(values(&ending(1)), values(&whole));
    assert_eq!(ending(2).dims(), whole.dims());
    assert!(relative_l2(&values(&ending(2)), &values(&whole)) > 0.1);
}

#[test]
fn other_readings_of_its_files_are_refused_by_name() {
    for asked in ["krea2", "joyimage", "ideogram4"] {
        let error = text::load(File::open(tiny_qwen3::whole()).unwrap(), asked, Compute::F32).err().unwrap();
        let error = error.to_string();
        assert!(["Qwen3-VL", asked, "`qwen_image`"].iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn its_relations_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    for (tensor, word) in [
        ("model.language_model.layers.0.linear_attn.in_proj_qkv.weight", "Qwen3.5"),
        ("model.layers.0.linear_attn.conv1d.weight", "Qwen3.5"),
        ("model.layers.0.self_attn.q_norm.weight", "without a vision tower"),
        ("model.language_model.layers.0.mlp.experts.gate_up_proj", "experts"),
    ] {
        let view = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
        std::fs::write(&path, ::safetensors::serialize([(tensor, view)], None).unwrap()).unwrap();
        let error = text::load(File::open(&path).unwrap(), "qwen_image", Compute::F32).err().unwrap();
        assert!(error.to_string().contains(word), "{tensor}: {error}");
    }
}

#[test]
fn adapters_name_its_modules_as_comfyui_or_as_its_makers() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = CASES["text"].prompt();
    let whole = values(&hidden(&**ENCODER, &prompt));
    let ones = vec![0x3d; 4 * tiny_qwen3::WIDTH];
    let mut found = Vec::new();
    for module in [
        "text_encoders.qwen3vl_8b.transformer.model.layers.1.self_attn.o_proj",
        "text_encoder.model.language_model.layers.1.self_attn.o_proj",
    ] {
        let view = |shape: [usize; 2]| TensorView::new(Dtype::F32, shape.to_vec(), &ones).unwrap();
        let up = [(format!("{module}.lora_up.weight"), view([tiny_qwen3::WIDTH, 1]))];
        let down_bytes = ones.repeat(4);
        let down = TensorView::new(Dtype::F32, vec![1, 4 * tiny_qwen3::WIDTH], &down_bytes).unwrap();
        let tensors = up.into_iter().chain([(format!("{module}.lora_down.weight"), down)]);
        let path = folder.path().join(module);
        std::fs::write(&path, ::safetensors::serialize(tensors, None).unwrap()).unwrap();
        let adapted = ENCODER.with_lora(File::open(&path).unwrap(), 1.0).unwrap();
        assert_eq!(adapted.used.len(), 2, "{module}");
        found.push(values(&hidden(&*adapted.network, &prompt)));
    }
    assert_eq!(found[0], found[1]);
    assert!(relative_l2(&found[0], &whole) > 1e-4);
}
