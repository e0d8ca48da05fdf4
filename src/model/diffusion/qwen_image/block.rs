//! One block: text and picture tokens, each with weights of their own, meet in one attention.

mod on_card;

pub use on_card::{BlockOnCard, ModulationOnCard, Sequence, Workspace};

use candle_core::{DType, Device, Tensor};

use super::positions::Extent;
use crate::device::ops::{Attention, Heads, LaidOut, Numbers, sized, vectorised, zeros};
use crate::model::Result;
use crate::model::diffusion::axes::{HEAD_WIDTH, Rotations};
use crate::model::estimate::Work;
use crate::model::parts::{
    Input, Linear, RmsNorm, add_gated, each_row, gelu_tanh, modulated_row, round_to, with_slices,
};
use crate::weights::Weights;

pub const EPS: f64 = 1e-6;

/// Rows that go through the MLP together: enough to make reading its weights again cheap, and few enough for its four
/// times as wide middle to stay small.
const MLP_ROWS: usize = 2048;

/// The tokens of one conditioning on their way through the blocks: (batch, tokens, width) each.
#[derive(Clone)]
pub struct Tokens {
    pub text: Tensor,
    pub image: Tensor,
}

impl Tokens {
    /// How many there are of one item of the batch, text and picture together.
    pub fn length(&self) -> Result<usize> {
        Ok(self.text.dim(1)? + self.image.dim(1)?)
    }

    /// How many there are, of each item of the batch.
    pub fn count(&self) -> Result<usize> {
        Ok(self.length()? * self.text.dim(0)?)
    }
}

/// One conditioning on its way through the network.
pub struct Pass {
    pub tokens: Tokens,
    pub rotations: Rotations,
    /// The sides of the noisy latent.
    pub target: Extent,
    /// The first picture token that is shown as free of noise, if any is.
    pub clean: Option<usize>,
}

pub struct Block {
    text: Stream,
    image: Stream,
    numbers: Numbers,
}

/// Memory that blocks work in, used again by the next one.
#[derive(Default)]
pub struct Room {
    normed: Vec<f32>,
    laid_out: LaidOut,
    /// Of the joint sequence: queries, keys, values, and what they come to.
    joint: [Vec<f32>; 4],
    /// Tokens between attention and MLP.
    between: Vec<f32>,
    inner: Vec<f32>,
}

/// What a timestep makes of a block's modulation weights; the same for every conditioning.
pub struct Modulation {
    text: Vectors,
    image: Vectors,
    /// For references, where they are shown at timestep zero.
    clean: Option<Vectors>,
}

/// (shift, scale, gate) before the attention, then the same before the MLP; `width` numbers each.
struct Vectors(Vec<f32>);

impl Vectors {
    fn part(&self, index: usize) -> &[f32] {
        let width = self.0.len() / 6;
        &self.0[index * width..][..width]
    }
}

/// The vectors that count for the tokens of a stream: others from some token on, or the same for all.
#[derive(Clone, Copy)]
struct Modulated<'a> {
    first: &'a Vectors,
    later: Option<(usize, &'a Vectors)>,
}

impl<'a> Modulated<'a> {
    /// One of the vectors, for a token.
    fn part(self, token: usize, index: usize) -> &'a [f32] {
        match self.later {
            Some((count, later)) if token >= count => later.part(index),
            _ => self.first.part(index),
        }
    }

    /// The vectors that count from a token on.
    fn after(self, token: usize) -> Self {
        Self { later: self.later.map(|(count, later)| (count.saturating_sub(token), later)), ..self }
    }

    /// Writes the normalised tokens, shifted and scaled by the vectors from `index` on.
    fn norm(self, x: &[f32], (width, rounded): (usize, bool), index: usize, out: &mut [f32]) {
        each_row(out, width, |row, out| {
            let vectors = [self.part(row, index), self.part(row, index + 1)];
            modulated_row(&x[row * width..][..width], vectors, EPS as f32, out);
        });
        if rounded {
            round_to(DType::BF16, out);
        }
    }
}

impl Modulation {
    /// What is added first to the picture tokens.
    pub fn first(&self) -> Result<Tensor> {
        let shift = self.image.part(0);
        Ok(Tensor::from_slice(shift, shift.len(), &Device::Cpu)?)
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
        let stream = |names| Stream::load(weights, width, names);
        Ok(Self { text: stream(TEXT)?, image: stream(IMAGE)?, numbers: weights.numbers() })
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

    /// Takes the tokens of a pass through this block.
    pub fn forward(&self, pass: &mut Pass, modulation: &Modulation, room: &mut Room) -> Result<()> {
        let Pass { tokens, rotations, clean, .. } = pass;
        let for_text = Modulated { first: &modulation.text, later: None };
        let for_image = Modulated { first: &modulation.image, later: clean.zip(modulation.clean.as_ref()) };
        let (batch, texts, width) = tokens.text.dims3()?;
        let count = texts + tokens.image.dim(1)?;
        let rounded = tokens.text.dtype() == DType::BF16;
        let arithmetic = (self.numbers, rounded);
        let Room { normed, laid_out, joint, between, inner } = room;
        let [q, k, v, mixed] = joint.each_mut().map(|part| sized(part, batch * count * width));
        let streams =
            [(&self.text, &tokens.text, for_text, 0), (&self.image, &tokens.image, for_image, texts)];
        for (stream, x, modulated, first) in streams {
            with_slices([x], |[x]| {
                for (index, x) in x.chunks((x.len() / batch).max(1)).enumerate() {
                    let normed = sized(normed, x.len());
                    modulated.norm(x, (width, rounded), 0, normed);
                    let place = (index * count + first) * width..(index * count + first) * width + x.len();
                    let parts = [&mut q[place.clone()], &mut k[place.clone()], &mut v[place]];
                    stream.attend((normed, arithmetic), laid_out, (rotations, first), parts);
                }
            })?;
        }
        let heads = |data| Heads {
            data,
            size: [batch, width / HEAD_WIDTH, count, HEAD_WIDTH],
            strides: [count * width, HEAD_WIDTH, width],
        };
        let scale = (HEAD_WIDTH as f32).powf(-0.5);
        let (queries, keys, values) = (heads(&*q), heads(&*k), heads(&*v));
        Attention { queries, keys, values, scale, mask: None, numbers: arithmetic.0 }.run(mixed);
        if rounded {
            round_to(DType::BF16, mixed);
        }
        let mut finish = |stream: &Stream, x: &Tensor, modulated, first: usize| {
            let mut out = zeros(x.elem_count());
            with_slices([x], |[x]| {
                let item = (x.len() / batch).max(1);
                for (index, (x, out)) in x.chunks(item).zip(out.chunks_mut(item)).enumerate() {
                    let mixed = &mixed[(index * count + first) * width..][..item];
                    let room = ([&mut *normed, &mut *between, &mut *inner], &mut *laid_out);
                    stream.finish(x, (mixed, arithmetic), modulated, room, out);
                }
            })?;
            Ok::<_, crate::model::Error>(Tensor::from_vec(out, x.shape(), &Device::Cpu)?.to_dtype(x.dtype())?)
        };
        tokens.text = finish(&self.text, &tokens.text, for_text, 0)?;
        tokens.image = finish(&self.image, &tokens.image, for_image, texts)?;
        Ok(())
    }
}

impl Stream {
    fn load(weights: &Weights, width: usize, names: Names) -> Result<Self> {
        let [modulation, query, key, value, norm_query, norm_key, out, mlp] = names;
        let eight_bits = weights.eight_bits_on_cards();
        let large = |weights: &Weights, inputs, outputs| -> Result<_> {
            Ok(Linear::load(weights, inputs, outputs)?.in_eight_bits_on_cards(eight_bits))
        };
        let square = |name| large(&weights.at(name), width, width);
        let inner = 4 * width;
        Ok(Self {
            // One row for each step, which everything is scaled by: eight bits would gain nothing.
            modulation: Linear::load(&weights.at(modulation), width, 6 * width)?,
            query: square(query)?,
            key: square(key)?,
            value: square(value)?,
            norm_query: RmsNorm::load(&weights.at(norm_query), HEAD_WIDTH, EPS)?,
            norm_key: RmsNorm::load(&weights.at(norm_key), HEAD_WIDTH, EPS)?,
            out: square(out)?,
            widen: large(&weights.at(mlp).at("net.0.proj"), width, inner)?,
            narrow: large(&weights.at(mlp).at("net.2"), inner, width)?,
        })
    }

    /// The products for so many tokens.
    fn work(&self, tokens: usize) -> Work {
        let layers = [&self.query, &self.key, &self.value, &self.out, &self.widen, &self.narrow];
        layers.into_iter().map(|layer| Work::product(layer, tokens)).sum()
    }

    fn modulation(&self, time: &Tensor) -> Result<Vectors> {
        let all = self.modulation.forward(time)?.flatten_all()?;
        Ok(Vectors(all.to_dtype(DType::F32)?.to_vec1()?))
    }

    /// Writes queries, keys and values of normalised tokens: rows of all heads. The tokens sit at `first` and after
    /// in the joint sequence.
    fn attend(
        &self,
        (normed, arithmetic): (&[f32], (Numbers, bool)),
        laid_out: &mut LaidOut,
        (rotations, first): (&Rotations, usize),
        [q, k, v]: [&mut [f32]; 3],
    ) {
        let x = Input::laid_out(normed, self.query.inputs(), arithmetic, laid_out);
        let turned = |norm: &RmsNorm, row: usize, part: &mut [f32]| {
            for head in part.chunks_mut(HEAD_WIDTH) {
                norm.row_in_place(head);
                rotations.turn(first + row, head);
            }
        };
        self.query.apply(x, q, &|row, _, part| turned(&self.norm_query, row, part));
        self.key.apply(x, k, &|row, _, part| turned(&self.norm_key, row, part));
        self.value.apply(x, v, &|_, _, _| ());
    }

    /// Adds the attention's result to tokens, and then the MLP's.
    fn finish(
        &self,
        x: &[f32],
        (attended, arithmetic): (&[f32], (Numbers, bool)),
        modulated: Modulated<'_>,
        ([normed, between, inner], laid_out): ([&mut Vec<f32>; 3], &mut LaidOut),
        out: &mut [f32],
    ) {
        let width = self.out.inputs();
        let between = sized(between, x.len());
        let attended = Input::laid_out(attended, width, arithmetic, laid_out);
        self.out.apply(attended, between, &|row, first, part| {
            add_gated(&x[row * width + first..], &modulated.part(row, 2)[first..], part);
        });
        for (index, (x, out)) in
            between.chunks(MLP_ROWS * width).zip(out.chunks_mut(MLP_ROWS * width)).enumerate()
        {
            let before = index * MLP_ROWS;
            let normed = sized(normed, x.len());
            modulated.after(before).norm(x, (width, arithmetic.1), 3, normed);
            let inner = sized(inner, x.len() / width * self.widen.outputs());
            self.widen.apply(Input::laid_out(normed, width, arithmetic, laid_out), inner, &|_, _, part| {
                activate(part);
            });
            let wide = Input::laid_out(inner, self.widen.outputs(), arithmetic, laid_out);
            self.narrow.apply(wide, out, &|row, first, part| {
                add_gated(&x[row * width + first..], &modulated.part(before + row, 5)[first..], part);
            });
        }
    }
}

vectorised! {
    fn activate(y: &mut [f32]) {
        for y in y {
            *y = gelu_tanh(*y);
        }
    }
}
