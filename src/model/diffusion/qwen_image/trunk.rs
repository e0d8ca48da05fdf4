//! What comes before the last layers: embeddings of time, text and picture, and the blocks. Shared by the diffusion
//! model and the networks that steer it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use super::block::{Block, EPS, Pass, Room, Tokens};
use super::patches::patchify;
use super::positions::{Extent, positions};
use crate::model::diffusion::axes::Rotations;
use crate::model::diffusion::leases::{BLOCKS, ENDS, resident};
use crate::model::diffusion::time;
use crate::model::estimate::{Estimate, Kind, Work};
use crate::model::parts::{Embedding, Linear, RmsNorm, silu};
use crate::model::{Compute, Cond, ReferenceMethod, Result};
use crate::weights::{Resident, Weights};

/// The file of a network that was trained with references at timestep zero has this empty tensor (2511).
const TIMESTEP_ZERO: &str = "__index_timestep_zero__";

/// A network for layered pictures has this table of what is added to its time embedding.
const KINDS: &str = "time_text_embed.addition_t_embedding";
/// Its row for what is asked of such a network here: pictures with their layers.
const LAYERED: u32 = 0;

pub struct Trunk {
    compute: Compute,
    pub width: usize,
    /// Numbers of one picture token that goes in.
    pub features: usize,
    time: [Linear; 2],
    /// Added to the embedding of the time: (1, width).
    kind: Option<Tensor>,
    image_in: Linear,
    text_norm: RmsNorm,
    text_in: Linear,
    /// How it was trained to be shown references.
    references: ReferenceMethod,
    /// Some may be left out.
    pub blocks: Vec<Option<Arc<Block>>>,
    /// What blocks work in; kept from one step to the next.
    room: Mutex<Room>,
    pub resident: Resident,
}

impl Trunk {
    pub fn load(weights: &Weights, compute: Compute, skipped: &[usize]) -> Result<Self> {
        let width = weights.side("img_in.weight", 0)?;
        let features = weights.side("img_in.weight", 1)?;
        let text_width = weights.side("txt_norm.weight", 0)?;
        let linear = |name: &str, inputs, outputs| Linear::load(&weights.at(name), inputs, outputs);
        let blocks = weights.at("transformer_blocks");
        let count = weights.count("transformer_blocks");
        let time = weights.at("time_text_embed.timestep_embedder");
        Ok(Self {
            compute,
            width,
            features,
            time: [
                Linear::load(&time.at("linear_1"), time::SINUSOIDS, width)?,
                Linear::load(&time.at("linear_2"), width, width)?,
            ],
            image_in: linear("img_in", features, width)?,
            text_norm: RmsNorm::load(&weights.at("txt_norm"), text_width, EPS)?,
            text_in: linear("txt_in", text_width, width)?,
            kind: kind(weights, width, compute)?,
            references: trained_method(weights),
            blocks: (0..count)
                .map(|index| {
                    let kept = !skipped.contains(&index);
                    kept.then(|| Block::load(&blocks.at(index), width).map(Arc::new)).transpose()
                })
                .collect::<Result<_>>()?,
            room: Mutex::default(),
            resident: resident(weights, "the diffusion model", "transformer_blocks.", count),
        })
    }

    /// Memory for one pass through the blocks at a time.
    pub fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pass over conditionings costs, but for the layers after the blocks.
    pub fn estimate(&self, x: &[usize], conds: &[&Cond]) -> Result<Estimate> {
        let target = Extent { frames: x[2], cells: (x[3], x[4]) };
        let sizes = conds.iter().map(|cond| {
            let pictures = cond.references.iter().map(extent).collect::<Result<Vec<_>>>()?;
            let pictures = pictures.into_iter().chain([target]).map(Extent::tokens);
            Ok((cond.text.dim(1)?, pictures.sum::<usize>()))
        });
        let sizes = sizes.collect::<Result<Vec<(usize, usize)>>>()?;
        let batch = x[0] as f64;
        let [one, two] = &self.time;
        let mut ends = Work::product(one, 1) + Work::product(two, 1);
        for (text, image) in &sizes {
            ends += (Work::product(&self.image_in, *image) + Work::product(&self.text_in, *text)) * batch;
        }
        let work = |block: &Block| {
            let each = sizes.iter().map(|(text, image)| block.work(*text, *image) * batch);
            each.sum::<Work>() + block.modulation_work()
        };
        let blocks = self.blocks.iter().enumerate();
        let blocks = blocks.filter_map(|(index, block)| Some((BLOCKS + index, work(block.as_ref()?))));
        let tokens: Vec<_> = sizes.iter().map(|(text, image)| (text + image) * x[0]).collect();
        let estimate = Estimate {
            kind: Kind::Predict,
            network: self.resident.network().clone(),
            working_bytes: self.working_bytes(&tokens),
            parts: std::iter::once((ENDS, ends)).chain(blocks).collect(),
        };
        Ok(estimate.using_weights(conds.len()))
    }

    /// Memory that a pass over conditionings of so many tokens each takes, about, besides the weights.
    pub fn working_bytes(&self, tokens: &[usize]) -> u64 {
        // In a block, for one conditioning at a time: around the attention what goes in, its norm, queries, keys and
        // values twice, and what comes out; around the MLP its inner width twice. Then what each keeps between blocks.
        const IN_A_BLOCK: usize = 14;
        // A few panels of widened weights.
        const PANELS: u64 = 128 << 20;
        let rows = IN_A_BLOCK * tokens.iter().max().unwrap_or(&0) + 2 * tokens.iter().sum::<usize>();
        (rows * self.width * size_of::<f32>()) as u64 + PANELS
    }

    /// (1, width): sinusoids of the timestep through two layers.
    pub fn embed_time(&self, t: f64) -> Result<Tensor> {
        let sinusoids = time::sinusoids(t)?.to_dtype(self.compute.dtype())?;
        let time = self.time[1].forward(&self.time[0].forward_then(&sinusoids, silu)?)?;
        Ok(match &self.kind {
            Some(kind) => (time + kind)?,
            None => time,
        })
    }

    /// Tokens of the text, the noisy latent and the references, and where they sit.
    pub fn begin(&self, x: &Tensor, cond: &Cond) -> Result<Pass> {
        let batch = x.dim(0)?;
        let target = extent(x)?;
        let mut images = vec![patchify(x)?];
        for reference in &cond.references {
            images.push(for_batch(&patchify(reference)?, batch)?);
        }
        let references = cond.references.iter().map(extent).collect::<Result<Vec<_>>>()?;
        let image = self.image_in.forward(&Tensor::cat(&images, 1)?.to_dtype(self.compute.dtype())?)?;
        let text = for_batch(&cond.text, batch)?.to_dtype(self.compute.dtype())?;
        let text = self.text_in.forward(&self.text_norm.forward(&text)?)?;
        let method = cond.reference_method.unwrap_or(self.references);
        let places = positions(text.dim(1)?, target, &references, method);
        let clean = method == ReferenceMethod::IndexTimestepZero && !references.is_empty();
        Ok(Pass {
            tokens: Tokens { text, image },
            rotations: Rotations::new(&places, self.compute),
            target,
            clean: clean.then_some(target.tokens()),
        })
    }
}

/// How the network of a file was trained to be shown references.
fn trained_method(weights: &Weights) -> ReferenceMethod {
    if weights.at(KINDS).has("weight") {
        ReferenceMethod::NegativeIndex
    } else if weights.is_marked(TIMESTEP_ZERO) {
        ReferenceMethod::IndexTimestepZero
    } else {
        ReferenceMethod::Index
    }
}

fn kind(weights: &Weights, width: usize, compute: Compute) -> Result<Option<Tensor>> {
    let weights = weights.at(KINDS);
    if !weights.has("weight") {
        return Ok(None);
    }
    let kinds = Embedding::load(&weights, weights.side("weight", 0)?, width)?;
    Ok(Some(kinds.forward(&[LAYERED])?.to_dtype(compute.dtype())?))
}

pub fn extent(latent: &Tensor) -> Result<Extent> {
    let (_, _, frames, h, w) = latent.dims5()?;
    Ok(Extent { frames, cells: (h, w) })
}

pub fn for_batch(x: &Tensor, batch: usize) -> Result<Tensor> {
    Ok(if x.dim(0)? == batch { x.clone() } else { x.repeat((batch, 1, 1))? })
}
