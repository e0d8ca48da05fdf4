//! What the networks cost at their real size: one block of the diffusion transformer, and decoding a picture.
//!
//! `cargo bench --bench model`. The diffusion model has 60 such blocks.

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

#[path = "support/noise.rs"]
mod noise;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{Device, Tensor};
use comfyd::model::diffusion::Options;
use comfyd::model::{Compute, Cond, diffusion, vae};
use comfyd::stop::Stop;
use comfyd::weights::File;
use criterion::{Criterion, criterion_group, criterion_main};
use noise::noise;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Names and shapes of the tensors of a file.
type Layout = Vec<(String, Vec<usize>)>;

/// A file of that layout, mapped.
fn file(folder: &Path, layout: &Layout, dtype: Dtype) -> Arc<File> {
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

const WIDTH: usize = 3072;
const TEXT_WIDTH: usize = 3584;

fn linear(layout: &mut Layout, name: &str, outputs: usize, inputs: usize) {
    layout.push((format!("{name}.weight"), vec![outputs, inputs]));
    layout.push((format!("{name}.bias"), vec![outputs]));
}

/// Qwen-Image with one block of its 60.
fn one_block() -> Layout {
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

fn block(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path(), &one_block(), Dtype::F8_E4M3);
    let network = diffusion::load(file, Options::default()).unwrap();
    let latent = Tensor::randn(0f32, 1.0, (1, 16, 1, 64, 64), &Device::Cpu).unwrap();
    let cond = Cond::new(Tensor::randn(0f32, 1.0, (1, 64, TEXT_WIDTH), &Device::Cpu).unwrap());
    let mut group = criterion.benchmark_group("diffusion");
    group.sample_size(10).measurement_time(Duration::from_secs(30));
    group.bench_function("one block, 1024 + 64 tokens", |bench| {
        bench.iter(|| network.forward(&latent, 0.5, &[&cond], &Stop::new()).unwrap());
    });
}

const BASE: usize = 96;
const LATENT: usize = 16;

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
fn autoencoder() -> Layout {
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

fn decode(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let file = file(folder.path(), &autoencoder(), Dtype::BF16);
    assert_eq!(file.header().names("").count(), 194, "the published file has 194 tensors");
    let vae = vae::load(file, Compute::F32).unwrap();
    let latent = Tensor::randn(0f32, 1.0, (1, LATENT, 1, 64, 64), &Device::Cpu).unwrap();
    let mut group = criterion.benchmark_group("vae");
    group.sample_size(10).measurement_time(Duration::from_secs(100));
    group.bench_function("decode 512x512", |bench| bench.iter(|| vae.decode(&latent, &Stop::new()).unwrap()));
}

criterion_group!(benches, block, decode);
criterion_main!(benches);
