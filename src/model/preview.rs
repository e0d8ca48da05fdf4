//! Small decoders, to see what a latent will become: those of videos (TAEHV, by Ollin Boer Bohan), asked for one frame.

use std::sync::Arc;

use candle_core::Tensor;

use super::planes::{Conv, Planes, relu};
use super::{Error, Result, recognise};
use crate::weights::{File, Weights};

/// How far values may be from zero: beyond, they are bent.
const LARGEST: f32 = 3.0;

/// Layers of the list that are no blocks: the first convolution and the last.
const FIRST: usize = 1;
const LAST: usize = 22;

/// The first layers of the three stages, each of which doubles the sides, and how many blocks each begins with.
const STAGES: [usize; 3] = [3, 9, 15];
const BLOCKS: usize = 3;

pub struct PreviewDecoder {
    first: Conv,
    stages: Vec<Stage>,
    last: Conv,
}

/// Blocks, then larger planes and more frames.
struct Stage {
    blocks: Vec<Block>,
    /// Makes the channels of all frames that one becomes.
    grow: Conv,
    conv: Conv,
}

/// Three convolutions over a frame and the one before it.
struct Block {
    convs: [Conv; 3],
}

impl PreviewDecoder {
    pub fn load(file: Arc<File>) -> Result<Self> {
        let weights = Weights::new(file.clone(), "decoder");
        if !weights.has(&format!("{LAST}.weight")) {
            return Err(Error::OtherKind {
                file: file.name(),
                expected: "a decoder for previews",
                supported: vec!["TAEHV"],
                found: recognise::kind(file.header()),
            });
        }
        weights.build(|weights| {
            let conv = |name: &str, side| {
                let outputs = weights.side(&format!("{name}.weight"), 0)?;
                let inputs = weights.side(&format!("{name}.weight"), 1)?;
                Conv::load(&weights.at(name), [inputs, outputs], side)
            };
            let block = |index: usize| -> Result<Block> {
                let layer = |layer: usize| conv(&format!("{index}.conv.{layer}"), 3);
                Ok(Block { convs: [layer(0)?, layer(2)?, layer(4)?] })
            };
            let stage = |first: usize| -> Result<Stage> {
                Ok(Stage {
                    blocks: (first..first + BLOCKS).map(block).collect::<Result<_>>()?,
                    grow: conv(&format!("{}.conv", first + BLOCKS + 1), 1)?,
                    conv: conv(&(first + BLOCKS + 2).to_string(), 3)?,
                })
            };
            Ok(Self {
                first: conv(&FIRST.to_string(), 3)?,
                stages: STAGES.into_iter().map(stage).collect::<Result<_>>()?,
                last: conv(&LAST.to_string(), 3)?,
            })
        })
    }

    /// The picture, (h, w, 3), 0..1, of one frame of a normalised latent, (channels, h, w).
    pub fn decode(&self, latent: &Tensor) -> Result<Tensor> {
        let mut latent = Planes::from_tensor(latent)?;
        latent.values.iter_mut().for_each(|value| *value = (*value / LARGEST).tanh() * LARGEST);
        let mut frames = vec![relu(self.first.forward(&latent))];
        for stage in &self.stages {
            frames = stage.forward(frames);
        }
        // A decoder of videos makes several frames of one, of which the last is the picture.
        let picture = frames.pop().map_or(latent, |frame| self.last.forward(&relu(frame)));
        Ok(picture.to_tensor()?.permute((1, 2, 0))?.contiguous()?.clamp(0f32, 1f32)?)
    }
}

impl Stage {
    fn forward(&self, mut frames: Vec<Planes>) -> Vec<Planes> {
        for block in &self.blocks {
            frames = block.forward(&frames);
        }
        let mut larger = Vec::new();
        for frame in &frames {
            let width = frame.channels();
            let grown = self.grow.forward(&frame.repeated(2));
            let values = grown.values.chunks(width * grown.cells());
            larger.extend(
                values.map(|values| self.conv.forward(&Planes { values: values.to_vec(), size: grown.size })),
            );
        }
        larger
    }
}

impl Block {
    /// Nothing comes before the first frame.
    fn forward(&self, frames: &[Planes]) -> Vec<Planes> {
        let with_past = |(index, frame): (usize, &Planes)| {
            let mut both = frame.clone();
            match index.checked_sub(1).map(|past| &frames[past]) {
                Some(past) => both.values.extend(&past.values),
                None => both.values.resize(2 * frame.values.len(), 0.0),
            }
            let [one, two, three] = &self.convs;
            let mut sum = three.forward(&relu(two.forward(&relu(one.forward(&both)))));
            sum.add(&frame.values, 1.0);
            relu(sum)
        };
        frames.iter().enumerate().map(with_past).collect()
    }
}
