//! Miniatures of Qwen-Image 2.1's diffusion transformer and autoencoder, of draws. The recorded values are of these very
//! numbers.
#![allow(clippy::unwrap_used, dead_code, reason = "test code; not every test binary uses all of it")]

use std::collections::BTreeMap;

use crate::tiny_kin::{Tensors, draw};

pub const WIDTH: usize = 256;
/// Numbers of a row of text.
pub const TEXT: usize = 32;
pub const CHANNELS: usize = 64;

/// Two blocks with two heads, and what is around them.
pub fn tensors() -> Tensors {
    tensors_reading(TEXT)
}

/// The same for texts of so many numbers a row.
pub fn tensors_reading(text: usize) -> Tensors {
    let ends: [(&str, &[usize]); 9] = [
        ("img_in", &[WIDTH, CHANNELS]),
        ("txt_in.text_norm", &[text]),
        ("txt_in.in_layer", &[WIDTH, text]),
        ("txt_in.out_layer", &[WIDTH, WIDTH]),
        ("time_text_embed.timestep_embedder.linear_1", &[WIDTH, 256]),
        ("time_text_embed.timestep_embedder.linear_2", &[WIDTH, WIDTH]),
        ("modulation.1", &[4 * WIDTH, WIDTH]),
        ("norm_out.linear", &[WIDTH, WIDTH]),
        ("proj_out", &[CHANNELS, WIDTH]),
    ];
    let block: [(&str, &[usize]); 9] = [
        ("attn.to_q", &[WIDTH, WIDTH]),
        ("attn.to_k", &[WIDTH, WIDTH]),
        ("attn.to_v", &[WIDTH, WIDTH]),
        ("attn.to_out.0", &[WIDTH, WIDTH]),
        ("attn.norm_q", &[128]),
        ("attn.norm_k", &[128]),
        ("img_mlp.proj", &[3 * WIDTH, WIDTH]),
        ("img_mlp.gate_layer", &[3 * WIDTH, WIDTH]),
        ("img_mlp.out", &[WIDTH, 3 * WIDTH]),
    ];
    let blocks = (0..2)
        .flat_map(|index| block.map(|(name, shape)| (format!("transformer_blocks.{index}.{name}"), shape)));
    let all = ends.map(|(name, shape)| (name.to_owned(), shape)).into_iter().chain(blocks);
    let tensor = |(index, (name, shape)): (usize, (String, &[usize]))| {
        let seed = 100 + index as u64;
        let values = match *shape {
            [_, inputs] => draw(seed, shape, (inputs as f64).sqrt().recip()),
            // This norm's weights are told from one.
            _ if name.ends_with("text_norm") => draw(seed, shape, 0.2),
            _ => (draw(seed, shape, 0.2) + 1.0).unwrap(),
        };
        (format!("{name}.weight"), values)
    };
    all.enumerate().map(tensor).collect()
}

/// The autoencoder with all stages as they were published, with 8 channels at full size in the encoder and 12 in the
/// decoder; as diffusers names it.
pub fn vae() -> Tensors {
    const PAGE: &str = include_str!("../golden/values/qwen_image_21_vae.json");
    let page: serde_json::Value = serde_json::from_str(PAGE).unwrap();
    let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_value(page["tensors"].clone()).unwrap();
    let drawn = |(index, (name, shape)): (usize, (String, Vec<usize>))| {
        let fan_in: usize = shape[1..].iter().product();
        let (middle, scale) = match name.rsplit('.').next().unwrap() {
            "gamma" => (1.0, 0.2),
            "bias" => (0.0, 0.1),
            _ => (0.0, 1.0 / (fan_in as f64).sqrt()),
        };
        let values = (draw(1000 + index as u64, &shape, scale) + middle).unwrap();
        (name, values)
    };
    shapes.into_iter().enumerate().map(drawn).collect()
}
