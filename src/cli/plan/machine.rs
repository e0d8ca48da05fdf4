//! What a device can do: as its maker says and experience expects, or as it is measured.

use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};

use crate::cli::Result;
use crate::device;
use crate::model::Compute;
use crate::model::estimate::Work;
use crate::model::parts::{Linear, attention};
use crate::weights::{File, Layout, Weights};

/// The words of `--device`.
pub(super) const NAMES: [&str; 2] = ["cpu", "rtx3090"];

/// A device in figures.
pub(super) struct Machine {
    pub(super) name: &'static str,
    /// In bytes: what it has, and what of it is never free.
    pub(super) memory: u64,
    pub(super) overhead: u64,
    /// Whether weights that left come again at next to no cost.
    pub(super) keeps_close: bool,
    /// Bytes per second on the way of weights to it.
    pub(super) way: f64,
    /// Operations per second at best, and the shares of that which kinds of work reach.
    pub(super) peak: f64,
    products: f64,
    attention: f64,
    convolutions: f64,
    /// The same of whole numbers; and of the bytes moved around such products, what it moves of them.
    whole_peak: f64,
    whole: f64,
    around_whole: f64,
    /// Bytes per second of its memory that are reached.
    traffic: f64,
    /// Bytes of a number between the products.
    number: f64,
    /// Bytes moved in its memory for each byte of weights that is used.
    weights: f64,
    /// What is taken for granted above and only a run can tell.
    pub(super) assumptions: &'static [&'static str],
    /// What others need for a known job, in words.
    pub(super) reported: Option<&'static str>,
}

impl Machine {
    pub(super) fn named(name: &str, compute: Compute, scratch: &Path) -> Result<Self> {
        if name == "cpu" { Self::this_processor(compute, scratch) } else { Ok(Self::rtx_3090()) }
    }

    fn rtx_3090() -> Self {
        Self {
            name: "rtx3090",
            memory: 24 << 30,
            overhead: 500_000_000,
            keeps_close: false,
            way: 25e9,
            peak: 71e12,
            products: 0.60,
            attention: 0.55,
            convolutions: 0.33,
            // NVIDIA's "Ampere GA102 GPU architecture" (2020), of the RTX 3090 without sparsity; so are the 71 of BF16.
            whole_peak: 284e12,
            whole: 0.50,
            around_whole: 1.0,
            traffic: 0.8 * 936e9,
            number: 2.0,
            // Eight bits are read, sixteen written, and those read by the product.
            weights: 5.0,
            assumptions: &[
                "matrix products reach 60 % of the 71 TFLOP/s that the card has for BF16 with sums in F32, attention 55 %, \
                 convolutions 33 %, whose inputs are written as a matrix and read back",
                "products of INT8 (files in INT8, and --fast) reach 50 % of 284 TOPS; rows are turned and rounded before \
                 them, and sums scaled after, in passes over the card's memory; rounding blocks when they come takes no \
                 longer than widening them in each step",
                "diffusion model, text encoder and VAE are the card's; what stays with the processor (embeddings, samplers, the \
                 ends of the networks, videos in the VAE) takes no time",
                "its memory moves 80 % of 936 GB/s; each use of a matrix in eight bits costs 5 bytes of traffic per weight",
                "the bus brings 25 GB/s from pinned memory, beside the work (12 from pageable memory)",
                "0.5 GB are taken by context and libraries, and nobody else uses the card",
                "work that is not arithmetic (launches, the host between steps) hides behind it",
            ],
            reported: Some("ComfyUI on this card, 20 steps at cfg 2.5, models loaded: 314.8 s as reported"),
        }
    }

    /// Measured for a moment with the code that would do the work.
    fn this_processor(compute: Compute, scratch: &Path) -> Result<Self> {
        let products = measured_product(compute, scratch)?;
        let attention = measured_attention(compute)?;
        let peak = products.max(attention);
        Ok(Self {
            name: "cpu",
            memory: device::limit(),
            overhead: device::usage().own,
            keeps_close: true,
            way: 1e9,
            peak,
            products: products / peak,
            attention: attention / peak,
            convolutions: products / peak,
            // Widened, they are multiplied as everything else.
            whole_peak: peak,
            whole: products / peak,
            around_whole: 0.0,
            traffic: 8e9,
            number: 4.0,
            weights: 0.0,
            assumptions: &[
                "products and attention are as fast as a moment ago, convolutions as products",
                "weights come from the disk at 1 GB/s; those in the system's cache come faster",
                "memory moves 8 GB/s between the products",
            ],
            reported: None,
        })
    }

    /// How long work takes.
    pub(super) fn seconds(&self, work: &Work) -> f64 {
        let arithmetic = (work.products - work.whole) / self.products
            + work.attention / self.attention
            + work.convolutions / self.convolutions;
        let whole = work.whole / self.whole / self.whole_peak;
        let bytes =
            work.numbers * self.number + work.weights * self.weights + work.around_whole * self.around_whole;
        arithmetic / self.peak + whole + bytes / self.traffic
    }

    /// How long it takes at least.
    pub(super) fn floor(&self, work: &Work) -> f64 {
        (work.operations() - work.whole) / self.peak + work.whole / self.whole_peak
    }

    /// What work that takes so many bytes in F32 takes here.
    pub(super) fn working_bytes(&self, in_f32: u64) -> u64 {
        (in_f32 as f64 * self.number / size_of::<f32>() as f64) as u64
    }
}

/// Operations per second of something that is done a few times.
fn rate(operations: f64, mut work: impl FnMut() -> Result) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        work()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(operations / best)
}

/// Rows of what is measured.
const ROWS: usize = 1024;
const WIDTH: usize = 3072;

fn measured_product(compute: Compute, scratch: &Path) -> Result<f64> {
    let path = scratch.join("matrix.safetensors");
    Layout::parse(&format!("F8_E4M3 {WIDTH}x{WIDTH} weight"))?.write_random(&path, 1, &mut |_| Ok(()))?;
    let weights = Weights::new(File::open(&path)?, "").multiplied_with(compute.numbers());
    let linear = Linear::without_bias(&weights, WIDTH, WIDTH)?;
    let x = Tensor::randn(0f32, 1.0, (ROWS, WIDTH), &Device::Cpu)?.to_dtype(compute.dtype())?;
    rate(Work::product(&linear, ROWS).operations(), || {
        linear.forward(&x)?;
        Ok(())
    })
}

fn measured_attention(compute: Compute) -> Result<f64> {
    const HEAD: usize = 128;
    let heads = WIDTH / HEAD;
    let x = Tensor::randn(0f32, 1.0, (1, heads, ROWS, HEAD), &Device::Cpu)?.to_dtype(compute.dtype())?;
    rate(Work::attention(ROWS, ROWS, WIDTH).operations(), || {
        attention([&x, &x, &x], (HEAD as f64).powf(-0.5), None, compute.numbers())?;
        Ok(())
    })
}
