//! Matrices in whole numbers of eight bits, turned or not, against what ComfyUI's own library makes of them:
//! `values/eight_bits.safetensors` holds layers as it writes them, inputs and products.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use comfyd::model::diffusion::{Options, QwenImage};
use comfyd::model::parts::Linear;
use comfyd::model::{Adapted, Cond, Diffusion, Result};
use comfyd::stop::Stop;
use comfyd::weights::{File, Fp8, Kept, Storage, Weights};

use crate::golden::{self, relative_l2};
use crate::tiny_kin::{self, draw};
use crate::tiny_qwen;

fn apart(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let values = |x: &Tensor| -> Vec<f64> {
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
    };
    relative_l2(&values(found), &values(expected))
}

fn recorded() -> Weights {
    Weights::new(File::open(golden::path("../values/eight_bits.safetensors")).unwrap(), "")
}

fn tensor(weights: &Weights, name: &str) -> Tensor {
    weights.tensor(name, weights.shape(name).unwrap()).unwrap()
}

#[test]
fn products_are_those_of_comfyui() {
    for storage in [Storage::AsFile, Storage::Rounded(Fp8::E4M3)] {
        for name in ["turned", "small", "rows", "whole"] {
            let weights = recorded();
            let [given, expected, matrix] =
                ["given", "expected", "matrix"].map(|part| tensor(&weights, &format!("{name}, {part}")));
            let size @ [outputs, inputs] = [matrix.dims()[0], matrix.dims()[1]];
            // What a loader rounds to eight bits is rounded already; biases are not.
            let at = weights.stored_as(storage).at(name);
            let linear = at.clone().build(|at| Linear::without_bias(at, inputs, outputs)).unwrap();
            let bias = tensor(&recorded(), &format!("{name}.bias"));
            for rows in [1, 6] {
                let found = linear.forward(&given.narrow(0, 0, rows).unwrap()).unwrap();
                let found = found.broadcast_add(&bias).unwrap();
                let error = apart(&found, &expected.narrow(0, 0, rows).unwrap());
                golden::record("products with eight bits", error, 1e-5);
                assert!(error < 1e-5, "{name}: {error:.1e}");
            }
            let mut values = at.stored("weight", &size).unwrap().to_vec();
            Kept::read(&at, size).unwrap().restore(0, &mut values, inputs);
            let error = apart(&Tensor::from_vec(values, (outputs, inputs), &Device::Cpu).unwrap(), &matrix);
            assert!(error < 1e-6, "{name}: {error:.1e}");
        }
    }
}

fn prediction(network: &dyn Diffusion) -> Tensor {
    let cond = Cond::new(draw(2, &[1, 5, 64], 1.0));
    network.forward(&draw(1, &[1, 16, 1, 4, 6], 1.0), 0.7, &[&cond], &Stop::new()).unwrap().remove(0)
}

/// A network, and what it is in turned numbers of eight bits.
fn twins() -> (QwenImage, QwenImage) {
    let folder = tempfile::tempdir().unwrap();
    let load = |file: Arc<File>| QwenImage::load(Weights::new(file, ""), Options::default()).unwrap();
    let model = tiny_kin::read(tiny_qwen::DIFFUSION_BF16);
    let whole = load(File::open(tiny_qwen::models().join(tiny_qwen::DIFFUSION_BF16)).unwrap());
    // Its map outlives the name of the file.
    let eight = tiny_kin::save_in_eight_bits(folder.path(), "int8_convrot.safetensors", &model);
    (whole, load(File::open(eight).unwrap()))
}

#[test]
fn a_network_in_eight_bits_predicts_what_it_did_and_takes_loras() {
    let (whole, eight) = twins();
    let error = apart(&prediction(&eight), &prediction(&whole));
    assert!(error > 1e-4 && error < 3e-2, "{error}");
    for lora in [tiny_qwen::LORA_KOHYA, tiny_qwen::LORA_PEFT] {
        let lora = File::open(tiny_qwen::models().join(lora)).unwrap();
        let adapted = |network: &QwenImage| -> Result<Tensor> {
            let Adapted { network, .. } = network.with_lora(lora.clone(), 0.8)?;
            Ok(prediction(network.as_ref()))
        };
        let (eight, whole) = (adapted(&eight).unwrap(), adapted(&whole).unwrap());
        let error = apart(&eight, &whole);
        assert!(error < 3e-2, "{error}");
    }
}

#[test]
fn a_mixture_with_a_network_in_eight_bits_is_one_of_its_values() {
    let (whole, eight) = twins();
    let half = |a: &QwenImage, b: &QwenImage| {
        let mixed = comfyd::model::merge::patches(a.weights(), b.weights(), "", &|_| [0.5, 0.5]);
        prediction(a.patched(mixed).unwrap().as_ref())
    };
    for mixed in [half(&whole, &eight), half(&eight, &whole)] {
        let error = apart(&mixed, &prediction(&whole));
        assert!(error < 2e-2, "{error}");
    }
}

#[test]
fn formats_that_are_not_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let entry = |text: &'static str| {
        let tensors = [
            crate::safetensors::Entry("l.weight", "I8", vec![2, 4], vec![1; 8]),
            crate::safetensors::Entry("l.weight_scale", "F32", vec![], vec![0; 4]),
            crate::safetensors::Entry("l.comfy_quant", "U8", vec![text.len()], text.as_bytes().to_vec()),
        ];
        let path = crate::safetensors::write(folder.path(), "file.safetensors", &tensors);
        let weights = Weights::new(File::open(path).unwrap(), "");
        let built: Result<Linear> = weights.build(|weights| Linear::without_bias(&weights.at("l"), 4, 2));
        built.err().map(|error| error.to_string())
    };
    assert_eq!(entry(r#"{"format": "int8_tensorwise"}"#), None);
    let told = entry(r#"{"format": "nvfp4"}"#).unwrap();
    assert_eq!(
        told,
        "layer `l` in file.safetensors is kept in a format that this server does not read: nvfp4; take the file of \
         this model in BF16, FP8 or INT8"
    );
    let told = entry(r#"{"format": "int8_tensorwise", "convrot": true}"#).unwrap();
    assert!(told.contains("4 inputs turned 256 at a time"), "{told}");
    assert!(entry("{").unwrap().contains("does not read"));
}

#[test]
fn formats_may_be_told_in_the_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let layers =
        r#"{"layers": {"l": {"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 4}}}"#;
    let header = serde_json::json!({
        "__metadata__": {"_quantization_metadata": layers},
        "net.l.weight": {"dtype": "I8", "shape": [1, 4], "data_offsets": [0, 4]},
        "net.l.weight_scale": {"dtype": "F32", "shape": [1, 1], "data_offsets": [4, 8]},
    });
    let data = [&[1, 2, 3, 5][..], &2f32.to_le_bytes()].concat();
    let path = crate::safetensors::write_raw(folder.path(), "file.safetensors", &header.to_string(), &data);
    let weights = Weights::new(File::open(path).unwrap(), "net");
    let linear = weights.build(|weights| Linear::without_bias(&weights.at("l"), 4, 1)).unwrap();
    let units = Tensor::eye(4, candle_core::DType::F32, &Device::Cpu).unwrap();
    assert_eq!(linear.forward(&units).unwrap().to_vec2::<f32>().unwrap(), [[1.0], [5.0], [7.0], [9.0]]);
}
