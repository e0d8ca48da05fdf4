//! A miniature of Qwen-Image 2.1's diffusion transformer, of draws. The recorded values are of these very numbers.
#![allow(clippy::unwrap_used, reason = "test code")]

use crate::tiny_kin::{Tensors, draw};

pub const WIDTH: usize = 256;
/// Numbers of a row of text.
pub const TEXT: usize = 32;
pub const CHANNELS: usize = 64;

/// Two blocks with two heads, and what is around them.
pub fn tensors() -> Tensors {
    let ends: [(&str, &[usize]); 9] = [
        ("img_in", &[WIDTH, CHANNELS]),
        ("txt_in.text_norm", &[TEXT]),
        ("txt_in.in_layer", &[WIDTH, TEXT]),
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
