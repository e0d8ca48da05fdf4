//! Blocks of the diffusion transformer at their real width, with weights by chance: right beside the processor's, and how
//! long one takes.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::super::Result;
use super::super::report::Line;
use crate::device::cuda::cases::Draw;
use crate::model::card::Card;
use crate::model::diffusion::{self, Options};
use crate::model::{Compute, Cond, Diffusion};
use crate::stop::Stop;
use crate::weights::File;

/// The sizes of Qwen-Image, of which two blocks are made.
const REAL: Sizes = Sizes { width: 3072, text_width: 3584 };
const BLOCKS: usize = 60;

/// How far the card may be from results in `f32`, in parts of how far the processor is that rounds to BF16 after each
/// step: a card rounds products, again what is added to them, and the weights of its attention.
pub(super) const AS_CLOSE: f64 = 2.0;

/// The same, as a share, where matrices are rounded to INT8 on the card.
const IN_INT8: f64 = 6e-2;

/// Operations of an RTX 3090 per second.
const BF16: f64 = 71e12;
const INT8: f64 = 284e12;

#[derive(Clone, Copy)]
struct Sizes {
    width: usize,
    text_width: usize,
}

/// Room for a small step and one of its blocks, not for two.
pub(super) const TIGHT: u64 = 600_000_000;

/// Two blocks and what is around them, beside the same on the processor and on a card with little room, then one block in
/// time; in BF16 and in INT8.
pub(super) fn lines([card, tight]: [Card; 2]) -> Result<Vec<Line>> {
    let folder = tempfile::tempdir()?;
    let file = file(&folder.path().join("blocks.safetensors"), REAL)?;
    let on = |card: &Card, eight_bits| load(file.clone(), Compute::Bf16, Some(card.clone()), eight_bits);
    let [exact, rounded] = [Compute::F32, Compute::Bf16]
        .map(|compute| forward(&*load(file.clone(), compute, None, false)?, REAL, [16, 16], 20));
    let (exact, rounded) = (exact?, rounded?);
    let mut lines = Vec::new();
    for (word, eight_bits, allowed, peak) in
        [("BF16", false, AS_CLOSE * distance(&rounded, &exact)?, BF16), ("INT8", true, IN_INT8, INT8)]
    {
        let ours = on(&card, eight_bits)?;
        let found = forward(&*ours, REAL, [16, 16], 20)?;
        let error = distance(&found, &exact)?;
        let told = format!("error {error:.2e}, allowed {allowed:.2e}");
        let place = format!("two blocks of full width in {word}, 64 + 20 tokens");
        lines.push(if error <= allowed {
            Line::ok(place, told)
        } else {
            Line::fail(place, told, "please send the report")
        });
        let again = distance(&forward(&*on(&tight, eight_bits)?, REAL, [16, 16], 20)?, &found)?;
        let (place, told) = ("the same, one block after the other", format!("differs by {again:.2e}"));
        lines.push(if again == 0.0 {
            Line::ok(place, told)
        } else {
            Line::fail(place, told, "weights are used before they arrive; please send the report")
        });
        lines.push(in_time(&*ours, word, peak)?);
    }
    Ok(lines)
}

/// How long a block takes, beside what a card at its peak would take, whose attention is BF16 always.
fn in_time(network: &dyn Diffusion, word: &str, peak: f64) -> Result<Line> {
    // The picture is twice as high instead of a reference: the work is the same.
    let one = network.without_blocks(&[1])?;
    let (one, two) = (seconds(&*one)?, seconds(network)?);
    let (tokens, width) = (8192.0 + 300.0, REAL.width as f64);
    let least = 24.0 * tokens * width * width / peak + 4.0 * tokens * tokens * width / BF16;
    let seconds = two - one;
    Ok(Line::ok(
        format!("one block of full width in {word}, 8192 + 300 tokens"),
        format!(
            "{:.1} ms, an RTX 3090 needs {:.1} at least; {BLOCKS} of them are {:.2} s",
            seconds * 1e3,
            least * 1e3,
            seconds * BLOCKS as f64
        ),
    ))
}

fn load(
    file: Arc<File>,
    compute: Compute,
    card: Option<Card>,
    eight_bits_on_card: bool,
) -> Result<Arc<dyn Diffusion>> {
    Ok(diffusion::load(file, Options { compute, card, eight_bits_on_card, ..Options::default() })?)
}

/// The best time of a forward pass over a picture of 1024x2048, in seconds.
fn seconds(network: &dyn Diffusion) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        let begin = Instant::now();
        forward(network, REAL, [256, 128], 300)?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn forward(network: &dyn Diffusion, sizes: Sizes, [h, w]: [usize; 2], texts: usize) -> Result<Tensor> {
    let mut draw = Draw::new(7);
    let latent = Tensor::from_vec(draw.numbers(16 * h * w, 1.0), (1, 16, 1, h, w), &Device::Cpu)?;
    let text = draw.numbers(texts * sizes.text_width, 1.0);
    let cond = Cond::new(Tensor::from_vec(text, (1, texts, sizes.text_width), &Device::Cpu)?);
    Ok(network.forward(&latent, 0.7, &[&cond], &Stop::new())?.remove(0))
}

/// |found - wanted| / |wanted|.
pub(super) fn distance(found: &Tensor, wanted: &Tensor) -> Result<f64> {
    let norm = |x: &Tensor| -> Result<f64> {
        Ok(x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
    };
    Ok(norm(&(found - wanted)?)? / norm(wanted)?)
}

/// Names and shapes of the network's tensors.
fn layout(Sizes { width, text_width }: Sizes) -> Vec<(String, Vec<usize>)> {
    let mut layout = vec![("txt_norm.weight".to_owned(), vec![text_width])];
    let mut linear = |name: &str, outputs: usize, inputs: usize| {
        layout.push((format!("{name}.weight"), vec![outputs, inputs]));
        layout.push((format!("{name}.bias"), vec![outputs]));
    };
    linear("time_text_embed.timestep_embedder.linear_1", width, 256);
    linear("time_text_embed.timestep_embedder.linear_2", width, width);
    linear("img_in", width, 64);
    linear("txt_in", width, text_width);
    linear("norm_out.linear", 2 * width, width);
    linear("proj_out", 64, width);
    for block in ["transformer_blocks.0", "transformer_blocks.1"] {
        for stream in ["img", "txt"] {
            linear(&format!("{block}.{stream}_mod.1"), 6 * width, width);
            linear(&format!("{block}.{stream}_mlp.net.0.proj"), 4 * width, width);
            linear(&format!("{block}.{stream}_mlp.net.2"), width, 4 * width);
        }
        for name in
            ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"]
        {
            linear(&format!("{block}.attn.{name}"), width, width);
        }
    }
    for block in ["transformer_blocks.0", "transformer_blocks.1"] {
        for name in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
            layout.push((format!("{block}.attn.{name}.weight"), vec![128]));
        }
    }
    layout
}

/// Such a network in FP8, with weights of either sign between 2^-7 and 2^-3.
fn file(path: &Path, sizes: Sizes) -> Result<Arc<File>> {
    let layout = layout(sizes);
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    let most = layout.iter().map(|(_, shape)| count(shape)).max().unwrap_or(0);
    let bytes: Vec<u8> = Draw::new(5).bytes(most).iter().map(|byte| byte & 0x9f).collect();
    let tensors = layout.iter().map(|(name, shape)| {
        Ok((name, TensorView::new(Dtype::F8_E4M3, shape.clone(), &bytes[..count(shape)])?))
    });
    safetensors::serialize_to_file(tensors.collect::<Result<Vec<_>>>()?, None, path)?;
    Ok(File::open(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tensors_make_up_a_network() {
        let folder = tempfile::tempdir().unwrap();
        let sizes = Sizes { width: 128, text_width: 32 };
        let file = file(&folder.path().join("blocks.safetensors"), sizes).unwrap();
        let network = load(file, Compute::F32, None, false).unwrap();
        let [both, one] = [network.clone(), network.without_blocks(&[1]).unwrap()]
            .map(|network| forward(&*network, sizes, [4, 6], 3).unwrap());
        let difference = distance(&one, &both).unwrap();
        assert!(difference > 1e-3 && difference.is_finite(), "{difference}");
    }
}
