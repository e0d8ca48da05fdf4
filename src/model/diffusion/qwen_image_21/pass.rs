//! One conditioning on its way through the network.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::block::{Block, Modulation, Room, Way};
use super::prefix::{Kept, Packed};
use super::sequence::{Piece, Sequence};
use crate::device::ops::Numbers;
use crate::model::diffusion::axes::Rotations;
use crate::model::{Cond, Precision, Result};
use crate::stop::Stop;

/// What is the same for all passes of a step.
pub struct Step<'a> {
    /// For the target, and for what comes before it.
    pub now: &'a Modulation,
    pub clean: &'a Modulation,
    /// How keys and values are kept, if they are.
    pub keep: Option<(Precision, Numbers)>,
    pub stop: &'a Stop,
}

pub struct Pass {
    pub size: Size,
    rotations: Rotations,
    pieces: Vec<Piece>,
    last: [Piece; 1],
    before: Before,
    /// (targets, tokens, width).
    target: Vec<f32>,
    width: usize,
}

/// The tokens before the target.
pub enum Before {
    /// Their keys and values.
    Kept(Arc<Kept>),
    /// Those of each text.
    Read(Vec<Vec<f32>>),
}

/// How many tokens there are.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Before the target, and of it, in one sequence.
    pub prefix: usize,
    pub target: usize,
    /// The texts of the batch, with which its items take turns.
    pub texts: usize,
    pub items: usize,
    /// Each of an item is a picture of its own.
    pub frames: usize,
}

impl Size {
    /// For a latent of the shape `x`.
    pub fn new(sequence: &Sequence, x: &[usize], cond: &Cond) -> Result<Self> {
        let (prefix, target) = (sequence.prefix(), sequence.target());
        Ok(Self { prefix, target, texts: cond.text.dim(0)?, items: x[0], frames: x[2] })
    }

    /// Those of the whole batch.
    pub fn all(self) -> usize {
        self.texts * self.prefix + self.items * self.frames * self.target
    }
}

/// The cells of a latent as rows of channels: (items times frames, cells, channels).
pub fn pictures(latent: &Tensor) -> Result<Tensor> {
    let (items, channels, frames, h, w) = latent.dims5()?;
    Ok(latent.permute([0, 2, 3, 4, 1])?.reshape((items * frames, h * w, channels))?)
}

fn numbers(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

impl Before {
    /// `tokens`: (texts, tokens, width).
    pub fn read(tokens: &Tensor) -> Result<Self> {
        let texts = tokens.dim(0)?;
        Ok(Self::Read((0..texts).map(|text| numbers(&tokens.get(text)?)).collect::<Result<_>>()?))
    }
}

impl Pass {
    /// `target`: (items times frames, tokens, width).
    pub fn new(
        (sequence, size): (&Sequence, Size),
        rotations: Rotations,
        before: Before,
        target: &Tensor,
    ) -> Result<Self> {
        Ok(Self {
            size,
            rotations,
            pieces: sequence.pieces(),
            last: [sequence.last()],
            before,
            width: target.dim(2)?,
            target: numbers(target)?,
        })
    }

    /// Whether it reads the tokens before the target.
    pub fn reads(&self) -> bool {
        matches!(self.before, Before::Read(_))
    }

    /// Takes the tokens through the block that is the `index`th of those there, and gives what is kept of it.
    pub fn advance(
        &mut self,
        (index, block): (usize, &Block),
        step: &Step<'_>,
        room: &mut Room,
    ) -> Result<Vec<[Packed; 2]>> {
        let Self { size, rotations, pieces, last, before, target, width } = self;
        let before_target = size.prefix * *width;
        let one = size.target * *width;
        room.begin(before_target + one);
        let way = |modulation, pieces| Way { modulation, rotations: &*rotations, pieces };
        let mut kept = Vec::new();
        for text in 0..size.texts {
            step.stop.check()?;
            match before {
                Before::Kept(kept) => unpack(&kept.blocks[index][text], room.seen(before_target)),
                Before::Read(texts) => {
                    block.forward(&mut texts[text], way(step.clean, pieces), room);
                    if let Some((precision, numbers)) = step.keep {
                        let seen = room.seen(before_target);
                        let packed = seen.map(|seen| Packed::new(seen, precision, numbers));
                        // Every step sees what the later ones see.
                        unpack(&packed, room.seen(before_target));
                        kept.push(packed);
                    }
                }
            }
            for (item, target) in target.chunks_mut(one.max(1)).enumerate() {
                if item / size.frames % size.texts == text {
                    step.stop.check()?;
                    block.forward(target, way(step.now, last), room);
                }
            }
        }
        Ok(kept)
    }

    /// (items times frames, tokens, width).
    pub fn into_target(self) -> Result<Tensor> {
        let Size { target, items, frames, .. } = self.size;
        Ok(Tensor::from_vec(self.target, (items * frames, target, self.width), &Device::Cpu)?)
    }
}

fn unpack(packed: &[Packed; 2], seen: [&mut [f32]; 2]) {
    packed.iter().zip(seen).for_each(|(packed, seen)| packed.unpack(seen));
}
