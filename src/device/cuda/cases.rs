//! What every machine has to get right: each kernel, with random numbers of many sizes, against its twin.

use half::bf16;

use super::launch::{self, Address, Attention, Convolution, HEAD_WIDTH, Launch, Size};
use super::machine::{Buffer, Machine, Numbers, Product, bf16_bytes, bf16_values, f32_bytes, f32_values};
use super::{Result, twins};
use crate::device::MersenneTwister;

/// Differs by one rounding to BF16: half a unit of its eight bits.
const ROUNDED: f64 = 1.0 / 256.0;

/// The kernel takes its twin's very steps.
const EXACT: f64 = 0.0;

/// What an attention may differ by: its weights are rounded to BF16 as well before they meet the values.
const ATTENTION: f64 = 1.0 / 100.0;

/// What 127 steps make of a sum of normally distributed products.
const EIGHT_BITS: f64 = 1.0 / 20.0;

const EPS: f32 = 1e-6;

/// One kernel with one size.
pub struct Case {
    pub kernel: &'static str,
    pub sizes: String,
    /// How far a result may be from the twin's: |result - twin| / (|twin| + typical |twin|).
    pub tolerance: f64,
    run: Box<dyn Fn(&mut Bench<'_>) -> Result>,
}

/// How a case went.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub error: f64,
    /// Everything that came out.
    pub results: Vec<u8>,
}

impl Case {
    fn new(
        kernel: &'static str,
        sizes: String,
        tolerance: f64,
        run: impl Fn(&mut Bench<'_>) -> Result + 'static,
    ) -> Self {
        Self { kernel, sizes, tolerance, run: Box::new(run) }
    }

    /// Runs the kernel on a machine and its twin here.
    pub fn check(&self, machine: &mut dyn Machine) -> Result<Finding> {
        let seed = crc32fast::hash(format!("{} {}", self.kernel, self.sizes).as_bytes());
        let finding = Finding { error: 0.0, results: Vec::new() };
        let mut bench = Bench { machine, draw: Draw::new(seed), finding };
        (self.run)(&mut bench)?;
        bench.machine.clear()?;
        Ok(bench.finding)
    }
}

/// Numbers by chance, the same for the same seed.
pub struct Draw(MersenneTwister);

impl Draw {
    pub fn new(seed: u32) -> Self {
        Self(MersenneTwister::new(seed))
    }

    fn uniform(&mut self) -> f32 {
        (self.0.word() >> 8) as f32 / (1 << 24) as f32
    }

    /// About normally distributed numbers that BF16 holds.
    pub fn numbers(&mut self, count: usize, spread: f32) -> Vec<f32> {
        let mut one = || {
            let sum = (0..4).map(|_| self.uniform()).sum::<f32>() - 2.0;
            bf16::from_f32(sum * spread * 3f32.sqrt()).to_f32()
        };
        (0..count).map(|_| one()).collect()
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.0.word() >> 11) as u8).collect()
    }
}

/// A case at work.
struct Bench<'a> {
    machine: &'a mut dyn Machine,
    draw: Draw,
    finding: Finding,
}

impl Bench<'_> {
    fn bf16(&mut self, values: &[f32]) -> Result<Address> {
        Ok(self.machine.upload(&bf16_bytes(values))?.at)
    }

    fn f32(&mut self, values: &[f32]) -> Result<Address> {
        Ok(self.machine.upload(&f32_bytes(values))?.at)
    }

    /// The whole numbers of a matrix, and the scales of its rows.
    fn quantised(&mut self, values: &[f32], size: Size) -> Result<(Address, Address)> {
        let (out, scales) = (self.machine.blank(values.len())?.at, self.machine.blank(4 * size.rows)?.at);
        let launch = launch::quantise_rows(self.bf16(values)?, out, scales, size);
        self.machine.launch(&launch)?;
        Ok((out, scales))
    }

    /// Runs, reads the result, and compares.
    fn launch(&mut self, launch: &Launch, out: Buffer, read: fn(&[u8]) -> Vec<f32>, want: &[f64]) -> Result {
        self.machine.launch(launch)?;
        self.judge(out, read, want)
    }

    fn judge(&mut self, out: Buffer, read: fn(&[u8]) -> Vec<f32>, want: &[f64]) -> Result {
        let bytes = self.machine.download(out)?;
        self.finding.error = self.finding.error.max(distance(&read(&bytes), want));
        self.finding.results.extend(bytes);
        Ok(())
    }
}

/// The worst of |got - want| / (|want| + typical |want|); infinite where only one of them is a number.
pub fn distance(got: &[f32], want: &[f64]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let numbers = want.iter().filter(|want| want.is_finite());
    let typical = (numbers.map(|want| want * want).sum::<f64>() / want.len().max(1) as f64).sqrt();
    let one = |(got, want): (&f32, &f64)| {
        let got = f64::from(*got);
        match (got.is_nan(), want.is_nan()) {
            (true, true) => 0.0,
            (false, false) => (got - want).abs() / (want.abs() + typical).max(f64::MIN_POSITIVE),
            _ => f64::INFINITY,
        }
    };
    got.iter().zip(want).map(one).fold(0.0, f64::max)
}

/// Every case, small enough for a processor that acts out a card.
pub fn all() -> Vec<Case> {
    let widths = [1, 7, 8, 33, 129, 768, 1000, 3072];
    let sizes = [(1, 1), (3, 7), (2, 8), (5, 33), (67, 129), (9, 768), (31, 1000), (4, 3072)];
    let sizes = sizes.map(|(rows, width)| Size { rows, width });
    let mut cases: Vec<Case> = [1, 7, 8, 255, 256, 2049, 100_003].map(fp8_to_bf16).into();
    cases.extend(widths.map(|width| layer_norm_modulate(Size { rows: 3, width })));
    cases.extend(widths.map(|width| rms_norm(Size { rows: 3, width })));
    cases.extend([[1, 1], [5, 3], [33, 24]].map(norm_rope));
    cases.extend([[1, 1], [5, 3], [33, 28]].map(rope_halves));
    cases.extend(sizes.map(gated_sum));
    cases.extend(sizes.map(add_bias));
    cases.extend(sizes.map(bias_gelu));
    cases.extend(sizes.map(bias_gelu_erf));
    cases.extend(sizes.map(silu_product));
    cases.extend(attentions());
    cases.extend(sizes.map(softmax_rows));
    cases.extend(convolutions());
    let pictures = [(1, 8), (7, 32), (70, 96), (9, 264), (33, 384)];
    let pictures = pictures.map(|(rows, width)| Size { rows, width });
    cases.extend(pictures.map(channel_norm));
    cases.extend(pictures.map(channel_sum));
    cases.extend([(4, 1), (16, 3), (64, 50), (256, 7), (1024, 3)].map(turn_groups));
    cases.extend(sizes.map(quantise_rows));
    cases.extend(sizes.map(rescale));
    for numbers in [Numbers::Bf16, Numbers::Bf16Sums] {
        cases.extend([[1, 8, 8], [5, 33, 7], [70, 256, 96]].map(|sizes| product(sizes, numbers)));
    }
    cases.extend([[1, 16, 8], [70, 256, 96]].map(int8_product));
    cases
}

fn fp8_to_bf16(count: usize) -> Case {
    Case::new("fp8_to_bf16", format!("{count}"), EXACT, move |bench| {
        // All codes, then codes by chance.
        let codes: Vec<u8> = (0..=u8::MAX).chain(bench.draw.bytes(count)).take(count).collect();
        for scale in [1.0, 0.0123, 3.5e-3] {
            let src = bench.machine.upload(&codes)?.at;
            let dst = bench.machine.blank(2 * count)?;
            let want = twins::fp8_to_bf16(&codes, scale);
            bench.launch(&launch::fp8_to_bf16(src, dst.at, scale, count), dst, bf16_values, &want)?;
        }
        Ok(())
    })
}

fn sized(size: Size) -> String {
    format!("{} x {}", size.rows, size.width)
}

fn layer_norm_modulate(size: Size) -> Case {
    Case::new("layer_norm_modulate", sized(size), ROUNDED, move |bench| {
        // Away from zero, where a careless variance loses its digits.
        let x: Vec<f32> = bench
            .draw
            .numbers(size.rows * size.width, 2.0)
            .iter()
            .map(|x| bf16::from_f32(x + 40.0).to_f32())
            .collect();
        let (shift, scale) = (bench.draw.numbers(size.width, 1.0), bench.draw.numbers(size.width, 1.0));
        let want = twins::layer_norm_modulate(&x, &shift, &scale, EPS);
        let out = bench.machine.blank(2 * x.len())?;
        let vectors = [bench.bf16(&shift)?, bench.bf16(&scale)?];
        let launch = launch::layer_norm_modulate(bench.bf16(&x)?, vectors, out.at, size, EPS);
        bench.launch(&launch, out, bf16_values, &want)
    })
}

fn rms_norm(size: Size) -> Case {
    Case::new("rms_norm", sized(size), ROUNDED, move |bench| {
        let x = bench.draw.numbers(size.rows * size.width, 5.0);
        let weight = bench.draw.numbers(size.width, 1.0);
        let want = twins::rms_norm(&x, &weight, EPS);
        let out = bench.machine.blank(2 * x.len())?;
        let launch = launch::rms_norm(bench.bf16(&x)?, bench.bf16(&weight)?, out.at, size, EPS);
        bench.launch(&launch, out, bf16_values, &want)
    })
}

fn norm_rope([tokens, heads]: [usize; 2]) -> Case {
    Case::new("norm_rope", format!("{tokens} x {heads} x {HEAD_WIDTH}"), ROUNDED, move |bench| {
        let x = bench.draw.numbers(tokens * heads * HEAD_WIDTH, 3.0);
        let weight = bench.draw.numbers(HEAD_WIDTH, 1.0);
        let angles: Vec<f32> = bench.draw.numbers(tokens * HEAD_WIDTH / 2, 10.0);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip();
        let want = twins::norm_rope(&x, &weight, &cos, &sin, heads, EPS);
        let in_place = bench.machine.upload(&bf16_bytes(&x))?;
        let tables = [bench.f32(&cos)?, bench.f32(&sin)?];
        let launch = launch::norm_rope(in_place.at, bench.bf16(&weight)?, tables, [tokens, heads], EPS);
        bench.launch(&launch, in_place, bf16_values, &want)
    })
}

fn rope_halves([tokens, heads]: [usize; 2]) -> Case {
    Case::new("rope_halves", format!("{tokens} x {heads} x {HEAD_WIDTH}"), ROUNDED, move |bench| {
        let x = bench.draw.numbers(tokens * heads * HEAD_WIDTH, 3.0);
        let angles: Vec<f32> = bench.draw.numbers(tokens * HEAD_WIDTH / 2, 10.0);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip();
        let want = twins::rope_halves(&x, &cos, &sin, heads);
        let in_place = bench.machine.upload(&bf16_bytes(&x))?;
        let tables = [bench.f32(&cos)?, bench.f32(&sin)?];
        bench.launch(&launch::rope_halves(in_place.at, tables, [tokens, heads]), in_place, bf16_values, &want)
    })
}

fn gated_sum(size: Size) -> Case {
    Case::new("gated_sum", sized(size), EXACT, move |bench| {
        let count = size.rows * size.width;
        let (x, y) = (bench.draw.numbers(count, 1.0), bench.draw.numbers(count, 1.0));
        let gate = bench.draw.numbers(size.width, 1.0);
        let want = twins::gated_sum(&x, &gate, &y);
        let in_place = bench.machine.upload(&bf16_bytes(&x))?;
        let launch = launch::gated_sum(in_place.at, bench.bf16(&gate)?, bench.bf16(&y)?, size);
        bench.launch(&launch, in_place, bf16_values, &want)
    })
}

fn add_bias(size: Size) -> Case {
    with_bias("add_bias", launch::add_bias, twins::add_bias, size)
}

fn bias_gelu(size: Size) -> Case {
    with_bias("bias_gelu", launch::bias_gelu, twins::bias_gelu, size)
}

fn bias_gelu_erf(size: Size) -> Case {
    with_bias("bias_gelu_erf", launch::bias_gelu_erf, twins::bias_gelu_erf, size)
}

fn with_bias(
    name: &'static str,
    launch: fn(Address, Address, Size) -> Launch,
    twin: fn(&[f32], &[f32]) -> Vec<f64>,
    size: Size,
) -> Case {
    Case::new(name, sized(size), ROUNDED, move |bench| {
        let x = bench.draw.numbers(size.rows * size.width, 3.0);
        let bias = bench.draw.numbers(size.width, 1.0);
        let in_place = bench.machine.upload(&bf16_bytes(&x))?;
        let launch = launch(in_place.at, bench.bf16(&bias)?, size);
        bench.launch(&launch, in_place, bf16_values, &twin(&x, &bias))
    })
}

fn silu_product(size: Size) -> Case {
    Case::new("silu_product", sized(size), ROUNDED, move |bench| {
        let count = size.rows * size.width;
        // Far enough from zero for both ends of the gate.
        let (x, y) = (bench.draw.numbers(count, 20.0), bench.draw.numbers(count, 3.0));
        let want = twins::silu_product(&x, &y);
        let in_place = bench.machine.upload(&bf16_bytes(&x))?;
        let launch = launch::silu_product(in_place.at, bench.bf16(&y)?, size);
        bench.launch(&launch, in_place, bf16_values, &want)
    })
}

fn attentions() -> Vec<Case> {
    let scale = (HEAD_WIDTH as f32).powf(-0.5);
    let sequences = 1;
    let case = |queries, keys, heads, key_heads, causal| {
        attention(Attention { queries, keys, heads, key_heads, scale, causal, sequences }, 1.0)
    };
    let mut cases = vec![
        case(1, 1, 1, 1, false),
        case(64, 64, 2, 2, false),
        case(65, 129, 3, 3, false),
        case(17, 200, 2, 2, false),
        case(130, 63, 1, 1, false),
        case(70, 77, 4, 2, false),
        case(100, 100, 2, 1, true),
        case(37, 130, 7, 1, true),
        // As many keys as a picture with a reference and its text have.
        case(20, 8492, 1, 1, false),
    ];
    // Scores far apart: nearly all of a weight is one key's.
    let sizes =
        Attention { queries: 66, keys: 150, heads: 1, key_heads: 1, scale: 1.0, causal: false, sequences };
    cases.push(attention(sizes, 12.0));
    // Windows of a picture.
    let windows = Attention { queries: 16, keys: 16, heads: 2, key_heads: 2, scale, sequences: 3, ..sizes };
    cases.push(attention(windows, 1.0));
    cases.push(attention(Attention { queries: 65, keys: 70, sequences: 2, causal: true, ..windows }, 1.0));
    cases
}

fn attention(sizes: Attention, spread: f32) -> Case {
    let Attention { queries, keys, heads, key_heads, causal, sequences, .. } = sizes;
    let kind = if causal { ", causal" } else { "" };
    let name =
        format!("{sequences} x {queries} x {keys}, {heads} / {key_heads} heads{kind}, spread {spread}");
    Case::new("attention", name, ATTENTION, move |bench| {
        let (queries, keys) =
            (sequences * queries * heads * HEAD_WIDTH, sequences * keys * key_heads * HEAD_WIDTH);
        let q = bench.draw.numbers(queries, spread);
        let (k, v) = (bench.draw.numbers(keys, spread), bench.draw.numbers(keys, 1.0));
        let want = twins::attention(&sizes, [&q, &k, &v]);
        let out = bench.machine.blank(2 * queries)?;
        let launch = sizes.launch([bench.bf16(&q)?, bench.bf16(&k)?, bench.bf16(&v)?], out.at);
        bench.launch(&launch, out, bf16_values, &want)
    })
}

fn convolutions() -> Vec<Case> {
    let same = Convolution {
        channels: 24,
        h: 9,
        w: 13,
        kernel: [3, 3],
        stride: 1,
        above: 1,
        left: 1,
        zoom: 1,
        out_w: 13,
    };
    vec![
        picture_columns(same, 0, 9),
        picture_columns(same, 4, 3),
        // Half as large: padded below and right only.
        picture_columns(Convolution { stride: 2, above: 0, left: 0, out_w: 6, ..same }, 0, 4),
        picture_columns(Convolution { stride: 2, above: 0, left: 0, h: 8, w: 12, out_w: 6, ..same }, 1, 3),
        // Twice as large.
        picture_columns(Convolution { zoom: 2, out_w: 26, ..same }, 5, 13),
        picture_columns(Convolution { channels: 40, kernel: [1, 1], above: 0, left: 0, ..same }, 0, 9),
        picture_columns(Convolution { channels: 8, h: 1, w: 1, out_w: 1, ..same }, 0, 1),
    ]
}

fn picture_columns(sizes: Convolution, first_row: usize, rows: usize) -> Case {
    let Convolution { channels, h, w, kernel: [kernel_h, kernel_w], stride, zoom, .. } = sizes;
    let name = format!(
        "{h} x {w} x {channels}, {kernel_h} x {kernel_w} by {stride}, zoom {zoom}, rows {first_row}+{rows}"
    );
    Case::new("picture_columns", name, EXACT, move |bench| {
        let x = bench.draw.numbers(channels * h * w, 1.0);
        let want = twins::picture_columns(&sizes, &x, first_row, rows);
        let out = bench.machine.blank(2 * want.len())?;
        let launch = sizes.columns(bench.bf16(&x)?, out.at, first_row, rows);
        bench.launch(&launch, out, bf16_values, &want)
    })
}

fn softmax_rows(size: Size) -> Case {
    Case::new("softmax_rows", sized(size), ROUNDED, move |bench| {
        let x = bench.draw.numbers(size.rows * size.width, 20.0);
        let want = twins::softmax_rows(&x, size.width, 0.3);
        let out = bench.machine.blank(2 * x.len())?;
        let launch = launch::softmax_rows(bench.f32(&x)?, out.at, size, 0.3);
        bench.launch(&launch, out, bf16_values, &want)
    })
}

fn channel_norm(size: Size) -> Case {
    Case::new("channel_norm", sized(size), ROUNDED, move |bench| {
        let mut x = bench.draw.numbers(size.rows * size.width, 5.0);
        // A place of nothing has no length to divide by.
        x[..size.width].fill(if size.rows > 1 { 0.0 } else { -1.0 });
        let weight = bench.draw.numbers(size.width, 1.0);
        for with_silu in [false, true] {
            let want = twins::channel_norm(&x, &weight, with_silu);
            let out = bench.machine.blank(2 * x.len())?;
            let (x, weight) = (bench.bf16(&x)?, bench.bf16(&weight)?);
            let launch = launch::channel_norm(x, weight, out.at, size, with_silu);
            bench.launch(&launch, out, bf16_values, &want)?;
        }
        Ok(())
    })
}

fn channel_sum(size: Size) -> Case {
    Case::new("channel_sum", sized(size), ROUNDED, move |bench| {
        let count = size.rows * size.width;
        let (sum, added) = (bench.draw.numbers(count, 3.0), bench.draw.numbers(count, 2.0));
        let bias = bench.draw.numbers(size.width, 1.0);
        let [places, bias_there] = [bench.bf16(&added)?, bench.bf16(&bias)?];
        for added in [None, Some((&added[..], places))] {
            let want = twins::channel_sum(&sum, &bias, added.map(|(values, _)| values));
            let in_place = bench.machine.upload(&bf16_bytes(&sum))?;
            let added = added.map(|(_, at)| at);
            let launch = launch::channel_sum(in_place.at, bias_there, added, in_place.at, size);
            bench.launch(&launch, in_place, bf16_values, &want)?;
        }
        Ok(())
    })
}

fn turn_groups((group, groups): (usize, usize)) -> Case {
    Case::new("turn_groups", format!("{groups} x {group}"), ROUNDED, move |bench| {
        let x = bench.draw.numbers(groups * group, 2.0);
        let want = twins::turn_groups(&x, group);
        let (there, out) = (bench.bf16(&x)?, bench.machine.blank(2 * x.len())?);
        bench.launch(&launch::turn_groups(there, out.at, group, x.len()), out, bf16_values, &want)?;
        let in_place = bench.machine.upload(&bf16_bytes(&x))?;
        let launch = launch::turn_groups(in_place.at, in_place.at, group, x.len());
        bench.launch(&launch, in_place, bf16_values, &want)
    })
}

fn quantise_rows(size: Size) -> Case {
    Case::new("quantise_rows", sized(size), EXACT, move |bench| {
        let mut x = bench.draw.numbers(size.rows * size.width, 3.0);
        // A row of nothing has no scale to divide by.
        x[..size.width].fill(if size.rows > 1 { 0.0 } else { -1.0 });
        let (want, scales) = twins::quantise_rows(&x, size.width);
        let (out, out_scales) = (bench.machine.blank(x.len())?, bench.machine.blank(4 * size.rows)?);
        let read = |bytes: &[u8]| bytes.iter().map(|byte| f32::from(byte.cast_signed())).collect();
        let launch = launch::quantise_rows(bench.bf16(&x)?, out.at, out_scales.at, size);
        bench.launch(&launch, out, read, &want)?;
        bench.judge(out_scales, f32_values, &scales)
    })
}

fn rescale(size: Size) -> Case {
    Case::new("rescale", sized(size), ROUNDED, move |bench| {
        let sums: Vec<i32> =
            bench.draw.numbers(size.rows * size.width, 2e6).iter().map(|sum| *sum as i32 + 12_345).collect();
        let (rows, columns) = (bench.draw.numbers(size.rows, 1e-3), bench.draw.numbers(size.width, 1e-3));
        let want = twins::rescale(&sums, &rows, &columns);
        let sums: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let sums = bench.machine.upload(&sums)?.at;
        let out = bench.machine.blank(2 * want.len())?;
        let scales = [bench.f32(&rows)?, bench.f32(&columns)?];
        let launch = launch::rescale(sums, scales, out.at, size);
        bench.launch(&launch, out, bf16_values, &want)
    })
}

/// No kernel of ours, but what lies between them.
fn product([rows, inputs, outputs]: [usize; 3], numbers: Numbers) -> Case {
    let sums = numbers == Numbers::Bf16Sums;
    let (name, bytes) = if sums { ("product in BF16 to F32", 4) } else { ("product in BF16", 2) };
    let read = if sums { f32_values } else { bf16_values };
    Case::new(name, format!("{rows} x {inputs} x {outputs}"), ROUNDED, move |bench| {
        let (x, w) = (bench.draw.numbers(rows * inputs, 1.0), bench.draw.numbers(outputs * inputs, 1.0));
        let want = twins::multiply(&x, &w, inputs);
        let (x, w) = (bench.bf16(&x)?, bench.bf16(&w)?);
        let out = bench.machine.blank(bytes * want.len())?;
        bench.machine.multiply(&Product { numbers, rows, inputs, outputs, x, w, out: out.at })?;
        bench.judge(out, read, &want)
    })
}

/// The way of a product through eight bits.
fn int8_product([rows, inputs, outputs]: [usize; 3]) -> Case {
    Case::new("product in INT8", format!("{rows} x {inputs} x {outputs}"), EIGHT_BITS, move |bench| {
        let (x, w) = (bench.draw.numbers(rows * inputs, 1.0), bench.draw.numbers(outputs * inputs, 1.0));
        let want = twins::multiply(&x, &w, inputs);
        let (x, x_scales) = bench.quantised(&x, Size { rows, width: inputs })?;
        let (w, w_scales) = bench.quantised(&w, Size { rows: outputs, width: inputs })?;
        let sums = bench.machine.blank(4 * want.len())?.at;
        bench.machine.multiply(&Product {
            numbers: Numbers::Int8,
            rows,
            inputs,
            outputs,
            x,
            w,
            out: sums,
        })?;
        let out = bench.machine.blank(2 * want.len())?;
        let size = Size { rows, width: outputs };
        let launch = launch::rescale(sums, [x_scales, w_scales], out.at, size);
        bench.launch(&launch, out, bf16_values, &want)
    })
}
