//! Miniatures of what belongs to Qwen-Image beside its three files, made of the miniature checkpoints and of draws:
//! networks that steer it, and the ones for layered pictures. The recorded values are of these very numbers.
#![allow(clippy::unwrap_used, dead_code, reason = "test code; not every test binary uses all of it")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use comfyd::sampling::Noise;

use crate::tiny_qwen;

pub type Tensors = HashMap<String, Tensor>;

/// A draw of a seed, made smaller.
pub fn draw(seed: u64, shape: &[usize], scale: f64) -> Tensor {
    (Noise::new(seed).draw(shape, &Device::Cpu).unwrap() * scale).unwrap()
}

/// The tensors of a miniature checkpoint.
pub fn read(name: &str) -> Tensors {
    candle_core::safetensors::load(tiny_qwen::models().join(name), &Device::Cpu).unwrap()
}

pub fn save(folder: &Path, name: &str, tensors: &Tensors) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    candle_core::safetensors::save(tensors, &path).unwrap();
    path
}

fn layer(tensors: &mut Tensors, name: &str, [outputs, inputs]: [usize; 2], seed: u64, scale: f64) {
    tensors.insert(format!("{name}.weight"), draw(seed, &[outputs, inputs], scale));
    tensors.insert(format!("{name}.bias"), draw(seed + 1, &[outputs], scale));
}

fn width(model: &Tensors) -> usize {
    model["img_in.weight"].dims()[0]
}

/// A network for layered pictures: the model, and its table of kinds.
pub fn layered(mut model: Tensors) -> Tensors {
    let kinds = draw(60, &[2, width(&model)], 0.3);
    model.insert("time_text_embed.addition_t_embedding.weight".to_owned(), kinds);
    model
}

/// The autoencoder with a fourth channel.
pub fn layered_vae(mut vae: Tensors) -> Tensors {
    let longer = |name: &str, more: Tensor, axis: usize| {
        Tensor::cat(&[&vae[name].to_dtype(DType::F32).unwrap(), &more], axis).unwrap()
    };
    let full = vae["encoder.conv1.weight"].dims()[0];
    let last = vae["decoder.head.2.weight"].dims()[1];
    let changed = [
        ("encoder.conv1.weight", longer("encoder.conv1.weight", draw(90, &[full, 1, 3, 3, 3], 0.2), 1)),
        ("decoder.head.2.weight", longer("decoder.head.2.weight", draw(91, &[1, last, 3, 3, 3], 0.1), 0)),
        ("decoder.head.2.bias", longer("decoder.head.2.bias", draw(92, &[1], 0.1), 0)),
    ];
    vae.extend(changed.map(|(name, tensor)| (name.to_owned(), tensor)));
    vae
}

/// A ControlNet as InstantX's: the first blocks of the model itself, and layers of its own.
pub fn control_net(model: &Tensors, features: usize) -> Tensors {
    let shared = [
        "img_in.",
        "txt_in.",
        "txt_norm.",
        "time_text_embed.",
        "transformer_blocks.0.",
        "transformer_blocks.1.",
    ];
    let is_shared = |name: &str| shared.iter().any(|start| name.starts_with(start));
    let mut tensors: Tensors =
        model.iter().filter(|(name, _)| is_shared(name)).map(|(name, x)| (name.clone(), x.clone())).collect();
    let width = width(model);
    for block in 0..2 {
        layer(&mut tensors, &format!("controlnet_blocks.{block}"), [width, width], 30 + 2 * block, 0.05);
    }
    layer(&mut tensors, "controlnet_x_embedder", [width, features], 40, 0.1);
    tensors
}

/// A ControlNet as VideoX-Fun's: three blocks that are the model's too, and layers of its own.
pub fn fun_control_net(model: &Tensors) -> Tensors {
    /// A latent, a mask, and a picture to fill, in patches of four.
    const FEATURES: usize = 4 * (16 + 1 + 16);
    let mut tensors = Tensors::new();
    let width = width(model);
    layer(&mut tensors, "control_img_in", [width, FEATURES], 70, 0.1);
    layer(&mut tensors, "control_blocks.0.before_proj", [width, width], 72, 0.05);
    for block in 0..3 {
        let source = format!("transformer_blocks.{}.", block % 2);
        let inside = model.iter().filter_map(|(name, x)| Some((name.strip_prefix(&source)?, x)));
        tensors.extend(inside.map(|(name, x)| (format!("control_blocks.{block}.{name}"), x.clone())));
        let word = format!("control_blocks.{block}.after_proj");
        layer(&mut tensors, &word, [width, width], 80 + 2 * block, 0.05);
    }
    tensors
}

/// DiffSynth's control of one block, for tokens of a width and hints of so many features.
pub fn block_control(width: usize, features: usize) -> Tensors {
    let mut tensors = Tensors::new();
    layer(&mut tensors, "img_in", [width, features], 10, 0.1);
    layer(&mut tensors, "controlnet_blocks.0.input_proj", [width, width], 12, 0.1);
    layer(&mut tensors, "controlnet_blocks.0.output_proj", [width, width], 14, 0.1);
    for (seed, name) in [(16, "x_rms"), (17, "y_rms")] {
        let weight = draw(seed, &[width], 0.1).affine(1.0, 1.0).unwrap();
        tensors.insert(format!("controlnet_blocks.0.{name}.weight"), weight);
    }
    tensors
}

/// Writes a network with the matrices of its blocks in eight bits, turned, one scale for each row.
pub fn save_in_eight_bits(folder: &Path, name: &str, tensors: &Tensors) -> PathBuf {
    const FORMAT: &[u8] = br#"{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256}"#;
    let mut stored = Vec::new();
    for (name, tensor) in tensors {
        let tensor = tensor.to_dtype(DType::F32).unwrap();
        let layer = name.strip_suffix(".weight").filter(|layer| layer.starts_with("transformer_blocks."));
        let Some(layer) = layer.filter(|_| tensor.rank() == 2) else {
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            stored.push((name.clone(), safetensors::Dtype::F32, tensor.dims().to_vec(), bytes));
            continue;
        };
        let (rows, columns) = tensor.dims2().unwrap();
        let turned = tensor.reshape((rows * columns / 256, 256)).unwrap().matmul(&hadamard()).unwrap();
        let turned = turned.reshape((rows, columns)).unwrap().to_vec2::<f32>().unwrap();
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for row in turned {
            let scale = row.iter().fold(0.0, |most: f32, value| most.max(value.abs())) / 127.0;
            codes.extend(row.iter().map(|value| (value / scale).round_ties_even() as i8 as u8));
            scales.extend(scale.to_le_bytes());
        }
        stored.push((name.clone(), safetensors::Dtype::I8, vec![rows, columns], codes));
        stored.push((format!("{layer}.weight_scale"), safetensors::Dtype::F32, vec![rows, 1], scales));
        let described = (vec![FORMAT.len()], FORMAT.to_vec());
        stored.push((format!("{layer}.comfy_quant"), safetensors::Dtype::U8, described.0, described.1));
    }
    let views = stored.iter().map(|(name, dtype, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

/// The regular Hadamard matrix of 256, of length one in each row.
fn hadamard() -> Tensor {
    let four =
        [[1.0f32, 1.0, 1.0, -1.0], [1.0, 1.0, -1.0, 1.0], [1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, 1.0, 1.0]];
    let digits = |index: usize| [0, 2, 4, 6].map(|shift| index >> shift & 3);
    let at = |row: usize, column: usize| -> f32 {
        digits(row).into_iter().zip(digits(column)).map(|(row, column)| four[row][column]).product()
    };
    let values: Vec<f32> = (0..256 * 256).map(|index| at(index / 256, index % 256) / 16.0).collect();
    Tensor::from_vec(values, (256, 256), &Device::Cpu).unwrap()
}
