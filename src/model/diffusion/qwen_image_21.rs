//! Qwen-Image 2.1: a diffusion transformer over one stream of text and pictures, in which words see what comes before
//! them and pictures see themselves whole too.
//!
//! Only the target is noisy: whatever comes before it is shown as at timestep zero and never sees it, so that its keys
//! and values are the same in all steps of a run. Architecture and names of tensors: those of diffusers 0.42. Sizes come
//! from the weights. The processor computes it, whatever there is besides.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};

use super::Options;
use super::axes::Rotations;
use super::leases::{BLOCKS, ENDS, resident};
use super::time;
use crate::model::estimate::Estimate;
use crate::model::notes::Author;
use crate::model::parts::{Linear, RmsNorm, gelu_tanh, modulated_norm, silu};
use crate::model::{Compute, Cond, Diffusion, Error, Flow, Hint, LatentFormat, Prefix, Result, latents};
use crate::stop::Stop;
use crate::weights::{File, Patches, Resident, Stay, Weights};

mod block;
mod cost;
mod pass;
mod prefix;
mod sequence;

use block::{Block, EPS, Modulation, Room};
use pass::{Before, Pass, Size, Step, pictures};
use prefix::{Blocks, Kept};
use sequence::{Part, Sequence};

pub struct Family;

impl super::Family for Family {
    fn name(&self) -> &'static str {
        "Qwen-Image 2.1"
    }

    fn claims(&self, weights: &Weights) -> bool {
        ["txt_in.text_norm.weight", "modulation.1.weight", "img_in.weight"]
            .iter()
            .all(|name| weights.has(name))
    }

    fn load(&self, weights: Weights, options: Options) -> Result<Arc<dyn Diffusion>> {
        if options.card.is_some() {
            tracing::info!("the processor computes {}: no graphics card does yet", self.name());
        }
        Ok(Arc::new(QwenImage21::load(weights, options)?))
    }
}

pub struct QwenImage21 {
    /// Where it was loaded from, to load it again with a LoRA.
    weights: Weights,
    options: Options,
    changes: Changes,
    /// Under this name it finds what it kept of a conditioning.
    author: Author,
    width: usize,
    time: [Linear; 2],
    text_norm: RmsNorm,
    text_in: [Linear; 2],
    image_in: Linear,
    modulation: Linear,
    /// Some may be left out.
    blocks: Vec<Option<Block>>,
    norm_out: Linear,
    proj_out: Linear,
    /// What blocks work in; kept from one step to the next.
    room: Mutex<Room>,
    resident: Resident,
}

/// What is different from the network of the file.
#[derive(Clone, Default)]
struct Changes {
    /// The blocks it leaves out.
    skipped: Vec<usize>,
    prefix: Prefix,
}

impl QwenImage21 {
    pub fn load(weights: Weights, options: Options) -> Result<Self> {
        // As ComfyUI's files have them; diffusers' have them apart.
        let weights = weights.with_rows_apart(".img_mlp.gate_up", &[".img_mlp.gate_layer", ".img_mlp.proj"]);
        Self::changed(weights, options, Changes::default())
    }

    fn changed(weights: Weights, options: Options, changes: Changes) -> Result<Self> {
        weights.multiplied_with(options.compute.numbers()).build(|weights| {
            let width = weights.side("img_in.weight", 0)?;
            let features = weights.side("img_in.weight", 1)?;
            let text_width = weights.side("txt_in.text_norm.weight", 0)?;
            let linear =
                |name: &str, inputs, outputs| Linear::without_bias(&weights.at(name), inputs, outputs);
            let count = weights.count("transformer_blocks");
            let block = |index: usize| {
                let kept = !changes.skipped.contains(&index);
                let place = weights.at("transformer_blocks").at(index);
                kept.then(|| Block::load(&place, width)).transpose()
            };
            Ok(Self {
                weights: weights.clone(),
                author: Author::unique(),
                width,
                time: [
                    linear("time_text_embed.timestep_embedder.linear_1", time::SINUSOIDS, width)?,
                    linear("time_text_embed.timestep_embedder.linear_2", width, width)?,
                ],
                text_norm: RmsNorm::around_one(&weights.at("txt_in.text_norm"), text_width, EPS)?,
                text_in: [
                    linear("txt_in.in_layer", text_width, width)?,
                    linear("txt_in.out_layer", width, width)?,
                ],
                image_in: linear("img_in", features, width)?,
                modulation: linear("modulation.1", width, 4 * width)?,
                blocks: (0..count).map(block).collect::<Result<_>>()?,
                norm_out: linear("norm_out.linear", width, width)?,
                proj_out: linear("proj_out", width, features)?,
                room: Mutex::default(),
                resident: resident(weights, "the diffusion model", "transformer_blocks.", count),
                options: options.clone(),
                changes: changes.clone(),
            })
        })
    }

    /// silu of the time embedding, (1, width).
    fn embed_time(&self, t: f64) -> Result<Tensor> {
        let sinusoids = time::sinusoids(t)?.to_dtype(self.options.compute.dtype())?;
        let [one, two] = &self.time;
        two.forward_then(&one.forward_then(&sinusoids, silu)?, silu)
    }

    fn modulation(&self, time: &Tensor) -> Result<Modulation> {
        Modulation::new(&self.modulation.forward(time)?)
    }

    /// (batch, rows, width) of a text.
    fn read(&self, text: &Tensor) -> Result<Tensor> {
        let text = self.text_norm.forward(&text.to_dtype(self.options.compute.dtype())?)?;
        let [one, two] = &self.text_in;
        two.forward(&one.forward_then(&text, gelu_tanh)?)
    }

    /// Tokens of pictures: (pictures, cells, width).
    fn see(&self, latent: &Tensor) -> Result<Tensor> {
        self.image_in.forward(&pictures(latent)?.to_dtype(self.options.compute.dtype())?)
    }

    /// The tokens of one conditioning.
    fn begin(&self, x: &Tensor, cond: &Cond) -> Result<Pass> {
        let sequence = sequence_of(x.dims(), cond)?;
        let before = match self.kept(cond) {
            Some(kept) => Before::Kept(kept),
            None => Before::read(&self.prefix(cond, &sequence)?)?,
        };
        let size = Size::new(&sequence, x.dims(), cond)?;
        let rotations = Rotations::new(&sequence.positions(), self.options.compute);
        Pass::new((&sequence, size), rotations, before, &self.see(x)?)
    }

    /// The tokens before the target: (batch of texts, tokens, width).
    fn prefix(&self, cond: &Cond, sequence: &Sequence) -> Result<Tensor> {
        let text = self.read(&cond.text)?;
        let batch = text.dim(0)?;
        let mut seen = Vec::new();
        for reference in &cond.references {
            let tokens = self.see(reference)?;
            seen.extend(tokens.chunk(tokens.dim(0)?, 0)?);
        }
        let parts = sequence.parts.iter().map(|part| match part {
            Part::Text(rows) => Ok(text.narrow(1, rows.start, rows.len())?),
            Part::Picture(reference) => Ok(seen[*reference].repeat((batch, 1, 1))?),
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok(if parts.is_empty() { text } else { Tensor::cat(&parts, 1)? })
    }

    /// What was kept of a conditioning, if it is still what that says.
    fn kept(&self, cond: &Cond) -> Option<Arc<Kept>> {
        cond.notes.of::<Kept>(self.author).filter(|kept| kept.is_of(cond))
    }

    /// Begins the use of the weights, and tells whether there is room for what is to be kept.
    fn visit(&self, work: u64, keeping: u64) -> Result<(Stay<'_>, bool)> {
        match self.resident.visit(work + keeping) {
            Err(full) if keeping > 0 => {
                tracing::info!("each step reads the text and the references anew: {full}");
                Ok((self.resident.visit(work)?, false))
            }
            stay => Ok((stay?, true)),
        }
    }

    /// Takes passes through the blocks, and gives what of each is kept.
    fn advance(&self, passes: &mut [Pass], step: &Step<'_>, stay: &Stay<'_>) -> Result<Vec<Blocks>> {
        let mut kept: Vec<Blocks> = passes.iter().map(|_| Blocks::new()).collect();
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let there = self.blocks.iter().enumerate().filter_map(|(part, block)| Some((part, block.as_ref()?)));
        for (index, (part, block)) in there.enumerate() {
            step.stop.check()?;
            let _weights = stay.part(BLOCKS + part)?;
            for (pass, kept) in passes.iter_mut().zip(&mut kept) {
                kept.push(pass.advance((index, block), step, &mut room)?);
            }
        }
        Ok(kept)
    }

    fn finish(&self, pass: Pass, time: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let scale = self.norm_out.forward(time)?.flatten_all()?;
        let tokens = pass.into_target()?.to_dtype(self.options.compute.dtype())?;
        let normed = modulated_norm(&tokens, &scale.zeros_like()?, &scale, EPS as f32)?;
        let velocity = self.proj_out.forward(&normed)?.to_dtype(DType::F32)?;
        let velocity =
            velocity.reshape(&[shape[0], shape[2], shape[3], shape[4], self.proj_out.outputs()])?;
        Ok(velocity.permute([0, 4, 1, 2, 3])?.contiguous()?)
    }
}

/// The sequence that a conditioning makes with a latent of this shape.
fn sequence_of(x: &[usize], cond: &Cond) -> Result<Sequence> {
    let &[_, _, _, h, w] = x else {
        return Err(candle_core::Error::Msg(format!("expected a latent with frames, found {x:?}")).into());
    };
    let mut references = Vec::new();
    for reference in &cond.references {
        let (batch, _, frames, h, w) = reference.dims5()?;
        references.extend(vec![(h, w); batch * frames]);
    }
    Ok(Sequence::new(cond.text.dim(1)?, &cond.pictures, references, (h, w)))
}

impl Diffusion for QwenImage21 {
    fn latent(&self) -> &'static LatentFormat {
        &latents::QWEN_IMAGE_2_1
    }

    /// ComfyUI's: what the published schedule, which depends on the size, has for pictures of 1024 by 1024.
    fn flow(&self) -> Flow {
        Flow::Exponential { mu: 0.69 }
    }

    fn forward(&self, x: &Tensor, t: f64, conds: &[&Cond], stop: &Stop) -> Result<Vec<Tensor>> {
        if conds.iter().any(|cond| !cond.controls.is_empty()) {
            return Err(Error::OtherFamily);
        }
        stop.check()?;
        let time = self.embed_time(t)?;
        let [now, clean] = [self.modulation(&time)?, self.modulation(&self.embed_time(0.0)?)?];
        let mut passes = conds.iter().map(|cond| self.begin(x, cond)).collect::<Result<Vec<_>>>()?;
        let sizes: Vec<_> = passes.iter().map(|pass| pass.size).collect();
        let keeping = passes.iter().filter(|pass| pass.reads()).map(|pass| self.kept_bytes(pass.size)).sum();
        let (stay, fits) = self.visit(self.working_bytes(&sizes), keeping)?;
        let _ends = stay.part(ENDS)?;
        let keep = match self.changes.prefix {
            Prefix::Kept(precision) if fits => Some((precision, self.options.compute.numbers())),
            _ => None,
        };
        let kept = self.advance(&mut passes, &Step { now: &now, clean: &clean, keep, stop }, &stay)?;
        for ((pass, cond), kept) in passes.iter().zip(conds).zip(kept) {
            if pass.reads() && keep.is_some() {
                cond.notes.write(self.author, Arc::new(Kept::new(cond, kept)));
            }
        }
        passes.into_iter().map(|pass| self.finish(pass, &time, x.dims())).collect()
    }

    /// What comes before the target counts until it is kept.
    fn estimate(&self, x: &[usize], conds: &[&Cond]) -> Result<Estimate> {
        self.cost(x, conds)
    }

    fn weights(&self) -> &Weights {
        &self.weights
    }

    fn patched(&self, patches: Arc<Patches>) -> Result<Arc<dyn Diffusion>> {
        let weights = self.weights.clone().patched(patches);
        Ok(Arc::new(Self::changed(weights, self.options.clone(), self.changes.clone())?))
    }

    fn with_control(
        &self,
        _control: Arc<File>,
        _hint: Arc<dyn Hint>,
        _strength: f64,
    ) -> Result<Arc<dyn Diffusion>> {
        Err(Error::OtherFamily)
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

    fn keeping(&self, prefix: Prefix) -> Result<Option<Arc<dyn Diffusion>>> {
        let changes = Changes { prefix, ..self.changes.clone() };
        Ok(Some(Arc::new(Self::changed(self.weights.clone(), self.options.clone(), changes)?)))
    }
}
