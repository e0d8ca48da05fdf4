//! Networks at full width beside ComfyUI's, in turns: `cargo bench --bench model -- [CASE]... [--rounds N]`.
//! Two more must be asked for: `product`, one matrix product by several means, and `scaling`, how a block's cost grows.
//!
//! `COMFYUI` names ComfyUI's folder, `PYTHON` the interpreter that runs it; without `COMFYUI` comfyd is measured alone.
//! Both have all threads, and weights of random numbers. What is printed are medians.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic and prints its results")]
#![expect(unsafe_code, reason = "loops of instructions that the baseline lacks")]

#[path = "model/ceiling.rs"]
mod ceiling;
#[path = "model/peer.rs"]
mod peer;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use comfyd::device::ops::{self, Factor, Matrix, MatrixMut, Numbers, Threads, Unit, gemm};
use comfyd::model::diffusion::Options;
use comfyd::model::layouts::PUBLISHED;
use comfyd::model::text::qwen_vl::Reading;
use comfyd::model::text::qwen2_5_vl::Encoder;
use comfyd::model::{Compute, Cond, diffusion, vae};
use comfyd::stop::Stop;
use comfyd::weights::{File, Layout, Weights};
use half::bf16;
use peer::Peer;

/// What is measured: a name that the peer knows too, and what has to be computed.
struct Case {
    name: &'static str,
    about: &'static str,
    gflop: f64,
    /// Builds the case for an arithmetic; called, it runs it once.
    build: fn(Compute) -> Box<dyn Fn() + Send + Sync>,
    /// What the peer is asked for: names and precisions.
    peers: &'static [(&'static str, &'static str)],
}

const BOTH: &[(&str, &str)] = &[("", "f32"), ("", "bf16")];

const CASES: &[Case] = &[
    Case {
        name: "block",
        about: "one MMDiT block, 1024 + 64 tokens, fp8 weights",
        gflop: 261.0,
        build: block,
        peers: &[("", "f32"), ("", "bf16"), ("-resident", "bf16")],
    },
    Case { name: "decode", about: "VAE, decode 512x512", gflop: 1074.0, build: decode, peers: BOTH },
    Case { name: "encode", about: "VAE, encode 512x512", gflop: 610.0, build: encode, peers: BOTH },
    Case {
        name: "language",
        about: "text encoder, 4 layers, 300 tokens, fp8 weights",
        gflop: 559.0,
        build: language,
        peers: BOTH,
    },
    Case {
        name: "vision",
        about: "vision tower, 8 blocks, 784 patches, fp8 weights",
        gflop: 265.0,
        build: vision,
        peers: BOTH,
    },
];

const TEXT_WIDTH: usize = 3584;
const LATENT: usize = 16;

/// The tensors of the published files: diffusion model, text encoder, VAE.
fn layouts() -> [Layout; 3] {
    PUBLISHED.each_ref().map(|published| published.layout().unwrap())
}

/// A file of random numbers that lasts as long as what maps it.
fn random(layout: &Layout) -> Arc<File> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    layout.write_random(&path, 1, &mut |_| Ok(())).unwrap();
    File::open(path).unwrap()
}

fn noise_of(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn block(compute: Compute) -> Box<dyn Fn() + Send + Sync> {
    block_of(compute, 64, 64)
}

/// One block over a latent of (h, w), which has a quarter as many tokens, and 64 tokens of text.
fn block_of(compute: Compute, h: usize, w: usize) -> Box<dyn Fn() + Send + Sync> {
    let options = Options { compute, ..Options::default() };
    let [network, ..] = layouts();
    let network = diffusion::load(random(&network.first_of("transformer_blocks.", 1)), options).unwrap();
    let latent = noise_of(&[1, LATENT, 1, h, w]);
    let cond = Cond::new(noise_of(&[1, 64, TEXT_WIDTH]));
    Box::new(move || drop(network.forward(&latent, 0.5, &[&cond], &Stop::new()).unwrap()))
}

fn decode(compute: Compute) -> Box<dyn Fn() + Send + Sync> {
    let [.., vae] = layouts();
    let vae = vae::load(random(&vae), compute).unwrap();
    let latent = noise_of(&[1, LATENT, 1, 64, 64]);
    Box::new(move || drop(vae.decode(&latent, &Stop::new()).unwrap()))
}

fn encode(compute: Compute) -> Box<dyn Fn() + Send + Sync> {
    let [.., vae] = layouts();
    let vae = vae::load(random(&vae), compute).unwrap();
    // A picture that was encoded before is known.
    Box::new(move || drop(vae.encode(&noise_of(&[1, 512, 512, 3]), &Stop::new()).unwrap()))
}

fn text(compute: Compute, layers: usize, blocks: usize) -> Encoder {
    let [_, layout, _] = layouts();
    let layout = layout.first_of("model.layers.", layers).first_of("visual.blocks.", blocks);
    Encoder::load(Weights::new(random(&layout), "").multiplied_with(compute.numbers())).unwrap()
}

fn language(compute: Compute) -> Box<dyn Fn() + Send + Sync> {
    const ROWS: usize = 300;
    let encoder = text(compute, 4, 1);
    let positions: Vec<f32> = (0..ROWS).map(|row| row as f32).collect();
    let reading = Reading {
        embeds: noise_of(&[1, ROWS, TEXT_WIDTH]),
        positions: std::array::from_fn(|_| positions.clone()),
        pictures: Vec::new(),
        counted: vec![true; ROWS],
        first_kept: 0,
    };
    Box::new(move || drop(encoder.understand(&reading, &Stop::new()).unwrap()))
}

fn vision(compute: Compute) -> Box<dyn Fn() + Send + Sync> {
    let encoder = text(compute, 1, 8);
    // A picture that was seen before is known.
    let picture = || Tensor::rand(0f32, 1.0, (1, 392, 392, 3), &Device::Cpu).unwrap();
    Box::new(move || drop(encoder.look(&picture(), &Stop::new()).unwrap()))
}

fn seconds(run: &dyn Fn()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Runs a case in turns and prints a line for each way.
fn measure(case: &Case, rounds: usize, peer: &mut Option<Peer>, ceilings: (f64, Option<f64>)) {
    let ours = [("comfyd", Compute::F32), ("comfyd --fast", Compute::Fast)];
    let mut ways: Vec<(String, Vec<f64>)> =
        ours.iter().map(|(name, _)| ((*name).to_owned(), Vec::new())).collect();
    let runs = ours.map(|(_, compute)| (case.build)(compute));
    for run in &runs {
        run();
    }
    let asked: Vec<(String, &str)> =
        case.peers.iter().map(|(kind, precision)| (format!("{}{kind}", case.name), *precision)).collect();
    if let Some(peer) = peer {
        for (name, precision) in &asked {
            peer.run(name, precision);
            ways.push((format!("ComfyUI {precision}{}", &name[case.name.len()..]), Vec::new()));
        }
    }
    for _ in 0..rounds {
        for (run, (_, times)) in runs.iter().zip(&mut ways) {
            times.push(seconds(run));
        }
        for ((name, precision), (_, times)) in asked.iter().zip(ways.iter_mut().skip(ours.len())) {
            times.extend(peer.as_mut().map(|peer| peer.run(name, precision)));
        }
    }
    println!("\n{} ({} GFLOP), {rounds} rounds", case.about, case.gflop);
    let medians: Vec<f64> = ways.iter_mut().map(|(_, times)| median(times)).collect();
    for (index, ((way, _), time)) in ways.iter().zip(&medians).enumerate() {
        let rate = case.gflop / time;
        let share =
            ceilings.1.map_or(String::new(), |most| format!(", {:3.0}% of BF16", 100.0 * rate / most));
        let beside = medians[..ours.len().min(index)].iter().zip(&ours);
        let beside: Vec<_> =
            beside.map(|(ours, (name, _))| format!("  {:5.2}x {name}", time / ours)).collect();
        let beside = beside.concat();
        println!("{way:26} {:8.1} ms {rate:6.0} GFLOP/s{share}{beside}", 1e3 * time);
    }
}

/// The product behind most of the time, by the `gemm` crate and by the processor's unit.
fn product(rounds: usize) {
    const ROWS: usize = 1024;
    const INPUTS: usize = 3072;
    const OUTPUTS: usize = 12_288;
    let numbers = |count: usize| -> Vec<f32> {
        (0..count).map(|index| bf16::from_f32((index * 37 % 101) as f32 / 50.0 - 1.0).to_f32()).collect()
    };
    let (x, w, mut y) = (numbers(ROWS * INPUTS), numbers(INPUTS * OUTPUTS), vec![0.0; ROWS * OUTPUTS]);
    let narrow: Vec<bf16> = w.iter().map(|value| bf16::from_f32(*value)).collect();
    let read = |row: usize, first: usize, to: &mut [bf16]| {
        to.copy_from_slice(&narrow[row * INPUTS + first..][..to.len()]);
    };
    let mut time = |name: &str, run: &mut dyn FnMut(&mut [f32])| {
        let mut times: Vec<f64> = (0..=rounds)
            .map(|_| {
                let start = Instant::now();
                run(&mut y);
                start.elapsed().as_secs_f64()
            })
            .skip(1)
            .collect();
        let time = median(&mut times);
        let rate = 2.0 * (ROWS * INPUTS * OUTPUTS) as f64 / time / 1e9;
        println!("{name:26} {:8.1} ms {rate:6.0} GFLOP/s", 1e3 * time);
    };
    println!("\none product, {ROWS} x {INPUTS} x {OUTPUTS}, {rounds} rounds");
    time("gemm crate, f32", &mut |y| {
        let (x, w) =
            (Matrix::by_rows(&x, ROWS, INPUTS, INPUTS), Matrix::by_rows(&w, OUTPUTS, INPUTS, INPUTS));
        gemm(x, w.transposed(), MatrixMut::by_rows(y, ROWS, OUTPUTS, OUTPUTS), false, Threads::All);
    });
    for unit in Unit::all() {
        for numbers in [Numbers::Exact, Numbers::Rounded] {
            time(&format!("{}, {numbers:?}", unit.word()), &mut |y| {
                let factor = Factor::Narrow(&read);
                ops::multiply(*unit, (&x, numbers), [INPUTS, OUTPUTS], &factor, y, &|_, _, _| ());
            });
        }
    }
}

/// How the cost of a block grows with picture tokens (a picture of 512x512 has 1024, and each reference adds its own),
/// and what a second thread gains.
fn scaling() {
    println!("\none block, seconds by tokens of pictures and threads");
    let threads = rayon::current_num_threads();
    for (h, w) in [(32, 32), (64, 64), (64, 128), (128, 128), (128, 256)] {
        let mut line = format!("{:6} tokens", h * w / 4);
        for (name, compute) in [("F32", Compute::F32), ("--fast", Compute::Fast)] {
            let run = block_of(compute, h, w);
            run();
            let all = seconds(&*run);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            let one = pool.install(|| seconds(&*run));
            let _ = write!(line, "   {name}: {all:6.2} on {threads}, {one:6.2} on one");
        }
        println!("{line}");
    }
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let mut rounds = 5;
    if let Some(place) = arguments.iter().position(|word| word == "--rounds") {
        rounds = arguments.remove(place + 1).parse().unwrap();
        arguments.remove(place);
    }
    let ceilings = ceiling::measure();
    println!(
        "ceiling: {:.0} GFLOP/s of f32, {:.0} of BF16 by tiles",
        ceilings.0,
        ceilings.1.unwrap_or(f64::NAN)
    );
    let mut peer = Peer::start();
    for case in
        CASES.iter().filter(|case| arguments.is_empty() || arguments.iter().any(|word| word == case.name))
    {
        measure(case, rounds, &mut peer, ceilings);
    }
    if arguments.iter().any(|word| word == "product") {
        product(rounds);
    }
    if arguments.iter().any(|word| word == "scaling") {
        scaling();
    }
}
