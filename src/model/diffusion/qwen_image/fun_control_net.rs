//! VideoX-Fun's ControlNets for Qwen-Image: a few blocks that begin where the steered network does, with its own
//! embeddings and a hint added, and speak to every so many of its blocks.

use candle_core::Tensor;

use super::QwenImage;
use super::block::Block;
use super::control_net::STEERED;
use super::patches::patchify;
use super::trunk::for_batch;
use crate::model::control::{ControlNet, Seen, Words};
use crate::model::diffusion::leases::{BLOCKS, ENDS, resident};
use crate::model::parts::{Linear, map, silu};
use crate::model::{Compute, Cond, Error, Result, latents};
use crate::weights::{Resident, Weights};

/// One of so many blocks of the steered network hears a word.
const BETWEEN_WORDS: usize = 12;

pub struct QwenFunControlNet {
    compute: Compute,
    hint_in: Linear,
    before: Linear,
    blocks: Vec<(Block, Linear)>,
    resident: Resident,
}

impl QwenFunControlNet {
    /// Whether a file holds such a network.
    pub fn claims(weights: &Weights) -> bool {
        weights.has("control_blocks.0.after_proj.weight") && weights.has("control_img_in.weight")
    }

    pub fn load(weights: Weights, compute: Compute) -> Result<Self> {
        weights.multiplied_with(compute.numbers()).build(|weights| {
            let width = weights.side("control_img_in.weight", 0)?;
            let features = weights.side("control_img_in.weight", 1)?;
            let blocks = weights.at("control_blocks");
            let count = weights.count("control_blocks");
            let block = |index: usize| {
                let weights = blocks.at(index);
                Ok((Block::load(&weights, width)?, Linear::load(&weights.at("after_proj"), width, width)?))
            };
            Ok(Self {
                compute,
                hint_in: Linear::load(&weights.at("control_img_in"), features, width)?,
                before: Linear::load(&blocks.at(0).at("before_proj"), width, width)?,
                blocks: (0..count).map(block).collect::<Result<_>>()?,
                resident: resident(weights, "the ControlNet", "control_blocks.", count),
            })
        })
    }

    /// The tokens of a hint. The network was trained to be shown a mask and a picture to fill as well; where there is
    /// none, they are zero, as is what an odd side is padded with.
    fn hint_tokens(&self, hint: &Tensor) -> Result<Tensor> {
        let latent = latents::WAN_2_1.normalise(hint)?;
        let (_, channels, _, h, w) = latent.dims5()?;
        let channels = (self.hint_in.inputs() / 4).saturating_sub(channels);
        let latent = latent.pad_with_zeros(1, 0, channels)?;
        let latent = latent.pad_with_zeros(3, 0, h % 2)?.pad_with_zeros(4, 0, w % 2)?;
        self.hint_in.forward(&patchify(&latent)?.to_dtype(self.compute.dtype())?)
    }
}

impl ControlNet for QwenFunControlNet {
    fn mask_channels(&self) -> usize {
        0
    }

    fn forward(&self, seen: &Seen<'_>, hint: &Tensor) -> Result<Words> {
        let steered = seen.network.downcast_ref::<QwenImage>().ok_or(Error::OtherFamily)?;
        let trunk = &steered.trunk;
        let time = map(&trunk.embed_time(seen.t)?, silu)?;
        // Of a layered picture, the hint is for the whole.
        let mut pass = trunk.begin(&seen.x.narrow(2, 0, 1)?, &Cond::new(seen.text.clone()))?;
        let hint = self.before.forward(&self.hint_tokens(hint)?)?;
        pass.tokens.image = (pass.tokens.image + for_batch(&hint, seen.x.dim(0)?)?)?;
        let mut tokens = Vec::with_capacity(self.blocks.len());
        let mut room = trunk.room();
        let stay = self.resident.visit(trunk.working_bytes(&[pass.tokens.count()?]))?;
        let _ends = stay.part(ENDS)?;
        for (index, (block, word)) in self.blocks.iter().enumerate() {
            seen.stop.check()?;
            let _weights = stay.part(BLOCKS + index)?;
            block.forward(&mut pass, &block.modulation(&time, None)?, &mut room)?;
            tokens.push(word.forward(&pass.tokens.image)?);
        }
        let heard = |block: usize| block.is_multiple_of(BETWEEN_WORDS).then_some(block / BETWEEN_WORDS);
        Ok(Words { tokens, heard: (0..STEERED).map(heard).collect() })
    }
}
