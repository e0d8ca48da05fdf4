//! The vision tower: patches in, one token per cell of 2 x 2 patches out, and beside it what some blocks found, which
//! the language model adds to its first layers (DeepStack: Meng et al., 2024).
//!
//! Every block looks at the whole picture. Sizes come from the weights, but for the number of heads, and for the blocks
//! that are asked what they found; everything is computed in `f32`.

mod places;

use candle_core::{IndexOp, Tensor};

use self::places::Places;
use super::super::qwen_vl::picture::{AREA, Cut, FRAMES, Grid};
use super::super::qwen_vl::rotary::{Rotary, frequencies};
use super::super::qwen_vl::{Seen, Tower};
use super::PICTURES;
use crate::device::ops::Numbers;
use crate::model::Result;
use crate::model::card::Card;
use crate::model::estimate::Work;
use crate::model::parts::{LayerNorm, Linear, attention, gelu, gelu_tanh};
use crate::stop::Stop;
use crate::weights::{Resident, Row, Weights};

/// In all sizes of the model, of whatever width.
const HEADS: usize = 16;
const EPS: f64 = 1e-6;
const THETA: f32 = 10_000.0;

/// The blocks that are asked what they found: `deepstack_visual_indexes` of the published `config.json`, which is
/// [8, 16, 24] for the 27 blocks of the 8B model and larger ones, and [5, 11, 17] for the 24 blocks of 4B and 2B. Any
/// other number of blocks is asked at equal distances up to the last.
fn asked(blocks: usize, count: usize) -> Vec<usize> {
    match (blocks, count) {
        (24, 3) => vec![5, 11, 17],
        _ => (1..=count).map(|number| number * (blocks.saturating_sub(1) / count)).collect(),
    }
}

pub struct Vision {
    /// (width, values of a patch)
    embed: Tensor,
    embed_bias: Tensor,
    places: Places,
    blocks: Vec<Block>,
    merger: Merger,
    /// The blocks that are asked what they found, with what makes tokens of it.
    deep: Vec<(usize, Merger)>,
}

impl Tower for Vision {
    const CUT: &'static Cut = &PICTURES;
    const AROUND: &'static [&'static str] =
        &["patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed.weight"];

    fn load(weights: &Weights, outputs: usize) -> Result<Self> {
        let (width, patch) = (weights.side("patch_embed.proj.weight", 0)?, PICTURES.patch);
        let embed = weights.at("patch_embed.proj");
        let blocks = (0..weights.count("blocks"))
            .map(|index| Block::load(&weights.at("blocks").at(index), width))
            .collect::<Result<Vec<_>>>()?;
        let list = weights.at("deepstack_merger_list");
        let deep = asked(blocks.len(), weights.count("deepstack_merger_list"))
            .into_iter()
            .enumerate()
            .map(|(index, block)| Ok((block, Merger::load(&list.at(index), [width, outputs], true)?)));
        Ok(Self {
            embed: embed.tensor("weight", &[width, 3, FRAMES, patch, patch])?.flatten_from(1)?,
            embed_bias: embed.tensor("bias", &[width])?,
            places: Places::load(&weights.at("pos_embed"), width)?,
            deep: deep.collect::<Result<_>>()?,
            merger: Merger::load(&weights.at("merger"), [width, outputs], false)?,
            blocks,
        })
    }

    /// No card here knows how.
    fn on_card(self, _card: &Card, _resident: &Resident, _parts: [usize; 2]) -> Result<Self> {
        Ok(self)
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block_of(&self, tensor: &str) -> Option<usize> {
        let inside = tensor.strip_prefix("deepstack_merger_list.")?;
        let index: usize = inside.split('.').next()?.parse().ok()?;
        self.deep.get(index).map(|(block, _)| *block)
    }

    fn work(&self, grid: Grid) -> Vec<Work> {
        /// Norms, rotations, sums and the activation.
        const PASSES: f64 = 40.0;
        let rows = AREA * grid.cells();
        let block = |(index, block): (usize, &Block)| {
            let width = block.proj.outputs();
            let products = [&block.qkv, &block.proj, &block.first, &block.second];
            let products: Work = products.into_iter().map(|layer| Work::product(layer, rows)).sum();
            let asked = self.deep.iter().filter(|(asked, _)| *asked == index);
            products
                + asked.map(|(_, merger)| merger.work(grid)).sum()
                + Work::attention(rows, rows, width)
                + Work::passes(PASSES, rows, width)
        };
        self.blocks.iter().enumerate().map(block).chain([self.merger.work(grid)]).collect()
    }

    fn working_bytes(&self, grid: Grid) -> u64 {
        // States, norms, queries, keys and values, some of them twice; then the inner width of the MLP.
        const WIDTHS: usize = 12;
        const PANELS: u64 = 128 << 20;
        let widths =
            self.blocks.first().map_or(0, |block| WIDTHS * block.proj.outputs() + block.first.outputs());
        (AREA * grid.cells() * widths * size_of::<f32>()) as u64 + PANELS
    }

    fn forward(&self, patches: &Tensor, grid: Grid, weights: Row<'_, '_>, stop: &Stop) -> Result<Seen> {
        let x = patches.matmul(&self.embed.t()?)?.broadcast_add(&self.embed_bias)?;
        let mut x = (x + self.places.of(grid)?)?.unsqueeze(0)?;
        let rotary = rotary(grid, x.dim(2)? / HEADS)?;
        let mut deep = Vec::with_capacity(self.deep.len());
        for (index, block) in self.blocks.iter().enumerate() {
            stop.check()?;
            let _weights = weights.part(index)?;
            x = block.forward(&x, &rotary)?;
            for (_, merger) in self.deep.iter().filter(|(asked, _)| *asked == index) {
                deep.push(merger.forward(&x)?);
            }
        }
        let _weights = weights.part(self.blocks.len())?;
        Ok(Seen { tokens: self.merger.forward(&x)?, deep })
    }
}

/// Half of the pairs of a head turn with the row of a patch, half with its column.
fn rotary(grid: Grid, head: usize) -> Result<Rotary> {
    let frequencies = frequencies(THETA, head / 2);
    let angles: Vec<f32> = grid
        .patches()
        .flatten()
        .flat_map(|side| frequencies.iter().map(move |frequency| side as f32 * frequency))
        .collect();
    Rotary::new(&angles, head / 2, &candle_core::Device::Cpu)
}

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    first: Linear,
    second: Linear,
    numbers: Numbers,
}

impl Block {
    fn load(weights: &Weights, width: usize) -> Result<Self> {
        let (attn, mlp) = (weights.at("attn"), weights.at("mlp"));
        let inner = mlp.side("linear_fc1.weight", 0)?;
        Ok(Self {
            norm1: LayerNorm::load(&weights.at("norm1"), width, EPS)?,
            qkv: Linear::load(&attn.at("qkv"), width, 3 * width)?,
            proj: Linear::load(&attn.at("proj"), width, width)?,
            norm2: LayerNorm::load(&weights.at("norm2"), width, EPS)?,
            first: Linear::load(&mlp.at("linear_fc1"), width, inner)?,
            second: Linear::load(&mlp.at("linear_fc2"), inner, width)?,
            numbers: weights.numbers(),
        })
    }

    /// `x`: (1, rows, width).
    fn forward(&self, x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        let x = (x + self.attend(&self.norm1.forward(x)?, rotary)?)?;
        let inner = self.first.forward_then(&self.norm2.forward(&x)?, gelu_tanh)?;
        Ok((x + self.second.forward(&inner)?)?)
    }

    fn attend(&self, x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        let (_, rows, width) = x.dims3()?;
        let head = width / HEADS;
        let qkv = self.qkv.forward(x)?.reshape((1, rows, 3, HEADS, head))?;
        let (q, k) = (rotary.apply(&qkv.i((.., .., 0))?)?, rotary.apply(&qkv.i((.., .., 1))?)?);
        // (1, HEADS, rows, head)
        let [q, k, v] = [q.transpose(1, 2)?, k.transpose(1, 2)?, qkv.i((.., .., 2))?.transpose(1, 2)?];
        let seen = attention([&q, &k, &v], (head as f64).powf(-0.5), None, self.numbers)?;
        self.proj.forward(&seen.reshape((1, rows, width))?)
    }
}

/// Joins the patches of a cell into one token.
struct Merger {
    norm: LayerNorm,
    first: Linear,
    second: Linear,
    /// Whether patches are joined before they are normalised.
    joined_first: bool,
}

impl Merger {
    fn load(weights: &Weights, [width, outputs]: [usize; 2], joined_first: bool) -> Result<Self> {
        let joined = AREA * width;
        let normed = if joined_first { joined } else { width };
        Ok(Self {
            norm: LayerNorm::load(&weights.at("norm"), normed, EPS)?,
            first: Linear::load(&weights.at("linear_fc1"), joined, joined)?,
            second: Linear::load(&weights.at("linear_fc2"), joined, outputs)?,
            joined_first,
        })
    }

    fn work(&self, grid: Grid) -> Work {
        Work::product(&self.first, grid.cells()) + Work::product(&self.second, grid.cells())
    }

    /// `x`: (1, 4 * cells, width); gives (cells, outputs).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, rows, width) = x.dims3()?;
        let joined = (rows / AREA, AREA * width);
        let cells = if self.joined_first {
            self.norm.forward(&x.reshape(joined)?)?
        } else {
            self.norm.forward(x)?.reshape(joined)?
        };
        self.second.forward(&gelu(&self.first.forward(&cells)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sizes_are_asked_where_they_were_trained_to_be() {
        assert_eq!(asked(27, 3), [8, 16, 24]);
        assert_eq!(asked(24, 3), [5, 11, 17]);
        assert_eq!(asked(3, 2), [1, 2]);
        assert!(asked(0, 0).is_empty());
    }
}
