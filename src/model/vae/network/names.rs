//! How files call the parts of such networks, and what kernels they have.

use super::conv::Conv;
use crate::device::ops::Resize;
use crate::model::Result;
use crate::weights::Weights;

/// Which half of a network, or which way pixels go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// In the encoder, from pixels to latents.
    Down,
    /// In the decoder, from latents to pixels.
    Up,
}

impl Direction {
    /// What belongs to this half, of a pair.
    pub fn of<T>(self, [encoder, decoder]: [T; 2]) -> T {
        match self {
            Self::Down => encoder,
            Self::Up => decoder,
        }
    }
}

/// The names of one program. Pairs are of encoder and decoder, where nothing else is said.
#[derive(Debug)]
pub struct Names {
    /// The convolution that begins a half.
    pub first: &'static str,
    /// In the middle of a half: a residual block, an attention, and another block.
    pub middle: [&'static str; 3],
    /// The norm and the convolution that end a half.
    pub head: [&'static str; 2],
    /// The convolutions after the encoder and before the decoder.
    pub points: [&'static str; 2],
    /// What else is in a half, numbered.
    pub stages: [&'static str; 2],
    /// What is in a stage, numbered, where stages have parts.
    pub blocks: [&'static str; 2],
    /// What resizes at the end of a stage, where it is not the last of the numbered.
    pub resizers: Option<[&'static str; 2]>,
    /// In a residual block: two norms, two convolutions, and the one around them.
    pub norms: [&'static str; 2],
    pub convs: [&'static str; 2],
    pub shortcut: &'static str,
}

/// Those of Wan, which ComfyUI keeps.
pub static WAN: Names = Names {
    first: "conv1",
    middle: ["middle.0", "middle.1", "middle.2"],
    head: ["head.0", "head.2"],
    points: ["conv1", "conv2"],
    stages: ["downsamples", "upsamples"],
    blocks: ["downsamples", "upsamples"],
    resizers: None,
    norms: ["residual.0", "residual.3"],
    convs: ["residual.2", "residual.6"],
    shortcut: "shortcut",
};

/// Those of diffusers.
pub static DIFFUSERS: Names = Names {
    first: "conv_in",
    middle: ["mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"],
    head: ["norm_out", "conv_out"],
    points: ["quant_conv", "post_quant_conv"],
    stages: ["down_blocks", "up_blocks"],
    blocks: ["resnets", "resnets"],
    resizers: Some(["downsampler", "upsampler"]),
    norms: ["norm1", "norm2"],
    convs: ["conv1", "conv2"],
    shortcut: "conv_shortcut",
};

/// What a file is like.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub names: &'static Names,
    /// How many frames the kernels see that see neighbours; none where kernels have no side for time.
    pub time: Option<usize>,
}

impl Form {
    /// A convolution of frames that keep their size.
    pub fn conv(&self, weights: &Weights, channels: [usize; 2], side: usize) -> Result<Conv> {
        match self.time {
            Some(time) => Conv::causal(weights, channels, if side == 1 { 1 } else { time }, side),
            None => Conv::plane(weights, channels, side, Resize::No),
        }
    }

    /// How many frames are joined where frames are resized at `weights`; none where each is resized alone.
    pub fn time_of(&self, weights: &Weights) -> Option<usize> {
        self.time.filter(|time| *time > 1 && weights.has("time_conv.weight"))
    }
}
