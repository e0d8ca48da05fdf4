//! Every kind of adapter a LoRA file may hold, on tensors of each format, against what ComfyUI 0.3.64 makes of the
//! same small matrices: `values/adapters.json` names the cases, `values/adapters.safetensors` holds their files, the
//! tensors they change, and the results.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use comfyd::model::lora::{self, Lora};
use comfyd::model::parts::{Linear, RmsNorm};
use comfyd::model::{Adapted, Error};
use comfyd::weights::{File, Fp8, Storage, Weights};
use serde_json::Value;

use crate::golden;

type Tensors = HashMap<String, Tensor>;

/// Where a value is rounded by chance, the draw may fall right beside the other side of it.
const ROUNDED_OTHERWISE: f64 = 0.005;

fn recorded() -> (Vec<Value>, Tensors) {
    let cases = std::fs::read(golden::path("../values/adapters.json")).unwrap();
    let tensors = golden::path("../values/adapters.safetensors");
    let tensors = candle_core::safetensors::load(tensors, &Device::Cpu).unwrap();
    (serde_json::from_slice(&cases).unwrap(), tensors)
}

/// Writes those tensors whose names begin with `place`, without it, to a file of their own.
fn write(folder: &Path, place: &str, tensors: &Tensors) -> Arc<File> {
    let inside = tensors
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(place)?.to_owned(), tensor.clone())));
    let path = folder.join(format!("{}.safetensors", place.replace(['/', ' '], "_")));
    candle_core::safetensors::save(&inside.collect::<Tensors>(), &path).unwrap();
    File::open(path).unwrap()
}

fn patched(base: &Weights, files: &[Arc<File>], strength: f64) -> Weights {
    files.iter().fold(base.clone(), |weights, file| {
        let lora = Lora::new(file.clone(), strength);
        let Adapted { network, .. } = lora::patches(&weights, &[lora], lora::DIFFUSION).unwrap();
        weights.patched(network)
    })
}

/// What a layer computes with a tensor tells the tensor.
fn values(weights: &Weights, tensor: &str) -> Vec<f32> {
    let (module, kind) = tensor.rsplit_once('.').unwrap();
    let shape = weights.shape(&format!("{module}.weight")).unwrap().to_vec();
    let at = weights.at(module);
    let found = match (kind, shape.as_slice()) {
        ("weight", &[outputs, inputs]) => {
            let unit = Tensor::eye(inputs, DType::F32, &Device::Cpu).unwrap();
            Linear::without_bias(&at, inputs, outputs).unwrap().forward(&unit).unwrap().t().unwrap()
        }
        ("bias", &[outputs, inputs]) => {
            let nothing = Tensor::zeros((1, inputs), DType::F32, &Device::Cpu).unwrap();
            Linear::load(&at, inputs, outputs).unwrap().forward(&nothing).unwrap()
        }
        (_, &[width]) => {
            let ones = Tensor::ones((1, width), DType::F32, &Device::Cpu).unwrap();
            RmsNorm::load(&at, width, 0.0).unwrap().forward(&ones).unwrap()
        }
        _ => panic!("{tensor}: {shape:?}"),
    };
    found.flatten_all().unwrap().to_vec1().unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_kind_of_adapter_makes_of_a_tensor_what_it_makes_in_comfyui() {
    let (cases, tensors) = recorded();
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "base/", &tensors);
    let before = std::fs::read(file.path()).unwrap();
    let base = Weights::new(file.clone(), "");
    let (mut compared, mut otherwise) = (0, 0);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let files: Vec<_> = case["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|place| write(folder.path(), &format!("{}/", place.as_str().unwrap()), &tensors))
            .collect();
        let strength = case["strength"].as_f64().unwrap();
        for tensor in case["targets"].as_array().unwrap().iter().map(|tensor| tensor.as_str().unwrap()) {
            let expected = |format: &str| flat(&tensors[&format!("{name}/{tensor}/{format}")]);
            let found = values(&patched(&base, &files, strength), tensor);
            let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
            let error = golden::relative_l2(&wide(&found), &wide(&expected("f32")));
            golden::record("tensors under adapters", error, 2e-6);
            assert!(error < 2e-6, "{name}: {tensor} is off by {error:.1e}");
            for (format, word) in [(Fp8::E4M3, "e4m3"), (Fp8::E5M2, "e5m2")] {
                let base = base.clone().stored_as(Storage::Rounded(format));
                let found = values(&patched(&base, &files, strength), tensor);
                compared += found.len();
                otherwise += found.iter().zip(expected(word)).filter(|(a, b)| (**a - b).abs() > 1e-6).count();
            }
        }
    }
    assert!((otherwise as f64) < compared as f64 * ROUNDED_OTHERWISE, "{otherwise} of {compared}");
    assert_eq!(before, std::fs::read(file.path()).unwrap());
}

#[test]
fn keys_that_count_for_nothing_are_told_and_the_others_count() {
    let (_, tensors) = recorded();
    let folder = tempfile::tempdir().unwrap();
    let base = Weights::new(write(folder.path(), "base/", &tensors), "");
    let module = "transformer_blocks.0.attn.to_q";
    let factor =
        |rows: usize, columns: usize| Tensor::ones((rows, columns), DType::F32, &Device::Cpu).unwrap();
    let mut keys: Tensors = [
        (format!("{module}.lora_up.weight"), factor(16, 2)),
        (format!("{module}.lora_down.weight"), factor(2, 24)),
    ]
    .into();
    let alone = [
        "x.hada_w1_a",
        "txt_norm.lora_up.weight",
        "txt_norm.alpha",
        "transformer_blocks.0.attn.square.lokr_w1",
    ];
    keys.extend(alone.map(|name| (name.to_owned(), factor(2, 2))));
    let lora = write(folder.path(), "", &keys);
    let whole = Lora::new(lora.clone(), 1.0);
    let Adapted { network, used } = lora::patches(&base, &[whole], lora::DIFFUSION).unwrap();
    assert_eq!(lora::report_unknown(&lora, &used), alone.len());
    let tensor = format!("{module}.weight");
    let (plain, changed) = (values(&base, &tensor), values(&base.clone().patched(network), &tensor));
    assert!(plain.iter().zip(&changed).all(|(plain, changed)| (changed - plain - 2.0).abs() < 1e-6));
}

#[test]
fn tensors_made_for_another_network_are_told_with_their_shapes() {
    let (_, tensors) = recorded();
    let folder = tempfile::tempdir().unwrap();
    let base = Weights::new(write(folder.path(), "base/", &tensors), "");
    let refusal = |place: &str, keys: &[(&str, &[usize])]| {
        let keys = keys.iter().map(|(name, shape)| {
            let name = format!("{place}/transformer_blocks.0.attn.to_q{name}");
            (name, Tensor::zeros(*shape, DType::F32, &Device::Cpu).unwrap())
        });
        let lora = write(folder.path(), &format!("{place}/"), &keys.collect());
        match lora::patches(&base, &[Lora::new(lora, 1.0)], lora::DIFFUSION) {
            Err(error @ Error::Lora { .. }) => error.to_string(),
            Err(error) => panic!("{place}: {error}"),
            Ok(_) => panic!("{place} was accepted"),
        }
    };
    let message = refusal("lora", &[(".lora_up.weight", &[12, 2]), (".lora_down.weight", &[2, 24])]);
    assert!(message.contains("[16, 24]") && message.contains("[12, 2] and [2, 24]"), "{message}");
    refusal("rank", &[(".lora_up.weight", &[16, 3]), (".lora_down.weight", &[2, 24])]);
    refusal("lokr", &[(".lokr_w1", &[4, 4]), (".lokr_w2", &[4, 4])]);
    refusal("oft", &[(".oft_blocks", &[3, 4, 4])]);
    refusal("boft", &[(".oft_blocks", &[5, 4, 4, 4]), (".alpha", &[])]);
    refusal("flat", &[(".oft_blocks", &[4, 4, 2])]);
    refusal("diff", &[(".diff", &[16, 23])]);
    refusal("bias", &[(".diff_b", &[15])]);
    let pair: &[(&str, &[usize])] = &[(".lora_up.weight", &[16, 2]), (".lora_down.weight", &[2, 24])];
    refusal("dora", &[pair, &[(".dora_scale", &[1, 23])]].concat());
}
