//! LoRA files and controls beside a network whose own file is never touched.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use comfyd::model::diffusion::{self, BlockControl, Options};
use comfyd::model::{self, Adapted, Compute, Cond, Diffusion, TextPrompt, lora, text};
use comfyd::sampling::Noise;
use comfyd::stop::Stop;
use comfyd::weights::{File, Fp8, Storage};

use crate::{tiny_kin, tiny_qwen};

const MODULE: &str = "transformer_blocks.0.attn.to_q";

fn draw(seed: u64, shape: &[usize]) -> Tensor {
    Noise::new(seed).draw(shape, &Device::Cpu).unwrap()
}

fn network(storage: Storage) -> Arc<dyn Diffusion> {
    let file = tiny_qwen::models().join(tiny_qwen::DIFFUSION_FP8);
    diffusion::load(File::open(file).unwrap(), Options { storage, ..Options::default() }).unwrap()
}

/// What a network predicts for one fixed input.
fn prediction(network: &dyn Diffusion) -> Tensor {
    let cond = Cond::new(draw(2, &[1, 5, 64]));
    network.forward(&draw(1, &[1, 16, 1, 4, 6]), 0.7, &[&cond], &Stop::new()).unwrap().remove(0)
}

fn apart(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// A LoRA of rank 2 for one module of 256 by 256, with an alpha of some shape and further tensors.
fn write_lora(path: &Path, module: &str, alpha: &[usize], more: &[&str]) -> Arc<File> {
    let mut tensors = vec![
        (format!("{module}.lora_up.weight"), draw(3, &[256, 2])),
        (format!("{module}.lora_down.weight"), draw(4, &[2, 256])),
        (format!("{module}.alpha"), Tensor::full(0.5f32, alpha, &Device::Cpu).unwrap()),
    ];
    tensors.extend(more.iter().map(|name| ((*name).to_owned(), draw(5, &[2, 2]))));
    candle_core::safetensors::save(&tensors.into_iter().collect(), path).unwrap();
    File::open(path).unwrap()
}

#[test]
fn an_alpha_of_any_shape_counts_and_unknown_keys_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let base = network(Storage::AsFile);
    let plain = prediction(base.as_ref());
    let mut found = Vec::new();
    for (index, alpha) in [&[][..], &[1], &[1, 1]].into_iter().enumerate() {
        let path = folder.path().join(format!("{index}.safetensors"));
        let file = write_lora(&path, MODULE, alpha, &["stray.weight", "other.alpha"]);
        let Adapted { network, used } = base.with_lora(file.clone(), 1.0).unwrap();
        assert_eq!(used.len(), 3);
        assert_eq!(lora::report_unknown(&file, &used), 2);
        found.push(prediction(network.as_ref()));
    }
    assert!(apart(&plain, &found[0]) > 1e-3);
    assert!(found.iter().all(|other| apart(other, &found[0]) <= 0.0));
}

#[test]
fn loras_add_up_in_any_order_and_opposite_strengths_cancel() {
    let folder = tempfile::tempdir().unwrap();
    let base = network(Storage::AsFile);
    let one = write_lora(&folder.path().join("one.safetensors"), MODULE, &[], &[]);
    let two = File::open(tiny_qwen::models().join(tiny_qwen::LORA_PEFT)).unwrap();
    let with = |steps: &[(&Arc<File>, f64)]| {
        let apply = |network: Arc<dyn Diffusion>, (file, strength): &(&Arc<File>, f64)| {
            network.with_lora((*file).clone(), *strength).unwrap().network
        };
        prediction(steps.iter().fold(base.clone(), apply).as_ref())
    };
    let plain = with(&[]);
    let both = with(&[(&one, 0.7), (&two, -0.4)]);
    assert!(apart(&both, &with(&[(&two, -0.4), (&one, 0.7)])) < 1e-4);
    assert!(apart(&both, &plain) > 1e-3);
    assert!(apart(&plain, &with(&[(&one, 0.7), (&one, -0.7)])) < 1e-4);
}

/// The rounding draws from a seed of its own for each matrix, so the same graph gives the same picture.
#[test]
fn sums_kept_in_fp8_are_rounded_the_same_way_each_time_and_leave_the_file_alone() {
    let path = tiny_qwen::models().join(tiny_qwen::DIFFUSION_FP8);
    let before = std::fs::read(&path).unwrap();
    let lora = File::open(tiny_qwen::models().join(tiny_qwen::LORA_KOHYA)).unwrap();
    let base = network(Storage::Rounded(Fp8::E4M3));
    let plain = prediction(base.as_ref());
    let at = |strength| prediction(base.with_lora(lora.clone(), strength).unwrap().network.as_ref());
    let (strong, weak) = (at(1.0), at(0.2));
    assert!(apart(&strong, &weak) > 1e-4);
    assert!(apart(&strong, &at(1.0)) <= 0.0);
    assert!(apart(&plain, &prediction(base.as_ref())) <= 0.0);
    let beside = network(Storage::AsFile).with_lora(lora.clone(), 1.0).unwrap().network;
    let rounding = apart(&strong, &prediction(beside.as_ref()));
    assert!(rounding > 1e-6 && rounding < 1.5, "{rounding}");
    assert_eq!(before, std::fs::read(&path).unwrap());
}

#[test]
fn a_lora_may_change_the_text_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = File::open(tiny_qwen::models().join(tiny_qwen::TEXT_ENCODER)).unwrap();
    let encoder = text::load(encoder, "qwen_image", Compute::F32).unwrap();
    let module = "text_encoders.qwen25_7b.transformer.model.layers.0.mlp.gate_proj";
    let tensors = [
        (format!("{module}.lora_A.weight"), draw(6, &[2, 64])),
        (format!("{module}.lora_B.weight"), draw(7, &[160, 2])),
        (format!("{MODULE}.lora_A.weight"), draw(6, &[2, 256])),
    ];
    let path = folder.path().join("lora.safetensors");
    candle_core::safetensors::save(&tensors.into_iter().collect(), &path).unwrap();
    let file = File::open(path).unwrap();
    let prompt = TextPrompt { text: "a red fox".to_owned(), ..TextPrompt::default() };
    let read = |encoder: &dyn model::TextEncoder| encoder.encode(&prompt, &Stop::new()).unwrap().hidden;
    let Adapted { network, used } = encoder.with_lora(file.clone(), 1.0).unwrap();
    assert_eq!(used.iter().filter(|name| name.starts_with("text_encoders")).count(), 2);
    assert_eq!(lora::report_unknown(&file, &used), 1);
    assert!(apart(&read(encoder.as_ref()), &read(network.as_ref())) > 1e-3);
}

/// Values of `QwenImageBlockWiseControlNet` of ComfyUI 0.3.64 with the same weights.
#[test]
fn a_control_says_what_it_says_in_comfyui() {
    const WIDTH: usize = 64;
    let folder = tempfile::tempdir().unwrap();
    let path = tiny_kin::save(folder.path(), "control.safetensors", &tiny_kin::block_control(WIDTH, 68));
    let control = BlockControl::load(File::open(path).unwrap()).unwrap();
    assert_eq!(control.mask_channels(), 1);
    let tokens = control.tokens(&draw(18, &[1, 17, 1, 3, 4])).unwrap();
    assert_eq!(tokens.dims(), [1, 4, WIDTH]);
    let change = control.change(0, &draw(19, &[1, 4, WIDTH]), &tokens).unwrap().unwrap();
    assert!(control.change(1, &tokens, &tokens).unwrap().is_none());
    let facts = std::fs::read(crate::golden::path("../values/control.json")).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    for (name, found) in [("tokens", tokens), ("change", change)] {
        let found = found.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (index, expected) in facts[name].as_array().unwrap().iter().enumerate() {
            let (found, expected) = (f64::from(found[index * 8]), expected.as_f64().unwrap());
            assert!((found - expected).abs() < 1e-4, "{name} {index}: {found} and not {expected}");
        }
    }
}
