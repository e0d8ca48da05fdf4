//! InstantX's ControlNets for Qwen-Image: the first blocks of the network once more, with a hint added to the picture
//! tokens; what each block says is heard by a share of the steered network's blocks.

use candle_core::Tensor;

use super::patches::patchify;
use super::trunk::{Trunk, for_batch};
use crate::model::control::{ControlNet, Seen, Words};
use crate::model::diffusion::leases::{BLOCKS, ENDS};
use crate::model::parts::{Linear, map, silu};
use crate::model::{Compute, Cond, Result, latents};
use crate::weights::Weights;

/// Blocks of the steered network, however many it has.
pub const STEERED: usize = 60;

pub struct QwenControlNet {
    compute: Compute,
    trunk: Trunk,
    hint_in: Linear,
    words: Vec<Linear>,
}

impl QwenControlNet {
    /// Whether a file holds such a network.
    pub fn claims(weights: &Weights) -> bool {
        weights.has("controlnet_blocks.0.weight")
            && weights.has("transformer_blocks.0.img_mlp.net.0.proj.weight")
            && weights.has("controlnet_x_embedder.weight")
    }

    pub fn load(weights: Weights, compute: Compute) -> Result<Self> {
        weights.multiplied_with(compute.numbers()).build(|weights| {
            let trunk = Trunk::load(weights, compute, &[])?;
            let features = weights.side("controlnet_x_embedder.weight", 1)?;
            let word =
                |index| Linear::load(&weights.at("controlnet_blocks").at(index), trunk.width, trunk.width);
            Ok(Self {
                compute,
                hint_in: Linear::load(&weights.at("controlnet_x_embedder"), features, trunk.width)?,
                words: (0..trunk.blocks.len()).map(word).collect::<Result<_>>()?,
                trunk,
            })
        })
    }
}

impl ControlNet for QwenControlNet {
    fn mask_channels(&self) -> usize {
        (self.hint_in.inputs() - self.trunk.features) / 4
    }

    fn forward(&self, seen: &Seen<'_>, hint: &Tensor) -> Result<Words> {
        let Seen { x, t, text, stop, .. } = *seen;
        let format = &latents::WAN_2_1;
        let latent = format.normalise(&hint.narrow(1, 0, format.channels)?)?;
        let mask = hint.narrow(1, format.channels, hint.dim(1)? - format.channels)?;
        let hint = patchify(&Tensor::cat(&[&latent, &mask], 1)?)?.to_dtype(self.compute.dtype())?;
        let time = map(&self.trunk.embed_time(t)?, silu)?;
        let mut pass = self.trunk.begin(x, &Cond::new(text.clone()))?;
        let hint = for_batch(&self.hint_in.forward(&hint)?, x.dim(0)?)?;
        pass.tokens.image = (pass.tokens.image + hint)?;
        let mut tokens = Vec::with_capacity(self.words.len());
        let mut room = self.trunk.room();
        let stay = self.trunk.resident.visit(self.trunk.working_bytes(&[pass.tokens.count()?]))?;
        let _ends = stay.part(ENDS)?;
        for (index, (block, word)) in self.trunk.blocks.iter().flatten().zip(&self.words).enumerate() {
            stop.check()?;
            let _weights = stay.part(BLOCKS + index)?;
            block.forward(&mut pass, &block.modulation(&time, None)?, &mut room)?;
            tokens.push(word.forward(&pass.tokens.image)?);
        }
        let blocks_each = STEERED.div_ceil(tokens.len().max(1));
        Ok(Words { tokens, heard: (0..STEERED).map(|block| Some(block / blocks_each)).collect() })
    }
}
