//! The language model: rows of embeddings in, one state per row out.
//!
//! Knows neither text nor pictures. Sizes come from the weights; everything is computed in `f32`, but for what a
//! graphics card computes.

mod on_card;
mod past;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::mlp::Mlp;
use super::rotary::{Rotary, frequencies};
use crate::device::ops::Numbers;
use crate::model::Result;
use crate::model::card::Card;
use crate::model::estimate::Work;
use crate::model::parts::{Embedding, Linear, RmsNorm, attention};
use crate::stop::Stop;
use crate::weights::{Resident, Row, Weights};

use on_card::Place;
pub use past::Past;

const HEAD: usize = 128;
const EPS: f64 = 1e-6;
/// Queries looked at together. A row never sees what comes after it, so a block needs no later keys.
const BLOCK: usize = 512;

/// What the generations differ in.
#[derive(Clone, Copy)]
pub struct Kind {
    pub theta: f32,
    /// The axis (time, height, width) that a pair of a head turns with.
    pub axis: fn(pair: usize) -> usize,
    /// Whether queries and keys are normalised, head by head; where not, they and the values have biases.
    pub normed: bool,
}

/// Rows on their way in.
pub struct Rows<'a> {
    /// (1, rows, width)
    pub embeds: &'a Tensor,
    /// One per row on each axis.
    pub positions: &'a [Vec<f32>; 3],
    /// Whether other rows may look at a row.
    pub counted: &'a [bool],
    /// The rows of each picture, with what is added to them after each of the first layers: (its rows, width).
    pub deep: &'a [(Range<usize>, Vec<Tensor>)],
}

pub struct Language {
    kind: Kind,
    embed: Embedding,
    width: usize,
    layers: Vec<Arc<Layer>>,
    norm: RmsNorm,
    /// Where a graphics card computes the layers.
    place: Option<Place>,
}

impl Language {
    /// Reads the model at `weights`.
    pub fn load(weights: &Weights, kind: Kind) -> Result<Self> {
        let embed = weights.at("embed_tokens");
        let (count, width) = (embed.side("weight", 0)?, embed.side("weight", 1)?);
        let layers = (0..weights.count("layers"))
            .map(|index| Layer::load(&weights.at("layers").at(index), width, kind).map(Arc::new))
            .collect::<Result<_>>()?;
        let norm = RmsNorm::load(&weights.at("norm"), width, EPS)?;
        let embed = Embedding::load(&embed, count, width)?;
        Ok(Self { kind, embed, width, layers, norm, place: None })
    }

    /// The same model with its layers on a card, as far as that is possible. `first`: the part of the first layer.
    pub fn on_card(self, card: &Card, resident: &Resident, first: usize) -> Result<Self> {
        Ok(Self { place: Place::new(card, &self.layers, resident, first)?, ..self })
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The layers up to one that is counted from the end. One from before the first counts as the last, as in ComfyUI.
    fn used(&self, early: Option<usize>) -> &[Arc<Layer>] {
        let early = early.filter(|early| *early <= self.layers.len());
        &self.layers[..self.layers.len() + 1 - early.unwrap_or(1)]
    }

    /// What each layer costs for so many rows.
    pub fn work(&self, rows: usize, early: Option<usize>) -> Vec<Work> {
        self.used(early).iter().map(|layer| layer.work(rows)).collect()
    }

    /// Memory that so many rows take, about, besides the weights.
    pub fn working_bytes(&self, rows: usize) -> u64 {
        // States, norms, queries, keys and values; then the inner width of the MLP four times over.
        const WIDTHS: usize = 8;
        const INNER: usize = 4;
        const PANELS: u64 = 128 << 20;
        let inner = self.layers.first().map_or(0, |layer| layer.mlp.inner());
        (rows * (WIDTHS * self.width + INNER * inner) * size_of::<f32>()) as u64 + PANELS
    }

    /// The embeddings of tokens: (ids, width).
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        self.embed.forward(ids)
    }

    /// Nothing yet of what [`Language::forward`] remembers.
    pub fn nothing_past(&self) -> Vec<Past> {
        self.layers.iter().map(|_| Past::default()).collect()
    }

    /// Memory that so many rows take which are remembered.
    pub fn past_bytes(&self, rows: usize) -> u64 {
        let widths = self.layers.iter().map(|layer| 2 * layer.attention.k.outputs());
        (rows * widths.sum::<usize>() * size_of::<f32>()) as u64
    }

    /// Gives the normalised states after the last layer, (1, rows, width); or, with `early`, those after the layer
    /// that is this many from the end, 1 being the last, not normalised. `past`: what each layer remembers of
    /// the rows before, which are counted too. `weights`: a part for each layer.
    pub fn forward(
        &self,
        rows: &Rows<'_>,
        early: Option<usize>,
        mut past: Option<&mut [Past]>,
        weights: Row<'_, '_>,
        stop: &Stop,
    ) -> Result<Tensor> {
        let Rows { embeds, positions, counted, deep } = *rows;
        let rotary = self.kind.rotary(positions, embeds.device())?;
        let mut x = embeds.clone();
        let early = early.filter(|early| *early <= self.layers.len());
        // A card lets each row look at all before it.
        let place = self.place.as_ref().filter(|_| past.is_none() && counted.iter().all(|counted| *counted));
        if let Some(place) = place {
            x = place.forward(self.used(early), &x, &rotary, stop)?;
        } else {
            for (index, layer) in self.used(early).iter().enumerate() {
                stop.check()?;
                let _weights = weights.part(index)?;
                let past = past.as_deref_mut().and_then(|past| past.get_mut(index));
                x = deepened(&layer.forward(&x, &rotary, counted, past)?, index, deep)?;
            }
        }
        if early.is_some() { Ok(x) } else { self.norm.forward(&x) }
    }
}

impl Kind {
    /// Each pair of a head turns with one of the axes.
    fn rotary(&self, positions: &[Vec<f32>; 3], device: &Device) -> Result<Rotary> {
        let frequencies = frequencies(self.theta, HEAD).into_iter().enumerate();
        let pairs: Vec<_> =
            frequencies.map(|(pair, frequency)| (frequency, &positions[(self.axis)(pair)])).collect();
        let rows = 0..positions[0].len();
        let angles: Vec<f32> =
            rows.flat_map(|row| pairs.iter().map(move |(frequency, axis)| axis[row] * frequency)).collect();
        Rotary::new(&angles, pairs.len(), device)
    }
}

/// The states after a layer with what is added to the rows of pictures there.
fn deepened(x: &Tensor, layer: usize, deep: &[(Range<usize>, Vec<Tensor>)]) -> Result<Tensor> {
    let mut x = x.clone();
    for (rows, features) in deep {
        if let Some(features) = features.get(layer) {
            let states = x.squeeze(0)?;
            let sum = (states.narrow(0, rows.start, rows.len())? + features)?;
            x = states.slice_scatter(&sum, 0, rows.start)?.unsqueeze(0)?;
        }
    }
    Ok(x)
}

struct Layer {
    input_norm: RmsNorm,
    attention: SelfAttention,
    output_norm: RmsNorm,
    mlp: Mlp,
}

impl Layer {
    fn load(weights: &Weights, width: usize, kind: Kind) -> Result<Self> {
        Ok(Self {
            input_norm: RmsNorm::load(&weights.at("input_layernorm"), width, EPS)?,
            attention: SelfAttention::load(&weights.at("self_attn"), width, kind)?,
            output_norm: RmsNorm::load(&weights.at("post_attention_layernorm"), width, EPS)?,
            mlp: Mlp::load(&weights.at("mlp"), width, false)?,
        })
    }

    fn work(&self, rows: usize) -> Work {
        /// Norms, rotations, sums and the activation.
        const PASSES: f64 = 40.0;
        let SelfAttention { q, k, v, o, .. } = &self.attention;
        let products = [q, k, v, o].into_iter().map(|layer| Work::product(layer, rows));
        // No row looks at the ones after it.
        products.sum::<Work>()
            + self.mlp.work(rows)
            + Work::attention(rows, rows.div_ceil(2), q.outputs())
            + Work::passes(PASSES, rows, q.inputs())
    }

    fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        counted: &[bool],
        past: Option<&mut Past>,
    ) -> Result<Tensor> {
        let x = (x + self.attention.forward(&self.input_norm.forward(x)?, rotary, counted, past)?)?;
        self.mlp.forward_onto(&x, &self.output_norm.forward(&x)?)
    }
}

/// Grouped-query attention: each key and value head serves several consecutive query heads.
struct SelfAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// Of queries and of keys, where they have any.
    norms: Option<[RmsNorm; 2]>,
    numbers: Numbers,
}

impl SelfAttention {
    fn load(weights: &Weights, width: usize, kind: Kind) -> Result<Self> {
        let queries = weights.side("q_proj.weight", 0)?;
        let keys = weights.side("k_proj.weight", 0)?;
        let load = if kind.normed { Linear::without_bias } else { Linear::load };
        let norm = |name: &str| RmsNorm::load(&weights.at(name), HEAD, EPS);
        Ok(Self {
            q: load(&weights.at("q_proj"), width, queries)?,
            k: load(&weights.at("k_proj"), width, keys)?,
            v: load(&weights.at("v_proj"), width, keys)?,
            o: Linear::without_bias(&weights.at("o_proj"), queries, width)?,
            norms: if kind.normed { Some([norm("q_norm")?, norm("k_norm")?]) } else { None },
            numbers: weights.numbers(),
        })
    }

    /// `x`: (1, rows, width), the last of the counted rows.
    fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        counted: &[bool],
        past: Option<&mut Past>,
    ) -> Result<Tensor> {
        let rows = x.dim(1)?;
        let known = counted.len() - rows;
        let heads = |linear: &Linear| {
            Ok::<_, crate::model::Error>(linear.forward(x)?.reshape((1, rows, (), HEAD))?)
        };
        let [mut q, mut k] = [heads(&self.q)?, heads(&self.k)?];
        if let Some([q_norm, k_norm]) = &self.norms {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        let q = rotary.apply(&q)?.transpose(1, 2)?; // (1, heads, rows, HEAD)
        let k = rotary.apply(&k)?.transpose(1, 2)?;
        let v = heads(&self.v)?.transpose(1, 2)?;
        let [k, v] = match past {
            Some(past) => past.with([&k, &v])?,
            None => [k, v],
        };
        let mut blocks = Vec::with_capacity(rows.div_ceil(BLOCK));
        for first in (0..rows).step_by(BLOCK) {
            let end = rows.min(first + BLOCK);
            let mask = mask(known + first, &counted[..known + end], x.device())?;
            let q = q.narrow(2, first, end - first)?;
            let scale = (HEAD as f64).powf(-0.5);
            let (k, v) = (k.narrow(2, 0, known + end)?, v.narrow(2, 0, known + end)?);
            blocks.push(attention([&q, &k, &v], scale, Some(&mask), self.numbers)?);
        }
        self.o.forward(&Tensor::cat(&blocks, 1)?.reshape((1, rows, ()))?)
    }
}

/// What queries from row `first` on may look at: (queries, keys), 0 or minus infinity.
fn mask(first: usize, counted: &[bool], device: &Device) -> Result<Tensor> {
    let keys = counted.len();
    let seen = |query: usize, key: usize| key <= query && counted[key];
    let values = (first..keys)
        .flat_map(|query| (0..keys).map(move |key| if seen(query, key) { 0.0 } else { f32::NEG_INFINITY }));
    Ok(Tensor::from_vec(values.collect(), (keys - first, keys), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_see_what_stands_before_them_and_counts() {
        let mask = mask(1, &[true, true, false, true], &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
        let seen: Vec<Vec<bool>> =
            mask.iter().map(|row| row.iter().map(|value| *value == 0.0).collect()).collect();
        assert_eq!(seen, [[true, true, false, false], [true, true, false, false], [true, true, false, true]]);
    }
}
