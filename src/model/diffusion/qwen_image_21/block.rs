//! One block: text and pictures are one stream of tokens, under one modulation for all blocks.

use candle_core::{DType, Tensor};

use super::sequence::Piece;
use crate::device::ops::{Attention, Heads, LaidOut, Numbers, sized, vectorised};
use crate::model::Result;
use crate::model::diffusion::axes::{HEAD_WIDTH, Rotations};
use crate::model::estimate::Work;
use crate::model::parts::{Input, Linear, RmsNorm, add_gated, each_row, modulated_row, round_to, silu};
use crate::weights::Weights;

pub const EPS: f64 = 1e-6;

/// Rows that go through the MLP together: enough to make reading its weights again cheap, and few enough for its wide
/// middle to stay small.
const MLP_ROWS: usize = 2048;

pub struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    norm_query: RmsNorm,
    norm_key: RmsNorm,
    out: Linear,
    gate: Linear,
    widen: Linear,
    narrow: Linear,
    numbers: Numbers,
}

/// What a timestep makes of the modulation.
pub struct Modulation {
    /// Before the attention, then before the MLP.
    scales: [Vec<f32>; 2],
    /// After each.
    gates: [Vec<f32>; 2],
    /// Nothing is shifted.
    shift: Vec<f32>,
    rounded: bool,
}

/// Tokens on their way through the blocks.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    pub modulation: &'a Modulation,
    /// Of the whole sequence.
    pub rotations: &'a Rotations,
    /// What they see; the first of these begins where they do.
    pub pieces: &'a [Piece],
}

/// Memory that blocks work in, used again by the next one.
#[derive(Default)]
pub struct Room {
    normed: Vec<f32>,
    laid_out: LaidOut,
    queries: Vec<f32>,
    /// Of the whole sequence: keys and values.
    seen: [Vec<f32>; 2],
    mixed: Vec<f32>,
    mask: Vec<f32>,
    /// Tokens between attention and MLP.
    between: Vec<f32>,
    inner: [Vec<f32>; 2],
}

impl Room {
    /// Makes room for the keys and values of so many numbers; what was in it may be lost.
    pub fn begin(&mut self, count: usize) {
        for seen in &mut self.seen {
            sized(seen, count);
        }
    }

    /// Keys and values of the first tokens: so many numbers of each.
    pub fn seen(&mut self, count: usize) -> [&mut [f32]; 2] {
        self.seen.each_mut().map(|seen| &mut seen[..count])
    }
}

impl Modulation {
    /// Of (1, 4 width): scale and gate of the attention, then of the MLP.
    pub fn new(all: &Tensor) -> Result<Self> {
        let rounded = all.dtype() == DType::BF16;
        let all: Vec<f32> = all.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let width = all.len() / 4;
        let part = |index: usize| all[index * width..][..width].to_vec();
        let gate = |index: usize| {
            let mut gate: Vec<f32> = part(index).into_iter().map(f32::tanh).collect();
            if rounded {
                round_to(DType::BF16, &mut gate);
            }
            gate
        };
        Ok(Self { scales: [part(0), part(2)], gates: [gate(1), gate(3)], shift: vec![0.0; width], rounded })
    }

    /// Writes the normalised tokens, scaled for the attention (0) or the MLP (1).
    fn norm(&self, x: &[f32], half: usize, out: &mut [f32]) {
        let width = self.shift.len();
        each_row(out, width, |row, out| {
            let vectors = [&self.shift[..], &self.scales[half]];
            modulated_row(&x[row * width..][..width], vectors, EPS as f32, out);
        });
        if self.rounded {
            round_to(DType::BF16, out);
        }
    }
}

impl Block {
    pub fn load(weights: &Weights, width: usize) -> Result<Self> {
        let linear = |name: &str, inputs, outputs| Linear::without_bias(&weights.at(name), inputs, outputs);
        let norm = |name: &str| RmsNorm::load(&weights.at(name), HEAD_WIDTH, EPS);
        let inner = weights.side_or("img_mlp.proj.weight", 0, 3 * width);
        Ok(Self {
            query: linear("attn.to_q", width, width)?,
            key: linear("attn.to_k", width, width)?,
            value: linear("attn.to_v", width, width)?,
            norm_query: norm("attn.norm_q")?,
            norm_key: norm("attn.norm_k")?,
            out: linear("attn.to_out.0", width, width)?,
            gate: linear("img_mlp.gate_layer", width, inner)?,
            widen: linear("img_mlp.proj", width, inner)?,
            narrow: linear("img_mlp.out", inner, width)?,
            numbers: weights.numbers(),
        })
    }

    /// What [`Block::forward`] costs for tokens that see so much.
    pub fn work(&self, pieces: &[Piece]) -> Work {
        /// In one pass each: two modulated norms, norms and rotation of queries and keys, two gated sums, and the
        /// activation and its product over three times the width.
        const PASSES: f64 = 29.0;
        let width = self.query.inputs();
        let rows = pieces.iter().map(|piece| piece.rows.len()).sum();
        let layers = [&self.query, &self.key, &self.value, &self.out, &self.gate, &self.widen, &self.narrow];
        let seeing = pieces.iter().map(|piece| Work::attention(piece.rows.len(), piece.rows.end, width));
        layers.into_iter().map(|layer| Work::product(layer, rows)).chain(seeing).sum::<Work>()
            + Work::passes(PASSES, rows, width)
    }

    /// Takes tokens of one sequence through this block. Keys and values of those before them are in the room, and
    /// theirs are put after those.
    pub fn forward(&self, x: &mut [f32], way: Way<'_>, room: &mut Room) {
        let Some(first) = way.pieces.first().map(|piece| piece.rows.start) else { return };
        self.attend(x, first, way, room);
        self.look(x.len(), first, way, room);
        self.finish(x, way.modulation, room);
    }

    /// Makes queries, keys and values.
    fn attend(&self, x: &[f32], first: usize, way: Way<'_>, room: &mut Room) {
        let width = self.query.inputs();
        let Room { normed, laid_out, queries, seen: [keys, values], .. } = room;
        let normed = sized(normed, x.len());
        way.modulation.norm(x, 0, normed);
        let arithmetic = (self.numbers, way.modulation.rounded);
        let input = Input::laid_out(normed, width, arithmetic, laid_out);
        let turned = |norm: &RmsNorm, row: usize, part: &mut [f32]| {
            for head in part.chunks_mut(HEAD_WIDTH) {
                norm.row_in_place(head);
                way.rotations.turn(first + row, head);
            }
        };
        let place = first * width..first * width + x.len();
        let queries = sized(queries, x.len());
        self.query.apply(input, queries, &|row, _, part| turned(&self.norm_query, row, part));
        self.key.apply(input, &mut keys[place.clone()], &|row, _, part| turned(&self.norm_key, row, part));
        self.value.apply(input, &mut values[place], &|_, _, _| ());
    }

    /// Mixes the values that the queries see.
    fn look(&self, count: usize, first: usize, way: Way<'_>, room: &mut Room) {
        let width = self.query.inputs();
        let Room { queries, seen: [keys, values], mixed, mask, .. } = room;
        let heads = |data, rows| Heads {
            data,
            size: [1, width / HEAD_WIDTH, rows, HEAD_WIDTH],
            strides: [rows * width, HEAD_WIDTH, width],
        };
        let mixed = sized(mixed, count);
        for Piece { rows, causal } in way.pieces {
            let place = (rows.start - first) * width..(rows.end - first) * width;
            let attention = Attention {
                queries: heads(&queries[place.clone()], rows.len()),
                keys: heads(keys, rows.end),
                values: heads(values, rows.end),
                scale: (HEAD_WIDTH as f32).powf(-0.5),
                mask: causal.then(|| hide_later(mask, rows.start, rows.len())),
                numbers: self.numbers,
            };
            attention.run(&mut mixed[place]);
        }
        if way.modulation.rounded {
            round_to(DType::BF16, mixed);
        }
    }

    /// Adds the attention's result to tokens, and then the MLP's.
    fn finish(&self, x: &mut [f32], modulation: &Modulation, room: &mut Room) {
        let (width, wide) = (self.out.inputs(), self.widen.outputs());
        let arithmetic = (self.numbers, modulation.rounded);
        let Room { normed, laid_out, mixed, between, inner: [gates, inner], .. } = room;
        let between = sized(between, x.len());
        let [for_attention, for_mlp] = &modulation.gates;
        let attended = Input::laid_out(&mixed[..x.len()], width, arithmetic, laid_out);
        self.out.apply(attended, between, &|row, first, part| {
            add_gated(&x[row * width + first..], &for_attention[first..], part);
        });
        for (x, out) in between.chunks(MLP_ROWS * width).zip(x.chunks_mut(MLP_ROWS * width)) {
            let normed = sized(normed, x.len());
            modulation.norm(x, 1, normed);
            let input = Input::laid_out(normed, width, arithmetic, laid_out);
            let [gates, inner] = [&mut *gates, &mut *inner].map(|room| sized(room, x.len() / width * wide));
            self.gate.apply(input, gates, &|_, _, part| activate(part));
            self.widen.apply(input, inner, &|row, first, part| multiply(&gates[row * wide + first..], part));
            let input = Input::laid_out(inner, wide, arithmetic, laid_out);
            self.narrow.apply(input, out, &|row, first, part| {
                add_gated(&x[row * width + first..], &for_mlp[first..], part);
            });
        }
    }
}

/// What hides from each of some tokens, the first of which is `first` of the sequence, those that come after it.
fn hide_later(room: &mut Vec<f32>, first: usize, count: usize) -> &[f32] {
    let keys = first + count;
    let mask = sized(room, count * keys);
    each_row(mask, keys, |row, mask| {
        let (before, after) = mask.split_at_mut(first + row + 1);
        before.fill(0.0);
        after.fill(f32::NEG_INFINITY);
    });
    mask
}

vectorised! {
    fn activate(y: &mut [f32]) {
        for y in y {
            *y = silu(*y);
        }
    }
}

vectorised! {
    fn multiply(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y *= x);
    }
}
