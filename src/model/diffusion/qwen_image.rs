//! Qwen-Image and Qwen-Image-Edit: a double-stream diffusion transformer over text and picture tokens.
//!
//! Architecture: Wu et al., "Qwen-Image technical report" (2025). Sizes come from the weights.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::Options;
use super::leases::{BLOCKS, ENDS};
use crate::model::control::{Seen, Words};
use crate::model::estimate::{Estimate, Work};
use crate::model::parts::{Linear, map, modulated_norm, silu};
use crate::model::{Compute, Cond, Diffusion, Flow, Hint, LatentFormat, Result, latents};
use crate::stop::Stop;
use crate::weights::{File, Patches, Stay, Weights};

mod block;
mod control;
mod control_net;
mod fun_control_net;
mod on_card;
mod patches;
mod positions;
mod trunk;

use block::{EPS, Pass};
use control::Applied;
pub use control::BlockControl;
pub use control_net::QwenControlNet;
pub use fun_control_net::QwenFunControlNet;
use on_card::Place;
use patches::unpatchify;
use positions::Extent;
use trunk::{Trunk, extent};

pub struct Family;

impl super::Family for Family {
    fn name(&self) -> &'static str {
        "Qwen-Image"
    }

    fn claims(&self, weights: &Weights) -> bool {
        weights.has("txt_norm.weight") && weights.has("img_in.weight")
    }

    fn load(&self, weights: Weights, options: Options) -> Result<Arc<dyn Diffusion>> {
        Ok(Arc::new(QwenImage::load(weights, options)?))
    }
}

pub struct QwenImage {
    /// Where it was loaded from, to load it again with a LoRA.
    weights: Weights,
    options: Options,
    changes: Changes,
    trunk: Trunk,
    /// Where a graphics card computes the blocks.
    place: Option<Place>,
    norm_out: Linear,
    proj_out: Linear,
}

/// What is different from the network of the file.
#[derive(Clone, Default)]
struct Changes {
    /// The blocks it leaves out.
    skipped: Vec<usize>,
    /// What steers it, in this order.
    controls: Vec<Arc<Applied>>,
}

/// What is the same in all blocks of one forward pass.
struct Run<'a> {
    /// silu of the time embedding, and the same of timestep zero where a pass needs it.
    time: &'a Tensor,
    clean: Option<&'a Tensor>,
    /// One for each control.
    hints: &'a [Tensor],
    /// For each pass, what the networks that steer it say.
    words: &'a [Vec<Words>],
    stop: &'a Stop,
}

impl Run<'_> {
    /// What is said to a pass after a block.
    fn words(&self, pass: usize, block: usize) -> Vec<&Tensor> {
        self.words[pass].iter().filter_map(|words| words.for_block(block)).collect()
    }
}

/// Told of the values inside a forward pass, by the names of the stages: `temb.0`, `block.img.3`, ...
pub type Watch<'a> = dyn FnMut(&str, &Tensor) + 'a;

impl QwenImage {
    pub fn load(weights: Weights, options: Options) -> Result<Self> {
        Self::changed(weights, options, Changes::default())
    }

    fn changed(weights: Weights, options: Options, changes: Changes) -> Result<Self> {
        let weights = weights.multiplied_with(options.compute.numbers());
        weights.in_eight_bits_on_cards(options.eight_bits_on_card).build(|weights| {
            let trunk = Trunk::load(weights, options.compute, &changes.skipped)?;
            let linear = |name: &str, inputs, outputs| Linear::load(&weights.at(name), inputs, outputs);
            Ok(Self {
                weights: weights.clone(),
                place: options.card.as_ref().map(|card| Place::new(card, &trunk)).transpose()?.flatten(),
                options: options.clone(),
                norm_out: linear("norm_out.linear", trunk.width, 2 * trunk.width)?,
                proj_out: linear("proj_out", trunk.width, trunk.features)?,
                changes: changes.clone(),
                trunk,
            })
        })
    }

    /// [`Diffusion::forward`], showing its stages for the first conditioning to `watch`; a graphics card does not show
    /// its blocks.
    pub fn forward_watched(
        &self,
        x: &Tensor,
        t: f64,
        conds: &[&Cond],
        stop: &Stop,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Tensor>> {
        let time = self.trunk.embed_time(t)?;
        watch("temb.0", &time);
        let time = map(&time, silu)?;
        let mut passes = conds.iter().map(|cond| self.trunk.begin(x, cond)).collect::<Result<Vec<_>>>()?;
        let clean = passes.iter().any(|pass| pass.clean.is_some());
        let clean = clean.then(|| map(&self.trunk.embed_time(0.0)?, silu)).transpose()?;
        let hints = self.changes.controls.iter().map(|control| control.tokens(extent(x)?.cells, stop));
        let hints = hints.collect::<Result<Vec<_>>>()?;
        let words = conds.iter().map(|cond| self.words(cond, x, t, stop)).collect::<Result<Vec<_>>>()?;
        let tokens = passes.iter().map(|pass| pass.tokens.count()).collect::<Result<Vec<_>>>()?;
        let stay = self.trunk.resident.visit(self.trunk.working_bytes(&tokens))?;
        let _ends = stay.part(ENDS)?;
        let run = Run { time: &time, clean: clean.as_ref(), hints: &hints, words: &words, stop };
        match &self.place {
            Some(place) => self.blocks_on_card(place, &mut passes, &run)?,
            None => self.blocks_here(&stay, &mut passes, &run, watch)?,
        }
        passes.into_iter().map(|pass| self.finish(pass, &time, watch)).collect()
    }

    /// Takes passes through the blocks.
    fn blocks_here(
        &self,
        stay: &Stay<'_>,
        passes: &mut [Pass],
        run: &Run<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let mut room = self.trunk.room();
        for (index, block) in self.trunk.blocks.iter().enumerate() {
            run.stop.check()?;
            let _weights = block.as_ref().map(|_| stay.part(BLOCKS + index)).transpose()?;
            let modulation = block.as_ref().map(|block| block.modulation(run.time, run.clean)).transpose()?;
            if let Some(modulation) = &modulation {
                watch(&format!("modulation.{index}"), &modulation.first()?);
            }
            for (number, pass) in passes.iter_mut().enumerate() {
                run.stop.check()?;
                if let (Some(block), Some(modulation)) = (block, &modulation) {
                    block.forward(pass, modulation, &mut room)?;
                }
                self.steer(index, pass, run.hints, &run.words(number, index))?;
            }
            if let Some(pass) = passes.first() {
                watch(&format!("block.txt.{index}"), &pass.tokens.text);
                watch(&format!("block.img.{index}"), &pass.tokens.image);
            }
        }
        Ok(())
    }

    /// The same on a card, from the beginning again where it runs out of memory.
    fn blocks_on_card(&self, place: &Place, passes: &mut [Pass], run: &Run<'_>) -> Result<()> {
        let sitting = place.sit(passes)?;
        let begun: Vec<_> = passes.iter().map(|pass| pass.tokens.clone()).collect();
        sitting.retry(|| {
            for (pass, tokens) in passes.iter_mut().zip(&begun) {
                pass.tokens = tokens.clone();
            }
            let mut visit = place.begin(&sitting, &self.trunk.blocks, passes, (run.time, run.clean))?;
            for index in 0..self.trunk.blocks.len() {
                run.stop.check()?;
                visit.modulate(index)?;
                for (number, pass) in passes.iter_mut().enumerate() {
                    run.stop.check()?;
                    visit.forward(number)?;
                    let words = run.words(number, index);
                    if run.hints.is_empty() && words.is_empty() {
                        continue;
                    }
                    visit.fetch(number, pass)?;
                    self.steer(index, pass, run.hints, &words)?;
                    visit.put(number, pass)?;
                }
            }
            passes.iter_mut().enumerate().try_for_each(|(number, pass)| visit.fetch(number, pass))
        })
    }

    /// What the steering networks of a conditioning say in this step.
    fn words(&self, cond: &Cond, x: &Tensor, t: f64, stop: &Stop) -> Result<Vec<Words>> {
        let seen = Seen { network: self, x, t, text: &cond.text, stop };
        let counting = cond.controls.iter().filter(|steering| steering.counts_at(t));
        counting.map(|steering| steering.control.words(&seen)).collect()
    }

    /// What the controls and steering networks say after block `index`.
    fn steer(&self, index: usize, pass: &mut Pass, hints: &[Tensor], words: &[&Tensor]) -> Result<()> {
        for (control, hint) in self.changes.controls.iter().zip(hints) {
            pass.tokens.image = control.steer(index, pass.tokens.image.clone(), hint)?;
        }
        for word in words {
            pass.tokens.image = add_to_first(&pass.tokens.image, word)?;
        }
        Ok(())
    }

    fn finish(&self, pass: Pass, time: &Tensor, watch: &mut Watch<'_>) -> Result<Tensor> {
        let both = self.norm_out.forward(time)?.flatten_all()?;
        let width = both.elem_count() / 2;
        // Unlike in the blocks, the scale comes first here.
        let (scale, shift) = (both.narrow(0, 0, width)?, both.narrow(0, width, width)?);
        let normed = modulated_norm(&pass.tokens.image, &shift, &scale, EPS as f32)?;
        watch("norm_out.0", &normed);
        let target = self.proj_out.forward(&normed.narrow(1, 0, pass.target.tokens())?)?;
        unpatchify(&target.to_dtype(DType::F32)?, pass.target)
    }
}

/// `word` added to the first tokens: references are left alone.
fn add_to_first(image: &Tensor, word: &Tensor) -> Result<Tensor> {
    let count = word.dim(1)?.min(image.dim(1)?);
    let steered = (image.narrow(1, 0, count)? + word.narrow(1, 0, count)?)?;
    Ok(Tensor::cat(&[&steered, &image.narrow(1, count, image.dim(1)? - count)?], 1)?)
}

impl Diffusion for QwenImage {
    fn latent(&self) -> &'static LatentFormat {
        &latents::WAN_2_1
    }

    fn flow(&self) -> Flow {
        Flow::Exponential { mu: 1.15 }
    }

    fn forward(&self, x: &Tensor, t: f64, conds: &[&Cond], stop: &Stop) -> Result<Vec<Tensor>> {
        self.forward_watched(x, t, conds, stop, &mut |_, _| ())
    }

    fn estimate(&self, x: &[usize], conds: &[&Cond]) -> Result<Estimate> {
        let target = Extent { frames: x[2], cells: (x[3], x[4]) };
        let ends =
            Work::product(&self.norm_out, 1) + Work::product(&self.proj_out, target.tokens()) * x[0] as f64;
        let mut estimate = self.trunk.estimate(x, conds)?;
        for (part, work) in &mut estimate.parts {
            if *part == ENDS {
                *work += ends;
            }
        }
        Ok(estimate)
    }

    fn weights(&self) -> &Weights {
        &self.weights
    }

    fn patched(&self, patches: Arc<Patches>) -> Result<Arc<dyn Diffusion>> {
        let weights = self.weights.clone().patched(patches);
        Ok(Arc::new(Self::changed(weights, self.options.clone(), self.changes.clone())?))
    }

    fn computing_in(&self, compute: Compute) -> Result<Arc<dyn Diffusion>> {
        let options = Options { compute, ..self.options.clone() };
        Ok(Arc::new(Self::changed(self.weights.clone(), options, self.changes.clone())?))
    }

    fn without_blocks(&self, blocks: &[usize]) -> Result<Arc<dyn Diffusion>> {
        let mut changes = self.changes.clone();
        changes.skipped.extend(blocks);
        Ok(Arc::new(Self::changed(self.weights.clone(), self.options.clone(), changes)?))
    }

    fn with_control(
        &self,
        control: Arc<File>,
        hint: Arc<dyn Hint>,
        strength: f64,
    ) -> Result<Arc<dyn Diffusion>> {
        let mut changes = self.changes.clone();
        changes.controls.push(Arc::new(Applied::new(BlockControl::load(control)?, hint, strength)));
        Ok(Arc::new(Self::changed(self.weights.clone(), self.options.clone(), changes)?))
    }
}
