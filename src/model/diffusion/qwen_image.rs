//! Qwen-Image and Qwen-Image-Edit: a double-stream diffusion transformer over text and picture tokens.
//!
//! Architecture: Wu et al., "Qwen-Image technical report" (2025). Sizes come from the weights.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Options;
use crate::model::parts::{Linear, RmsNorm, modulated_norm, silu};
use crate::model::{Adapted, Compute, Cond, Diffusion, Flow, Hint, LatentFormat, Result, latents, lora};
use crate::stop::Stop;
use crate::weights::{File, Weights};

mod block;
mod control;
mod patches;
mod positions;

use block::{Block, EPS, Tokens};
use control::Applied;
pub use control::BlockControl;
use patches::{patchify, unpatchify};
use positions::{Rotations, positions};

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

/// Frequencies of the time embedding, and the factor that takes a timestep of 0..1 to its range.
const TIME_FREQUENCIES: usize = 128;
const TIME_SCALE: f32 = 1000.0;

pub struct QwenImage {
    /// Where it was loaded from, to load it again with a LoRA.
    weights: Weights,
    options: Options,
    changes: Changes,
    time: [Linear; 2],
    image_in: Linear,
    text_norm: RmsNorm,
    text_in: Linear,
    /// With their numbers; some may be left out.
    blocks: Vec<(usize, Block)>,
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

/// Told of the values inside a forward pass, by the names of the stages: `temb.0`, `block.img.3`, ...
pub type Watch<'a> = dyn FnMut(&str, &Tensor) + 'a;

impl QwenImage {
    pub fn load(weights: Weights, options: Options) -> Result<Self> {
        Self::changed(weights, options, Changes::default())
    }

    fn changed(weights: Weights, options: Options, changes: Changes) -> Result<Self> {
        weights.build(|weights| {
            let width = weights.side("img_in.weight", 0)?;
            let features = weights.side("img_in.weight", 1)?;
            let text_width = weights.side("txt_norm.weight", 0)?;
            let linear = |name: &str, inputs, outputs| Linear::load(&weights.at(name), inputs, outputs);
            let blocks = weights.at("transformer_blocks");
            let time = weights.at("time_text_embed.timestep_embedder");
            Ok(Self {
                weights: weights.clone(),
                options,
                changes: changes.clone(),
                time: [
                    Linear::load(&time.at("linear_1"), 2 * TIME_FREQUENCIES, width)?,
                    Linear::load(&time.at("linear_2"), width, width)?,
                ],
                image_in: linear("img_in", features, width)?,
                text_norm: RmsNorm::load(&weights.at("txt_norm"), text_width, EPS)?,
                text_in: linear("txt_in", text_width, width)?,
                blocks: (0..weights.count("transformer_blocks"))
                    .filter(|index| !changes.skipped.contains(index))
                    .map(|index| Ok((index, Block::load(&blocks.at(index), width)?)))
                    .collect::<Result<_>>()?,
                norm_out: linear("norm_out.linear", width, 2 * width)?,
                proj_out: linear("proj_out", width, features)?,
            })
        })
    }

    /// [`Diffusion::forward`], showing its stages for the first conditioning to `watch`.
    pub fn forward_watched(
        &self,
        x: &Tensor,
        t: f64,
        conds: &[&Cond],
        stop: &Stop,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Tensor>> {
        let time = self.embed_time(t)?;
        watch("temb.0", &time);
        let time = silu(&time)?;
        let mut passes = conds.iter().map(|cond| self.begin(x, cond)).collect::<Result<Vec<_>>>()?;
        let hints = self.changes.controls.iter().map(|control| control.tokens(cells(x)?, stop));
        let hints = hints.collect::<Result<Vec<_>>>()?;
        for (index, block) in &self.blocks {
            let modulation = block.modulation(&time)?;
            for pass in &mut passes {
                stop.check()?;
                pass.tokens = block.forward(&pass.tokens, &modulation, &pass.rotations)?;
                for (control, hint) in self.changes.controls.iter().zip(&hints) {
                    pass.tokens.image = control.steer(*index, pass.tokens.image.clone(), hint)?;
                }
            }
            if let Some(pass) = passes.first() {
                watch(&format!("block.txt.{index}"), &pass.tokens.text);
                watch(&format!("block.img.{index}"), &pass.tokens.image);
            }
        }
        passes.into_iter().map(|pass| self.finish(pass, &time, watch)).collect()
    }

    /// (1, width): sinusoids of the timestep through two layers.
    fn embed_time(&self, t: f64) -> Result<Tensor> {
        let angle = |index: usize| {
            let frequency = (-(10_000f32.ln()) * index as f32 / TIME_FREQUENCIES as f32).exp();
            f64::from(t as f32 * frequency * TIME_SCALE)
        };
        let sinusoids: Vec<f32> = (0..TIME_FREQUENCIES)
            .map(|index| angle(index).cos() as f32)
            .chain((0..TIME_FREQUENCIES).map(|index| angle(index).sin() as f32))
            .collect();
        let sinusoids = Tensor::from_vec(sinusoids, (1, 2 * TIME_FREQUENCIES), &Device::Cpu)?;
        let hidden = self.time[0].forward(&sinusoids.to_dtype(self.options.compute.dtype())?)?;
        self.time[1].forward(&silu(&hidden)?)
    }

    /// Tokens of the text, the noisy latent and the references, and where they sit.
    fn begin(&self, x: &Tensor, cond: &Cond) -> Result<Pass> {
        let batch = x.dim(0)?;
        let compute = self.options.compute;
        let target = cells(x)?;
        let mut images = vec![patchify(x)?];
        for reference in &cond.references {
            images.push(for_batch(&patchify(reference)?, batch)?);
        }
        let references = cond.references.iter().map(cells).collect::<Result<Vec<_>>>()?;
        let image = self.image_in.forward(&Tensor::cat(&images, 1)?.to_dtype(compute.dtype())?)?;
        let text = for_batch(&cond.text, batch)?.to_dtype(compute.dtype())?;
        let text = self.text_in.forward(&self.text_norm.forward(&text)?)?;
        let places = positions(text.dim(1)?, target, &references, cond.reference_method);
        Ok(Pass { tokens: Tokens { text, image }, rotations: Rotations::new(&places, compute), target })
    }

    fn finish(&self, pass: Pass, time: &Tensor, watch: &mut Watch<'_>) -> Result<Tensor> {
        let (rows, columns) = positions::patches(pass.target);
        let both = self.norm_out.forward(time)?.flatten_all()?;
        let width = both.elem_count() / 2;
        // Unlike in the blocks, the scale comes first here.
        let (scale, shift) = (both.narrow(0, 0, width)?, both.narrow(0, width, width)?);
        let normed = modulated_norm(&pass.tokens.image, &shift, &scale, EPS as f32)?;
        watch("norm_out.0", &normed);
        let target = self.proj_out.forward(&normed.narrow(1, 0, rows * columns)?)?;
        unpatchify(&target.to_dtype(DType::F32)?, pass.target)
    }
}

/// One conditioning on its way through the network.
struct Pass {
    tokens: Tokens,
    rotations: Rotations,
    /// Cells of the noisy latent.
    target: positions::Grid,
}

fn cells(latent: &Tensor) -> Result<positions::Grid> {
    Ok((latent.dim(3)?, latent.dim(4)?))
}

fn for_batch(x: &Tensor, batch: usize) -> Result<Tensor> {
    Ok(if x.dim(0)? == batch { x.clone() } else { x.repeat((batch, 1, 1))? })
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

    fn with_lora(&self, file: Arc<File>, strength: f64) -> Result<Adapted<dyn Diffusion>> {
        let Adapted { network: patches, used } =
            lora::patches(&self.weights, file, strength, lora::DIFFUSION)?;
        let weights = self.weights.clone().patched(patches);
        let network = Self::changed(weights, self.options, self.changes.clone())?;
        Ok(Adapted { network: Arc::new(network), used })
    }

    fn computing_in(&self, compute: Compute) -> Result<Arc<dyn Diffusion>> {
        let options = Options { compute, ..self.options };
        Ok(Arc::new(Self::changed(self.weights.clone(), options, self.changes.clone())?))
    }

    fn without_blocks(&self, blocks: &[usize]) -> Result<Arc<dyn Diffusion>> {
        let mut changes = self.changes.clone();
        changes.skipped.extend(blocks);
        Ok(Arc::new(Self::changed(self.weights.clone(), self.options, changes)?))
    }

    fn with_control(
        &self,
        control: Arc<File>,
        hint: Arc<dyn Hint>,
        strength: f64,
    ) -> Result<Arc<dyn Diffusion>> {
        let mut changes = self.changes.clone();
        changes.controls.push(Arc::new(Applied::new(BlockControl::load(control)?, hint, strength)));
        Ok(Arc::new(Self::changed(self.weights.clone(), self.options, changes)?))
    }
}
