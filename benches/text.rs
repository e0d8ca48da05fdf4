//! What reading a prompt costs: the tokenizer, and one layer of the language model at its real size.
//!
//! `cargo bench --bench text`. The whole model is 28 such layers.

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

#[path = "support/noise.rs"]
mod noise;

use std::path::Path;
use std::time::Duration;

use candle_core::{Device, Tensor};
use comfyd::model::text::qwen2_5_vl::template::entries;
use comfyd::model::text::qwen2_5_vl::tokenizer::Tokenizer;
use comfyd::model::text::qwen2_5_vl::{Encoder, Reading};
use comfyd::stop::Stop;
use comfyd::weights::{File, Weights};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use noise::noise;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const WIDTH: usize = 3584;
const KEYS: usize = 512;
const INNER: usize = 18944;
const ROWS: usize = 300;

/// A file with one layer in the layout of the published one: fp8 matrices with scales, the rest BF16.
fn write(path: &Path) {
    let layer = "model.layers.0";
    let plain = [
        ("model.embed_tokens.weight".to_owned(), vec![8, WIDTH]),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
        (format!("{layer}.input_layernorm.weight"), vec![WIDTH]),
        (format!("{layer}.post_attention_layernorm.weight"), vec![WIDTH]),
        (format!("{layer}.self_attn.q_proj.bias"), vec![WIDTH]),
        (format!("{layer}.self_attn.k_proj.bias"), vec![KEYS]),
        (format!("{layer}.self_attn.v_proj.bias"), vec![KEYS]),
    ];
    let matrices = [
        ("self_attn.q_proj", WIDTH, WIDTH),
        ("self_attn.k_proj", KEYS, WIDTH),
        ("self_attn.v_proj", KEYS, WIDTH),
        ("self_attn.o_proj", WIDTH, WIDTH),
        ("mlp.gate_proj", INNER, WIDTH),
        ("mlp.up_proj", INNER, WIDTH),
        ("mlp.down_proj", WIDTH, INNER),
    ];
    let (bytes, fp8) = (noise(Dtype::BF16, 8 * WIDTH), noise(Dtype::F8_E4M3, INNER * WIDTH));
    let scale = 0.1f32.to_le_bytes();
    let view = |dtype, shape: Vec<usize>, bytes| TensorView::new(dtype, shape, bytes).unwrap();
    let mut tensors = vec![("scaled_fp8".to_owned(), view(Dtype::F8_E4M3, vec![0], &[]))];
    for (name, shape) in plain {
        let count: usize = shape.iter().product();
        tensors.push((name, view(Dtype::BF16, shape, &bytes[..2 * count])));
    }
    for (name, outputs, inputs) in matrices {
        let weight = view(Dtype::F8_E4M3, vec![outputs, inputs], &fp8[..outputs * inputs]);
        tensors.push((format!("{layer}.{name}.weight"), weight));
        tensors.push((format!("{layer}.{name}.scale_weight"), view(Dtype::F32, vec![], &scale)));
    }
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

fn layer(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layer.safetensors");
    write(&path);
    let encoder = Encoder::load(Weights::new(File::open(&path).unwrap(), "")).unwrap();
    let positions: Vec<f32> = (0..ROWS).map(|row| row as f32).collect();
    let reading = Reading {
        embeds: Tensor::randn(0f32, 1.0, (1, ROWS, WIDTH), &Device::Cpu).unwrap(),
        positions: std::array::from_fn(|_| positions.clone()),
        counted: vec![true; ROWS],
        first_kept: 0,
    };
    let mut group = criterion.benchmark_group("language");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(20))
        .throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("one layer, 300 tokens", |bench| {
        bench.iter(|| encoder.understand(&reading, &Stop::new()).unwrap());
    });
}

fn tokenizer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tokenizer");
    group.sample_size(10);
    group.bench_function("unpack", |bench| bench.iter(|| Tokenizer::new().unwrap()));
    let tokenizer = Tokenizer::new().unwrap();
    let text = "a photo of a cat wearing sunglasses, warm light, 8k; ".repeat(20);
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("a prompt of 1 kB", |bench| {
        bench.iter(|| entries(&tokenizer, &text, None, 0).unwrap());
    });
}

criterion_group!(benches, tokenizer, layer);
criterion_main!(benches);
