//! What cutting a prompt into tokens costs: `cargo bench --bench text`.

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use comfyd::model::text::qwen_vl::tokenizer::Tokenizer;
use comfyd::model::text::qwen2_5_vl::template::entries;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn tokenizer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tokenizer");
    group.sample_size(10);
    group.bench_function("unpack", |bench| bench.iter(|| Tokenizer::new(&[]).unwrap()));
    let tokenizer = Tokenizer::new(&[]).unwrap();
    let text = "a photo of a cat wearing sunglasses, warm light, 8k; ".repeat(20);
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("a prompt of 1 kB", |bench| {
        bench.iter(|| entries(&tokenizer, &text, None, 0).unwrap());
    });
}

criterion_group!(benches, tokenizer);
criterion_main!(benches);
