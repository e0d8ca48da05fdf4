//! The vision tower: patches in, one token per cell of 2 x 2 patches out.
//!
//! Most blocks look no further than a window of 4 x 4 cells, which is why cells are put into the order of
//! windows first. Sizes come from the weights; everything is computed in `f32`, but for what a graphics card computes.

mod on_card;

use std::sync::Arc;

use candle_core::{Device, IndexOp, Tensor};

use super::super::qwen_vl::mlp::Mlp;
use super::super::qwen_vl::picture::{AREA, Cut, FRAMES, Grid};
use super::super::qwen_vl::rotary::{Rotary, frequencies};
use super::super::qwen_vl::{Seen, Tower};
use super::PICTURES;
use crate::device::ops::Numbers;
use crate::model::Result;
use crate::model::card::Card;
use crate::model::estimate::Work;
use crate::model::parts::{Linear, RmsNorm, attention, gelu};
use crate::stop::Stop;
use crate::weights::{Resident, Row, Weights};

use on_card::Place;

const HEAD: usize = 80;
const EPS: f64 = 1e-6;
const THETA: f32 = 10_000.0;
/// Side of a window in cells.
const WINDOW: usize = 4;
/// Values per patch.
const ROW: usize = PICTURES.row();
/// The blocks that look at the whole picture.
const FULL: [usize; 4] = [7, 15, 23, 31];

pub struct Vision {
    /// (width, [`ROW`])
    embed: Tensor,
    blocks: Vec<Arc<Block>>,
    merger: Arc<Merger>,
    /// Where a graphics card looks at pictures.
    place: Option<Place>,
}

impl Tower for Vision {
    const CUT: &'static Cut = &PICTURES;
    const AROUND: &'static [&'static str] = &["patch_embed.proj.weight"];

    fn load(weights: &Weights, outputs: usize) -> Result<Self> {
        let (width, patch) = (weights.side("patch_embed.proj.weight", 0)?, PICTURES.patch);
        let embed =
            weights.tensor("patch_embed.proj.weight", &[width, 3, FRAMES, patch, patch])?.flatten_from(1)?;
        let blocks = (0..weights.count("blocks"))
            .map(|index| Block::load(&weights.at("blocks").at(index), width).map(Arc::new))
            .collect::<Result<_>>()?;
        let merger = Arc::new(Merger::load(&weights.at("merger"), width, outputs)?);
        Ok(Self { embed, blocks, merger, place: None })
    }

    fn on_card(self, card: &Card, resident: &Resident, parts: [usize; 2]) -> Result<Self> {
        Ok(Self { place: Place::new(card, &self, resident, parts)?, ..self })
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn work(&self, grid: Grid) -> Vec<Work> {
        /// Norms, rotations, sums and the activation.
        const PASSES: f64 = 40.0;
        let rows = AREA * grid.cells();
        let windows = Windows::new(grid);
        let block = |(index, block): (usize, &Arc<Block>)| {
            let width = block.proj.outputs();
            let attention = if FULL.contains(&index) {
                Work::attention(rows, rows, width)
            } else {
                let runs = windows.runs.iter();
                runs.map(|run| Work::attention(run.count * run.rows, run.rows, width)).sum()
            };
            let products = Work::product(&block.qkv, rows) + Work::product(&block.proj, rows);
            products + block.mlp.work(rows) + attention + Work::passes(PASSES, rows, width)
        };
        let Merger { first, second, .. } = &*self.merger;
        let end = Work::product(first, grid.cells()) + Work::product(second, grid.cells());
        self.blocks.iter().enumerate().map(block).chain([end]).collect()
    }

    fn working_bytes(&self, grid: Grid) -> u64 {
        // States, norms, queries, keys and values, some of them twice; then the inner width of the MLP four times over.
        const WIDTHS: usize = 12;
        const INNER: usize = 4;
        const PANELS: u64 = 128 << 20;
        let widths =
            self.blocks.first().map_or(0, |block| WIDTHS * block.proj.outputs() + INNER * block.mlp.inner());
        (AREA * grid.cells() * widths * size_of::<f32>()) as u64 + PANELS
    }

    /// Kept from ComfyUI: the tokens stay in the order of windows although their positions in the text are
    /// counted in raster order. The model as published puts them back. The tests on recorded pictures
    /// hold us to it.
    fn forward(&self, patches: &Tensor, grid: Grid, weights: Row<'_, '_>, stop: &Stop) -> Result<Seen> {
        let windows = Windows::new(grid);
        let rows = AREA * grid.cells();
        let order = Tensor::new(windows.order.as_slice(), patches.device())?;
        let cells = patches.reshape((grid.cells(), AREA * ROW))?.index_select(&order, 0)?;
        let patches = cells.reshape((rows, ROW))?;
        let rotary = windows.rotary(grid, patches.device())?;
        if let Some(place) = &self.place {
            return Ok(place.forward(self, &patches, (&rotary, &windows.runs), stop)?.into());
        }
        let mut x = patches.matmul(&self.embed.t()?)?.unsqueeze(0)?;
        let whole = [Run { count: 1, rows }];
        for (index, block) in self.blocks.iter().enumerate() {
            stop.check()?;
            let _weights = weights.part(index)?;
            let runs = if FULL.contains(&index) { &whole[..] } else { &windows.runs };
            x = block.forward(&x, &rotary, runs)?;
        }
        let _weights = weights.part(self.blocks.len())?;
        Ok(self.merger.forward(&x)?.into())
    }
}

/// Several windows of equal size that follow each other.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    count: usize,
    /// Patches per window.
    rows: usize,
}

/// How a grid of cells falls into windows, row by row; those at the right and lower edges are smaller.
struct Windows {
    /// The cell, in raster order, that stands at each place.
    order: Vec<u32>,
    runs: Vec<Run>,
}

impl Windows {
    fn new(grid: Grid) -> Self {
        let (mut order, mut runs) = (Vec::with_capacity(grid.cells()), Vec::<Run>::new());
        for top in (0..grid.rows).step_by(WINDOW) {
            for left in (0..grid.columns).step_by(WINDOW) {
                let bottom = grid.rows.min(top + WINDOW);
                let right = grid.columns.min(left + WINDOW);
                for row in top..bottom {
                    order.extend((left..right).map(|column| (row * grid.columns + column) as u32));
                }
                let rows = AREA * (bottom - top) * (right - left);
                match runs.last_mut() {
                    Some(run) if run.rows == rows => run.count += 1,
                    _ => runs.push(Run { count: 1, rows }),
                }
            }
        }
        Self { order, runs }
    }

    /// Half of the pairs turn with the row of a patch, half with its column.
    fn rotary(&self, grid: Grid, device: &Device) -> Result<Rotary> {
        let frequencies = frequencies(THETA, HEAD / 2);
        let mut angles = Vec::with_capacity(self.order.len() * AREA * HEAD / 2);
        for cell in &self.order {
            for side in grid.patches_of(*cell as usize).flatten() {
                angles.extend(frequencies.iter().map(|frequency| side as f32 * frequency));
            }
        }
        Rotary::new(&angles, HEAD / 2, device)
    }
}

struct Block {
    norm1: RmsNorm,
    qkv: Linear,
    proj: Linear,
    norm2: RmsNorm,
    mlp: Mlp,
    numbers: Numbers,
}

impl Block {
    fn load(weights: &Weights, width: usize) -> Result<Self> {
        let attn = weights.at("attn");
        Ok(Self {
            norm1: RmsNorm::load(&weights.at("norm1"), width, EPS)?,
            qkv: Linear::load(&attn.at("qkv"), width, 3 * width)?,
            proj: Linear::load(&attn.at("proj"), width, width)?,
            norm2: RmsNorm::load(&weights.at("norm2"), width, EPS)?,
            mlp: Mlp::load(&weights.at("mlp"), width, true)?,
            numbers: weights.numbers(),
        })
    }

    /// `x`: (1, rows, width); rows attend within the windows of `runs`.
    fn forward(&self, x: &Tensor, rotary: &Rotary, runs: &[Run]) -> Result<Tensor> {
        let x = (x + self.attend(&self.norm1.forward(x)?, rotary, runs)?)?;
        self.mlp.forward_onto(&x, &self.norm2.forward(&x)?)
    }

    fn attend(&self, x: &Tensor, rotary: &Rotary, runs: &[Run]) -> Result<Tensor> {
        let (_, rows, width) = x.dims3()?;
        let heads = width / HEAD;
        let qkv = self.qkv.forward(x)?.reshape((1, rows, 3, heads, HEAD))?;
        let (q, k, v) = (qkv.i((.., .., 0))?, qkv.i((.., .., 1))?, qkv.i((.., .., 2))?);
        let (q, k) = (rotary.apply(&q)?, rotary.apply(&k)?);
        let mut first = 0;
        let mut seen = Vec::with_capacity(runs.len());
        for run in runs {
            let rows = run.count * run.rows;
            // (windows, heads, patches, HEAD)
            let split = |x: &Tensor| {
                x.narrow(1, first, rows)?.reshape((run.count, run.rows, heads, HEAD))?.transpose(1, 2)
            };
            let (q, k, v) = (split(&q)?, split(&k)?, split(&v)?);
            let out = attention([&q, &k, &v], (HEAD as f64).powf(-0.5), None, self.numbers)?;
            seen.push(out.reshape((1, rows, width))?);
            first += rows;
        }
        self.proj.forward(&Tensor::cat(&seen, 1)?)
    }
}

/// Joins the patches of a cell into one token.
struct Merger {
    norm: RmsNorm,
    first: Linear,
    second: Linear,
}

impl Merger {
    fn load(weights: &Weights, width: usize, outputs: usize) -> Result<Self> {
        let joined = AREA * width;
        Ok(Self {
            norm: RmsNorm::load(&weights.at("ln_q"), width, EPS)?,
            first: Linear::load(&weights.at("mlp").at(0), joined, joined)?,
            second: Linear::load(&weights.at("mlp").at(2), joined, outputs)?,
        })
    }

    /// `x`: (1, 4 * cells, width); gives (cells, outputs).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, rows, width) = x.dims3()?;
        let cells = self.norm.forward(x)?.reshape((rows / AREA, AREA * width))?;
        self.second.forward(&gelu(&self.first.forward(&cells)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_run_row_by_row_and_are_smaller_at_the_edges() {
        let windows = Windows::new(Grid { rows: 5, columns: 9 });
        let sizes: Vec<_> = windows.runs.iter().map(|run| (run.count, run.rows)).collect();
        assert_eq!(sizes, [(2, 64), (3, 16), (1, 4)]);
        assert_eq!(windows.order[..6], [0, 1, 2, 3, 9, 10]);
        assert_eq!(windows.order[32..37], [8, 17, 26, 35, 36]);
    }

    #[test]
    fn windows_and_raster_agree_up_to_four_columns() {
        let in_raster = |rows, columns| Windows::new(Grid { rows, columns }).order.is_sorted();
        assert!(in_raster(30, 4) && in_raster(1, 30) && !in_raster(2, 5));
    }
}
