//! Networks and families: diffusion models, text encoders, VAEs.
//!
//! Deliberately knows no samplers and no graphs. No code outside a family asks which family it has:
//! it asks the family a question, through the traits below.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::device::cuda::{self, Fault};
use crate::device::ops::Numbers;
use crate::device::residency::Full;
use crate::stop::{Stop, Stopped};
use crate::weights::{self, Dtype, File, Patches, Weights};
use control::Steering;
use estimate::{Estimate, TextEstimate};
use lora::Lora;
use merge::Shares;
use notes::Notes;
use vae::Tiling;

pub mod card;
pub mod control;
pub mod diffusion;
pub mod dry;
pub mod estimate;
pub mod latents;
pub mod layouts;
pub mod lora;
mod memo;
pub mod merge;
pub mod notes;
pub mod parts;
pub mod planes;
pub mod preview;
mod recognise;
pub mod saving;
pub mod text;
pub mod upscale;
pub mod vae;

pub use recognise::{Identity, identify};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Weights(#[from] weights::Error),
    #[error(transparent)]
    Full(#[from] Full),
    #[error(transparent)]
    Text(#[from] text::Error),
    #[error("{file} is not {expected} this server can run ({}); it looks like {found}", .supported.join(", "))]
    OtherKind { file: String, expected: &'static str, supported: Vec<&'static str>, found: String },
    #[error(
        "{file} does not fit this model: `{module}` has the shape {expected:?}, the tensors in the LoRA have \
         {}; it was made for another model", shapes(.found)
    )]
    Lora { file: String, module: String, expected: Vec<usize>, found: Vec<Vec<usize>> },
    #[error("this ControlNet was made for Qwen-Image and the model is none; load one that was made for it")]
    OtherFamily,
    #[error(
        "a picture of {width} by {height} pixels is too small to encode; {least} by {least} is the least"
    )]
    TooSmall { width: usize, height: usize, least: usize },
    #[error("expected latents of {expected} channels, found {found}; these latents belong to another VAE")]
    Channels { expected: usize, found: usize },
    #[error(
        "this VAE decodes pictures, and the latent is a video of {found} frames; decode them one by one, as a batch"
    )]
    Frames { found: usize },
    #[error(
        "{file} does not fit its network: at `{place}`, {} and {} channels cannot be shared out evenly",
        .channels[0], .channels[1]
    )]
    Uneven { file: String, place: String, channels: [usize; 2] },
    #[error("expected vectors of {expected} numbers, found {found}; these inputs belong to another model")]
    Width { expected: usize, found: usize },
    #[error("token {id} does not exist; the vocabulary has {count} entries")]
    Token { id: u32, count: usize },
    /// Whoever makes the hint of a control failed.
    #[error(transparent)]
    Hint(Box<dyn std::error::Error + Send + Sync>),
    #[error("the graphics card failed at {0}")]
    Card(#[from] Fault),
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<cuda::store::Error> for Error {
    fn from(error: cuda::store::Error) -> Self {
        match error {
            cuda::store::Error::Full(full) => Self::Full(full),
            cuda::store::Error::Fault(fault) => Self::Card(fault),
        }
    }
}

fn shapes(found: &[Vec<usize>]) -> String {
    found.iter().map(|shape| format!("{shape:?}")).collect::<Vec<_>>().join(" and ")
}

/// The arithmetic of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// What a CPU does.
    #[default]
    F32,
    /// Numbers are rounded to BF16 where they are multiplied with each other; everything else is `f32`.
    Fast,
    /// What graphics cards do: activations rounded to BF16 after every step, sums in `f32`.
    Bf16,
}

impl Compute {
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Fast => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }

    /// What becomes of numbers that are multiplied with each other.
    pub fn numbers(self) -> Numbers {
        match self {
            Self::F32 => Numbers::Exact,
            Self::Fast | Self::Bf16 => Numbers::Rounded,
        }
    }

    /// How it is called in logs and figures.
    pub fn word(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Fast => "f32, products of bf16",
            Self::Bf16 => "bf16",
        }
    }

    /// The value as this arithmetic stores it.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 | Self::Fast => value,
            Self::Bf16 => half::bf16::from_f32(value).to_f32(),
        }
    }
}

/// A network that predicts velocity (rectified flow) in a latent space.
pub trait Diffusion: Send + Sync {
    /// The latent space it works in.
    fn latent(&self) -> &'static LatentFormat;

    /// The sigma schedule it was trained with.
    fn flow(&self) -> Flow;

    /// One prediction per entry of `conds`, all for the same noisy latent and timestep, so that what
    /// depends on the timestep alone (the modulation) is computed once.
    ///
    /// `x`: (batch, channels, frames, h, w), normalised, f32; `t`: the timestep, sigma in 0..1.
    /// Each result has the shape of `x`.
    fn forward(&self, x: &Tensor, t: f64, conds: &[&Cond], stop: &Stop) -> Result<Vec<Tensor>>;

    /// What [`Diffusion::forward`] costs for a latent of this shape.
    fn estimate(&self, x: &[usize], conds: &[&Cond]) -> Result<Estimate>;

    /// Where its tensors are.
    fn weights(&self) -> &Weights;

    /// The same network over the same weights with other patches; this one stays as it is.
    fn patched(&self, patches: Arc<Patches>) -> Result<Arc<dyn Diffusion>>;

    /// The same network with a LoRA file added at `strength`.
    fn with_lora(&self, file: Arc<File>, strength: f64) -> Result<Adapted<dyn Diffusion>> {
        self.with_loras(&[Lora::new(file, strength)])
    }

    /// The same network with LoRAs added in turn.
    fn with_loras(&self, loras: &[Lora]) -> Result<Adapted<dyn Diffusion>> {
        let patches = lora::patches(self.weights(), loras, lora::DIFFUSION)?;
        Ok(Adapted { network: self.patched(patches.network)?, used: patches.used })
    }

    /// The same network with another one mixed in; `shares` is asked with the names of tensors.
    fn merged_with(
        &self,
        other: &dyn Diffusion,
        shares: &dyn Fn(&str) -> Shares,
    ) -> Result<Arc<dyn Diffusion>> {
        self.patched(merge::patches(self.weights(), other.weights(), lora::DIFFUSION.place, shares))
    }

    /// The same network steered by a control file, whose word counts `strength`.
    fn with_control(
        &self,
        control: Arc<File>,
        hint: Arc<dyn Hint>,
        strength: f64,
    ) -> Result<Arc<dyn Diffusion>>;

    /// The same network with other arithmetic.
    fn computing_in(&self, compute: Compute) -> Result<Arc<dyn Diffusion>>;

    /// The same network without some of its blocks, over the same weights; numbers beyond the last block
    /// count for nothing.
    fn without_blocks(&self, blocks: &[usize]) -> Result<Arc<dyn Diffusion>>;

    /// The same network keeping its tokens before the picture in another way; `None` where every step changes them, so
    /// that there is nothing to keep.
    fn keeping(&self, _prefix: Prefix) -> Result<Option<Arc<dyn Diffusion>>> {
        Ok(None)
    }
}

/// What becomes of the keys and values of the tokens before the picture, in networks where no step changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Each step computes them anew.
    Recomputed,
    /// The first step of a run leaves them to the others.
    Kept(Precision),
}

impl Default for Prefix {
    fn default() -> Self {
        Self::Kept(Precision::default())
    }
}

/// How exactly numbers are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As attention multiplies them.
    #[default]
    Whole,
    /// Those of a head in steps of a 127th of the largest.
    Int8,
    /// Those of a head in steps of a 7th of the largest.
    Int4,
}

/// A network with a LoRA file added.
pub struct Adapted<T: ?Sized> {
    pub network: Arc<T>,
    /// The keys of the file that fit the network.
    pub used: BTreeSet<String>,
}

/// A picture that a control steers by, made at the size a run needs.
pub trait Hint: Send + Sync {
    /// (1, channels + mask channels, 1, h, w): a latent, not normalised, then the mask.
    fn latent(&self, size: [usize; 2], mask_channels: usize, stop: &Stop) -> Result<Tensor>;
}

/// What a prediction is conditioned on.
#[derive(Clone, Debug)]
pub struct Cond {
    /// (1 or batch, tokens, width), f32.
    pub text: Tensor,
    /// The rows of `text` that each picture the encoder saw lies in, in their order.
    pub pictures: Vec<Range<usize>>,
    /// Reference latents, normalised: each (1, channels, frames, h, w).
    pub references: Vec<Tensor>,
    /// The network's own way unless it is said.
    pub reference_method: Option<ReferenceMethod>,
    /// Networks that steer the prediction; their words add up.
    pub controls: Vec<Steering>,
    /// What networks keep of it.
    pub notes: Notes,
}

impl Cond {
    /// A text alone.
    pub fn new(text: Tensor) -> Self {
        Self {
            text,
            pictures: Vec::new(),
            references: Vec::new(),
            reference_method: None,
            controls: Vec::new(),
            notes: Notes::default(),
        }
    }
}

/// How reference latents are placed on the axes of the rotary embedding, and what timestep they are shown with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReferenceMethod {
    /// The k-th reference sits at k on the first axis.
    #[default]
    Index,
    /// As `Index`; and the network is told that references are free of noise.
    IndexTimestepZero,
    /// The k-th reference sits at -k on the first axis, on which layers count upwards.
    NegativeIndex,
    /// All references sit at 1 on the first axis, side by side on the others.
    Offset,
}

/// A rectified-flow schedule: the map from t in (0, 1] to sigma.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flow {
    /// `e^mu / (e^mu + 1/t - 1)`, as FLUX has it.
    Exponential { mu: f64 },
    /// `s t / (1 + (s - 1) t)`; the network is given `multiplier * sigma` as its timestep.
    Discrete { shift: f64, multiplier: f64 },
}

/// A latent space: its size and the constants that normalise it.
#[derive(Debug)]
pub struct LatentFormat {
    pub channels: usize,
    /// Pixels per latent cell, each way.
    pub scale: usize,
    /// Whether latents carry a frame axis.
    pub video: bool,
    /// Per channel: normalised = (z - mean) / std.
    pub mean: &'static [f32],
    pub std: &'static [f32],
    /// One row of (r, g, b) per channel, for previews without a decoder; none where they are not known.
    pub preview: &'static [[f32; 3]],
    pub preview_bias: [f32; 3],
    /// How the names of small decoders for this space begin.
    pub preview_decoders: &'static [&'static str],
}

/// What a text encoder is asked to read.
#[derive(Clone, Debug, Default)]
pub struct TextPrompt {
    pub text: String,
    /// Pictures for the vision tower, in the order of their placeholders: each (1, h, w, 3), f32, 0..1.
    pub images: Vec<Tensor>,
    /// Replaces the encoder's own template; `{}` is where the text goes.
    pub template: Option<&'static str>,
}

/// What a text encoder read.
#[derive(Clone, Debug)]
pub struct EncodedText {
    /// (1, tokens, width), f32.
    pub hidden: Tensor,
    /// The rows of `hidden` that each picture lies in, in their order.
    pub pictures: Vec<Range<usize>>,
    /// (1, tokens), where not all tokens count.
    pub attention_mask: Option<Tensor>,
    /// (1, width), for encoders that have one.
    pub pooled: Option<Tensor>,
}

pub trait TextEncoder: Send + Sync {
    fn encode(&self, prompt: &TextPrompt, stop: &Stop) -> Result<EncodedText>;

    /// What [`TextEncoder::encode`] costs, and how large its result is.
    fn estimate(&self, prompt: &TextPrompt) -> Result<TextEstimate>;

    /// The same encoder ending at a layer counted from the end, 1 being the last; without the final norm.
    fn ending_at(&self, layer: usize) -> Result<Arc<dyn TextEncoder>>;

    /// The same encoder with a graphics card that computes what it can.
    fn on_card(&self, card: &card::Card) -> Result<Arc<dyn TextEncoder>>;

    /// Where its tensors are.
    fn weights(&self) -> &Weights;

    /// How its modules are called in LoRA files.
    fn lora_names(&self) -> lora::Names;

    /// What ComfyUI holds those parameters in that are not marked as scaled fp8.
    fn held_in(&self) -> Option<Dtype>;

    /// The same encoder over the same weights with other patches.
    fn patched(&self, patches: Arc<Patches>) -> Result<Arc<dyn TextEncoder>>;

    /// As [`Diffusion::with_lora`].
    fn with_lora(&self, file: Arc<File>, strength: f64) -> Result<Adapted<dyn TextEncoder>> {
        self.with_loras(&[Lora::new(file, strength)])
    }

    /// As [`Diffusion::with_loras`].
    fn with_loras(&self, loras: &[Lora]) -> Result<Adapted<dyn TextEncoder>> {
        let patches = lora::patches(self.weights(), loras, self.lora_names())?;
        Ok(Adapted { network: self.patched(patches.network)?, used: patches.used })
    }

    /// As [`Diffusion::merged_with`].
    fn merged_with(
        &self,
        other: &dyn TextEncoder,
        shares: &dyn Fn(&str) -> Shares,
    ) -> Result<Arc<dyn TextEncoder>> {
        self.patched(merge::patches(self.weights(), other.weights(), self.lora_names().place, shares))
    }
}

/// An autoencoder between pixels and a latent space. Latents here are not normalised.
pub trait Vae: Send + Sync {
    fn latent(&self) -> &'static LatentFormat;

    /// Channels of its pictures: three colours, and for some how opaque they are.
    fn colours(&self) -> usize;

    /// Whether the pictures of a batch are the frames of one video; else each has a latent of its own.
    fn joins_pictures(&self) -> bool;

    /// `pixels`: (pictures, h, w, 3 or more), 0..1; of sides that are no multiples of the scale the centre is
    /// taken, and colours that are not there are full. Gives (batch, channels, frames', h', w').
    fn encode(&self, pixels: &Tensor, stop: &Stop) -> Result<Tensor>;

    /// `latent`: (batch, channels, frames', h', w'); gives (batch * frames, h, w, colours), 0..1.
    fn decode(&self, latent: &Tensor, stop: &Stop) -> Result<Tensor>;

    /// [`Vae::encode`] in tiles; the tiling counts frames and pixels.
    fn encode_tiled(&self, pixels: &Tensor, tiling: &Tiling, stop: &Stop) -> Result<Tensor>;

    /// [`Vae::decode`] in tiles; the tiling counts latent frames and cells.
    fn decode_tiled(&self, latent: &Tensor, tiling: &Tiling, stop: &Stop) -> Result<Tensor>;

    /// Where its tensors are.
    fn weights(&self) -> &Weights;

    /// The same autoencoder with a graphics card that computes what it can.
    fn on_card(&self, card: &card::Card) -> Result<Arc<dyn Vae>>;

    /// What encoding a picture of `h` by `w` pixels costs.
    fn estimate_encoding(&self, h: usize, w: usize) -> Estimate;

    /// What decoding a latent of `h` by `w` cells costs.
    fn estimate_decoding(&self, h: usize, w: usize) -> Estimate;

    /// Memory that work on one picture of `h` by `w` pixels takes, about.
    fn working_bytes(&self, h: usize, w: usize) -> u64;
}
