//! The tensors of networks at their full width, with fewer layers, in files of random numbers.

use std::path::Path;
use std::sync::Arc;

use comfyd::weights::File;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::noise::noise;

/// Names and shapes of the tensors of a file.
pub type Layout = Vec<(String, Vec<usize>)>;

/// A file of that layout, mapped.
pub fn file(folder: &Path, layout: &Layout, dtype: Dtype) -> Arc<File> {
    let width = if dtype == Dtype::BF16 { 2 } else { 1 };
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    let bytes = noise(dtype, layout.iter().map(|(_, shape)| count(shape)).max().unwrap());
    let tensors = layout.iter().map(|(name, shape)| {
        (name.clone(), TensorView::new(dtype, shape.clone(), &bytes[..width * count(shape)]).unwrap())
    });
    let path = folder.join("model.safetensors");
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    File::open(path).unwrap()
}

pub const WIDTH: usize = 3072;
pub const TEXT_WIDTH: usize = 3584;

fn linear(layout: &mut Layout, name: &str, outputs: usize, inputs: usize) {
    layout.push((format!("{name}.weight"), vec![outputs, inputs]));
    layout.push((format!("{name}.bias"), vec![outputs]));
}

/// Qwen-Image with one block of its 60.
pub fn one_block() -> Layout {
    let mut layout = vec![("txt_norm.weight".to_owned(), vec![TEXT_WIDTH])];
    linear(&mut layout, "time_text_embed.timestep_embedder.linear_1", WIDTH, 256);
    linear(&mut layout, "time_text_embed.timestep_embedder.linear_2", WIDTH, WIDTH);
    linear(&mut layout, "img_in", WIDTH, 64);
    linear(&mut layout, "txt_in", WIDTH, TEXT_WIDTH);
    linear(&mut layout, "norm_out.linear", 2 * WIDTH, WIDTH);
    linear(&mut layout, "proj_out", 64, WIDTH);
    let block = "transformer_blocks.0";
    for stream in ["img", "txt"] {
        linear(&mut layout, &format!("{block}.{stream}_mod.1"), 6 * WIDTH, WIDTH);
        linear(&mut layout, &format!("{block}.{stream}_mlp.net.0.proj"), 4 * WIDTH, WIDTH);
        linear(&mut layout, &format!("{block}.{stream}_mlp.net.2"), WIDTH, 4 * WIDTH);
    }
    for name in ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"] {
        linear(&mut layout, &format!("{block}.attn.{name}"), WIDTH, WIDTH);
    }
    for name in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
        layout.push((format!("{block}.attn.{name}.weight"), vec![128]));
    }
    layout
}

const BASE: usize = 96;
pub const LATENT: usize = 16;

fn conv(layout: &mut Layout, name: &str, outputs: usize, inputs: usize, kernel: &[usize]) {
    layout.push((format!("{name}.weight"), [&[outputs, inputs], kernel].concat()));
    layout.push((format!("{name}.bias"), vec![outputs]));
}

fn residual(layout: &mut Layout, name: &str, inputs: usize, outputs: usize) {
    layout.push((format!("{name}.residual.0.gamma"), vec![inputs, 1, 1, 1]));
    conv(layout, &format!("{name}.residual.2"), outputs, inputs, &[3, 3, 3]);
    layout.push((format!("{name}.residual.3.gamma"), vec![outputs, 1, 1, 1]));
    conv(layout, &format!("{name}.residual.6"), outputs, outputs, &[3, 3, 3]);
    if inputs != outputs {
        conv(layout, &format!("{name}.shortcut"), outputs, inputs, &[1, 1, 1]);
    }
}

fn middle(layout: &mut Layout, side: &str, width: usize) {
    residual(layout, &format!("{side}.middle.0"), width, width);
    layout.push((format!("{side}.middle.1.norm.gamma"), vec![width, 1, 1]));
    conv(layout, &format!("{side}.middle.1.to_qkv"), 3 * width, width, &[1, 1]);
    conv(layout, &format!("{side}.middle.1.proj"), width, width, &[1, 1]);
    residual(layout, &format!("{side}.middle.2"), width, width);
}

/// The published VAE.
pub fn autoencoder() -> Layout {
    let mut layout = Layout::new();
    let [one, two, four] = [BASE, 2 * BASE, 4 * BASE];
    conv(&mut layout, "conv1", 2 * LATENT, 2 * LATENT, &[1, 1, 1]);
    conv(&mut layout, "conv2", LATENT, LATENT, &[1, 1, 1]);
    conv(&mut layout, "encoder.conv1", one, 3, &[3, 3, 3]);
    let down = "encoder.downsamples";
    for (index, (inputs, outputs)) in
        [(one, one), (one, two), (two, four), (four, four)].into_iter().enumerate()
    {
        let first = 3 * index;
        residual(&mut layout, &format!("{down}.{first}"), inputs, outputs);
        residual(&mut layout, &format!("{down}.{}", first + 1), outputs, outputs);
        if index < 3 {
            conv(&mut layout, &format!("{down}.{}.resample.1", first + 2), outputs, outputs, &[3, 3]);
        }
        if matches!(index, 1 | 2) {
            conv(&mut layout, &format!("{down}.{}.time_conv", first + 2), outputs, outputs, &[3, 1, 1]);
        }
    }
    middle(&mut layout, "encoder", four);
    layout.push(("encoder.head.0.gamma".to_owned(), vec![four, 1, 1, 1]));
    conv(&mut layout, "encoder.head.2", 2 * LATENT, four, &[3, 3, 3]);
    conv(&mut layout, "decoder.conv1", four, LATENT, &[3, 3, 3]);
    middle(&mut layout, "decoder", four);
    let up = "decoder.upsamples";
    for (index, (inputs, outputs)) in
        [(four, four), (two, four), (two, two), (one, one)].into_iter().enumerate()
    {
        let first = 4 * index;
        residual(&mut layout, &format!("{up}.{first}"), inputs, outputs);
        residual(&mut layout, &format!("{up}.{}", first + 1), outputs, outputs);
        residual(&mut layout, &format!("{up}.{}", first + 2), outputs, outputs);
        if index < 3 {
            conv(&mut layout, &format!("{up}.{}.resample.1", first + 3), outputs / 2, outputs, &[3, 3]);
        }
        if index < 2 {
            conv(&mut layout, &format!("{up}.{}.time_conv", first + 3), 2 * outputs, outputs, &[3, 1, 1]);
        }
    }
    layout.push(("decoder.head.0.gamma".to_owned(), vec![one, 1, 1, 1]));
    conv(&mut layout, "decoder.head.2", 3, one, &[3, 3, 3]);
    layout
}

/// The text encoder of a prompt and pictures: layers of the language model, and blocks of the vision tower.
pub fn encoder(layers: usize, blocks: usize) -> Layout {
    const KEYS: usize = 512;
    const INNER: usize = 18_944;
    const VISION: usize = 1280;
    const VISION_INNER: usize = 3420;
    let mut layout = vec![("model.embed_tokens.weight".to_owned(), vec![8, TEXT_WIDTH])];
    layout.push(("model.norm.weight".to_owned(), vec![TEXT_WIDTH]));
    for layer in (0..layers).map(|layer| format!("model.layers.{layer}")) {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            layout.push((format!("{layer}.{norm}.weight"), vec![TEXT_WIDTH]));
        }
        linear(&mut layout, &format!("{layer}.self_attn.q_proj"), TEXT_WIDTH, TEXT_WIDTH);
        linear(&mut layout, &format!("{layer}.self_attn.k_proj"), KEYS, TEXT_WIDTH);
        linear(&mut layout, &format!("{layer}.self_attn.v_proj"), KEYS, TEXT_WIDTH);
        for (name, outputs, inputs) in [
            ("self_attn.o_proj", TEXT_WIDTH, TEXT_WIDTH),
            ("mlp.gate_proj", INNER, TEXT_WIDTH),
            ("mlp.up_proj", INNER, TEXT_WIDTH),
            ("mlp.down_proj", TEXT_WIDTH, INNER),
        ] {
            layout.push((format!("{layer}.{name}.weight"), vec![outputs, inputs]));
        }
    }
    layout.push(("visual.patch_embed.proj.weight".to_owned(), vec![VISION, 3, 2, 14, 14]));
    for block in (0..blocks).map(|block| format!("visual.blocks.{block}")) {
        for norm in ["norm1", "norm2"] {
            layout.push((format!("{block}.{norm}.weight"), vec![VISION]));
        }
        linear(&mut layout, &format!("{block}.attn.qkv"), 3 * VISION, VISION);
        linear(&mut layout, &format!("{block}.attn.proj"), VISION, VISION);
        linear(&mut layout, &format!("{block}.mlp.gate_proj"), VISION_INNER, VISION);
        linear(&mut layout, &format!("{block}.mlp.up_proj"), VISION_INNER, VISION);
        linear(&mut layout, &format!("{block}.mlp.down_proj"), VISION, VISION_INNER);
    }
    layout.push(("visual.merger.ln_q.weight".to_owned(), vec![VISION]));
    linear(&mut layout, "visual.merger.mlp.0", 4 * VISION, 4 * VISION);
    linear(&mut layout, "visual.merger.mlp.2", TEXT_WIDTH, 4 * VISION);
    layout
}
