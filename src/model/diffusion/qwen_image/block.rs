//! One block: text and picture tokens, each with weights of their own, meet in one attention.

use candle_core::Tensor;

use super::positions::{PAIRS, Rotations};
use super::trunk::Pass;
use crate::model::Result;
use crate::model::estimate::Work;
use crate::model::parts::{
    Linear, RmsNorm, attention, gelu_tanh, map_rows, modulated_norm, with_slices, zip_rows,
};
use crate::weights::Weights;

pub const EPS: f64 = 1e-6;
const HEAD_WIDTH: usize = 2 * PAIRS;

/// The tokens of one conditioning on their way through the blocks: (batch, tokens, width) each.
pub struct Tokens {
    pub text: Tensor,
    pub image: Tensor,
}

impl Tokens {
    /// How many there are, of each item of the batch.
    pub fn count(&self) -> Result<usize> {
        Ok((self.text.dim(1)? + self.image.dim(1)?) * self.text.dim(0)?)
    }
}

pub struct Block {
    text: Stream,
    image: Stream,
}

/// What a timestep makes of a block's modulation weights; the same for every conditioning.
pub struct Modulation {
    text: Vectors,
    image: Vectors,
    /// For references, where they are shown at timestep zero.
    clean: Option<Vectors>,
}

/// (shift, scale, gate) before the attention, then the same before the MLP; `width` numbers each.
type Vectors = [Tensor; 6];

/// The vectors that count for the tokens of a stream: others from some token on, or the same for all.
#[derive(Clone, Copy)]
struct Modulated<'a> {
    first: &'a Vectors,
    later: Option<(usize, &'a Vectors)>,
}

impl Modulation {
    /// What is added first to the picture tokens.
    pub fn first(&self) -> &Tensor {
        &self.image[0]
    }
}

/// The half of a block that serves one kind of tokens.
struct Stream {
    modulation: Linear,
    query: Linear,
    key: Linear,
    value: Linear,
    norm_query: RmsNorm,
    norm_key: RmsNorm,
    out: Linear,
    widen: Linear,
    narrow: Linear,
}

/// Names of a stream's layers: modulation, query, key, value, norms, out, MLP.
type Names = [&'static str; 8];

const TEXT: Names = [
    "txt_mod.1",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.norm_added_q",
    "attn.norm_added_k",
    "attn.to_add_out",
    "txt_mlp",
];
const IMAGE: Names = [
    "img_mod.1",
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.norm_q",
    "attn.norm_k",
    "attn.to_out.0",
    "img_mlp",
];

impl Block {
    pub fn load(weights: &Weights, width: usize) -> Result<Self> {
        Ok(Self { text: Stream::load(weights, width, TEXT)?, image: Stream::load(weights, width, IMAGE)? })
    }

    /// What [`Block::forward`] costs for one picture with so many tokens.
    pub fn work(&self, text: usize, image: usize) -> Work {
        /// In one pass each: two modulated norms, norms and rotation of queries and keys, two gated sums, and the
        /// activation over four times the width.
        const PASSES: f64 = 22.0;
        let (tokens, width) = (text + image, self.image.query.inputs());
        self.text.work(text)
            + self.image.work(image)
            + Work::attention(tokens, tokens, width)
            + Work::passes(PASSES, tokens, width)
    }

    /// What [`Block::modulation`] costs.
    pub fn modulation_work(&self) -> Work {
        Work::product(&self.text.modulation, 1) + Work::product(&self.image.modulation, 1)
    }

    /// `time`: silu of the time embedding, (1, width); `clean`: the same of timestep zero, where a pass needs it.
    pub fn modulation(&self, time: &Tensor, clean: Option<&Tensor>) -> Result<Modulation> {
        Ok(Modulation {
            text: self.text.modulation(time)?,
            image: self.image.modulation(time)?,
            clean: clean.map(|time| self.image.modulation(time)).transpose()?,
        })
    }

    /// The tokens of a pass after this block.
    pub fn forward(&self, pass: &Pass, modulation: &Modulation) -> Result<Tokens> {
        let Pass { tokens, rotations, .. } = pass;
        let for_text = Modulated { first: &modulation.text, later: None };
        let for_image =
            Modulated { first: &modulation.image, later: pass.clean.zip(modulation.clean.as_ref()) };
        let texts = tokens.text.dim(1)?;
        let text = self.text.attend(&tokens.text, for_text, rotations, 0)?;
        let image = self.image.attend(&tokens.image, for_image, rotations, texts)?;
        let [q, k, v] = [0, 1, 2].map(|part| Tensor::cat(&[&text[part], &image[part]], 2));
        let mixed = attention(&q?, &k?, &v?, (HEAD_WIDTH as f64).powf(-0.5), None)?
            .transpose(1, 2)? // (batch, tokens, heads, head width)
            .flatten_from(2)?;
        let images = mixed.dim(1)? - texts;
        Ok(Tokens {
            text: self.text.finish(&tokens.text, &mixed.narrow(1, 0, texts)?, for_text)?,
            image: self.image.finish(&tokens.image, &mixed.narrow(1, texts, images)?, for_image)?,
        })
    }
}

impl Stream {
    fn load(weights: &Weights, width: usize, names: Names) -> Result<Self> {
        let [modulation, query, key, value, norm_query, norm_key, out, mlp] = names;
        let square = |name| Linear::load(&weights.at(name), width, width);
        let inner = 4 * width;
        Ok(Self {
            modulation: Linear::load(&weights.at(modulation), width, 6 * width)?,
            query: square(query)?,
            key: square(key)?,
            value: square(value)?,
            norm_query: RmsNorm::load(&weights.at(norm_query), HEAD_WIDTH, EPS)?,
            norm_key: RmsNorm::load(&weights.at(norm_key), HEAD_WIDTH, EPS)?,
            out: square(out)?,
            widen: Linear::load(&weights.at(mlp).at("net.0.proj"), width, inner)?,
            narrow: Linear::load(&weights.at(mlp).at("net.2"), inner, width)?,
        })
    }

    /// The products for so many tokens.
    fn work(&self, tokens: usize) -> Work {
        let layers = [&self.query, &self.key, &self.value, &self.out, &self.widen, &self.narrow];
        layers.into_iter().map(|layer| Work::product(layer, tokens)).sum()
    }

    fn modulation(&self, time: &Tensor) -> Result<Vectors> {
        let all = self.modulation.forward(time)?.flatten_all()?;
        let width = all.elem_count() / 6;
        let [shift1, scale1, gate1, shift2, scale2, gate2] =
            [0, 1, 2, 3, 4, 5].map(|part| all.narrow(0, part * width, width));
        Ok([shift1?, scale1?, gate1?, shift2?, scale2?, gate2?])
    }

    /// Queries, keys and values: (batch, heads, tokens, head width) each. The tokens sit at `first` and
    /// after in the joint sequence.
    fn attend(
        &self,
        x: &Tensor,
        modulated: Modulated<'_>,
        rotations: &Rotations,
        first: usize,
    ) -> Result<[Tensor; 3]> {
        let (batch, tokens, width) = x.dims3()?;
        let heads = width / HEAD_WIDTH;
        let x = modulated.norm(x, 0)?;
        let by_head = |x: Tensor| x.reshape((batch, tokens, heads, HEAD_WIDTH));
        let turned = |x: Tensor, norm: &RmsNorm| {
            map_rows(&by_head(x)?, |index, row, out| {
                norm.row(row, out);
                rotations.turn(first + index / heads % tokens, out);
            })
        };
        let q = turned(self.query.forward(&x)?, &self.norm_query)?;
        let k = turned(self.key.forward(&x)?, &self.norm_key)?;
        let v = by_head(self.value.forward(&x)?)?;
        Ok([q.transpose(1, 2)?, k.transpose(1, 2)?, v.transpose(1, 2)?])
    }

    /// Adds the attention's result and then the MLP's.
    fn finish(&self, x: &Tensor, attended: &Tensor, modulated: Modulated<'_>) -> Result<Tensor> {
        let x = modulated.sum(x, &self.out.forward(attended)?, 0)?;
        let y = modulated.norm(&x, 1)?;
        let y = self.narrow.forward(&gelu_tanh(&self.widen.forward(&y)?)?)?;
        modulated.sum(&x, &y, 1)
    }
}

impl Modulated<'_> {
    /// The normalised tokens, shifted and scaled; `place` 0 before the attention, 1 before the MLP.
    fn norm(self, x: &Tensor, place: usize) -> Result<Tensor> {
        let norm = |x: &Tensor, vectors: &Vectors| {
            modulated_norm(x, &vectors[3 * place], &vectors[3 * place + 1], EPS as f32)
        };
        let Some((count, later)) = self.later else { return norm(x, self.first) };
        let (first, rest) = parted(x, count)?;
        Ok(Tensor::cat(&[norm(&first, self.first)?, norm(&rest, later)?], 1)?)
    }

    /// `x` and what the attention (`place` 0) or the MLP (1) made of it, as far as the gate lets it through.
    fn sum(self, x: &Tensor, y: &Tensor, place: usize) -> Result<Tensor> {
        let gate = 3 * place + 2;
        let Some((count, later)) = self.later else { return gated_sum(x, &self.first[gate], y) };
        let ((x1, x2), (y1, y2)) = (parted(x, count)?, parted(y, count)?);
        Ok(Tensor::cat(&[gated_sum(&x1, &self.first[gate], &y1)?, gated_sum(&x2, &later[gate], &y2)?], 1)?)
    }
}

/// The first `count` tokens, and the rest.
fn parted(x: &Tensor, count: usize) -> Result<(Tensor, Tensor)> {
    Ok((x.narrow(1, 0, count)?.contiguous()?, x.narrow(1, count, x.dim(1)? - count)?.contiguous()?))
}

/// `x + gate * y`.
fn gated_sum(x: &Tensor, gate: &Tensor, y: &Tensor) -> Result<Tensor> {
    with_slices([gate], |[gate]| {
        zip_rows(x, y, |x, y, out| {
            for (((out, x), y), gate) in out.iter_mut().zip(x).zip(y).zip(gate) {
                *out = x + gate * y;
            }
        })
    })?
}
