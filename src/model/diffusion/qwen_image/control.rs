//! DiffSynth's control for Qwen-Image: a picture steers the network from beside, block by block.
//!
//! One small network per block looks at the picture tokens of the block and at the tokens of the hint, and
//! what it says is added to the block's. Format and formula: the DiffSynth-Studio project's
//! Qwen-Image-Blockwise-ControlNet.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;

use super::add_to_first;
use super::patches::patchify;
use crate::model::parts::{Linear, RmsNorm, gelu};
use crate::model::{Error, Hint, Result, latents};
use crate::stop::Stop;
use crate::weights::{File, Weights};

const EPS: f64 = 1e-6;

/// The networks of one control file.
pub struct BlockControl {
    image_in: Linear,
    blocks: Vec<ControlBlock>,
}

struct ControlBlock {
    image_norm: RmsNorm,
    hint_norm: RmsNorm,
    input: Linear,
    output: Linear,
}

impl BlockControl {
    /// Whether a file holds such networks.
    pub fn claims(weights: &Weights) -> bool {
        weights.has("controlnet_blocks.0.y_rms.weight")
    }

    pub fn load(file: Arc<File>) -> Result<Self> {
        let weights = Weights::new(file.clone(), "");
        if !Self::claims(&weights) {
            return Err(Error::OtherKind {
                file: file.name(),
                expected: "a model patch",
                supported: vec!["DiffSynth's controls for Qwen-Image"],
                found: crate::model::recognise::kind(file.header()),
            });
        }
        weights.build(|weights| {
            let width = weights.side("img_in.weight", 0)?;
            let features = weights.side("img_in.weight", 1)?;
            let block = |index: usize| {
                let block = weights.at("controlnet_blocks").at(index);
                Ok(ControlBlock {
                    image_norm: RmsNorm::load(&block.at("x_rms"), width, EPS)?,
                    hint_norm: RmsNorm::load(&block.at("y_rms"), width, EPS)?,
                    input: Linear::load(&block.at("input_proj"), width, width)?,
                    output: Linear::load(&block.at("output_proj"), width, width)?,
                })
            };
            Ok(Self {
                image_in: Linear::load(&weights.at("img_in"), features, width)?,
                blocks: (0..weights.count("controlnet_blocks")).map(block).collect::<Result<_>>()?,
            })
        })
    }

    /// How many channels of mask its hints have after those of the latent.
    pub fn mask_channels(&self) -> usize {
        self.image_in.inputs() / 4 - latents::WAN_2_1.channels
    }

    /// The tokens of a hint: (1, channels and mask channels, 1, h, w), not normalised.
    pub fn tokens(&self, hint: &Tensor) -> Result<Tensor> {
        let format = &latents::WAN_2_1;
        let mut latent = format.normalise(&hint.narrow(1, 0, format.channels)?)?;
        if self.mask_channels() > 0 {
            let mask = hint.narrow(1, format.channels, self.mask_channels())?;
            latent = Tensor::cat(&[&latent, &mask], 1)?;
        }
        self.image_in.forward(&patchify(&latent)?)
    }

    /// What is to be added to the picture tokens of a block; `None` for blocks the file knows nothing of.
    pub fn change(&self, block: usize, image: &Tensor, hint: &Tensor) -> Result<Option<Tensor>> {
        let Some(block) = self.blocks.get(block) else { return Ok(None) };
        let both = (block.image_norm.forward(image)? + block.hint_norm.forward(hint)?)?;
        Ok(Some(block.output.forward(&gelu(&block.input.forward(&both)?)?)?))
    }
}

/// A control with its hint and strength.
pub struct Applied {
    control: BlockControl,
    hint: Arc<dyn Hint>,
    strength: f64,
    /// The tokens of the last size asked for.
    tokens: Mutex<Option<([usize; 2], Tensor)>>,
}

impl Applied {
    pub fn new(control: BlockControl, hint: Arc<dyn Hint>, strength: f64) -> Self {
        Self { control, hint, strength, tokens: Mutex::default() }
    }

    /// The hint's tokens for a latent of (h, w) cells.
    pub fn tokens(&self, (h, w): (usize, usize), stop: &Stop) -> Result<Tensor> {
        let mut kept = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((size, tokens)) = &*kept
            && *size == [h, w]
        {
            return Ok(tokens.clone());
        }
        let hint = self.hint.latent([h, w], self.control.mask_channels(), stop)?;
        let tokens = self.control.tokens(&hint)?;
        *kept = Some(([h, w], tokens.clone()));
        Ok(tokens)
    }

    /// The picture tokens after a block with the control's word added to the first of them: references are
    /// left alone.
    pub fn steer(&self, block: usize, image: Tensor, tokens: &Tensor) -> Result<Tensor> {
        let (batch, count) = (image.dim(0)?, tokens.dim(1)?.min(image.dim(1)?));
        let seen = image.narrow(1, 0, count)?;
        let hint = tokens.narrow(1, 0, count)?.to_dtype(image.dtype())?.repeat((batch, 1, 1))?;
        let Some(change) = self.control.change(block, &seen, &hint)? else { return Ok(image) };
        add_to_first(&image, &(change * self.strength)?)
    }
}
