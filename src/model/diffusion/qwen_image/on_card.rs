//! The blocks of the network on a graphics card; everything around them stays with the processor.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Tensor};
use half::bf16;

use super::block::{Block, BlockOnCard, ModulationOnCard, Sequence, Tokens, Workspace};
use super::trunk::Pass;
use crate::device::cuda::launch::Address;
use crate::device::cuda::machine::{Buffer, bf16_bytes, bf16_values, f32_bytes};
use crate::model::Result;
use crate::model::card::{Card, Sitting, Ticket};
use crate::model::parts::{Scratch, with_slices};

/// What a network has on the card while it sits there.
pub struct Place {
    card: Card,
    ticket: Ticket,
    blocks: Mutex<Vec<Option<BlockOnCard>>>,
}

impl Place {
    /// `None` where the card cannot do what the blocks do, which is said.
    pub fn new(card: &Card, blocks: &[Option<Block>]) -> Option<Self> {
        if !blocks.iter().flatten().all(Block::suits_cards) {
            tracing::warn!(
                "the processor computes this network: adapters that change whole matrices, or matrices kept in eight \
                 bits, are beyond the graphics card"
            );
            return None;
        }
        Some(Self { card: card.clone(), ticket: Ticket::default(), blocks: Mutex::default() })
    }

    /// Takes passes to the card, with the time embeddings that blocks are modulated by.
    pub fn begin<'a>(
        &'a self,
        blocks: &'a [Option<Block>],
        passes: &[Pass],
        times: (&Tensor, Option<&Tensor>),
    ) -> Result<Visit<'a>> {
        let mut sitting = self.card.sit(&self.ticket)?;
        let mut there = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if sitting.anew {
            there.clear();
            there.resize_with(blocks.len(), || None);
        }
        let width = passes.iter().map(|pass| pass.tokens.text.dim(2)).next().unwrap_or(Ok(0))?;
        let mut most = 0;
        let mut sequences = Vec::with_capacity(passes.len());
        for pass in passes {
            most = most.max(pass.tokens.text.dim(1)? + pass.tokens.image.dim(1)?);
            sequences.push(lay(&mut sitting, pass)?);
        }
        let rank = blocks.iter().flatten().map(Block::rank).max().unwrap_or(0);
        let space = workspace(&mut sitting, most, width, rank)?;
        let mut time = |tensor: &Tensor| -> Result<_> { Ok(sitting.lay(&bytes(tensor)?)?.at) };
        let times = (time(times.0)?, times.1.map(time).transpose()?);
        let mut vectors = || sitting.room(2 * 6 * width);
        let modulation = ModulationOnCard { text: vectors()?, image: vectors()?, clean: vectors()? };
        Ok(Visit { sitting, blocks, there, sequences, space, times, modulation, width })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.card.leave(&self.ticket);
    }
}

/// The passes of one step on the card.
pub struct Visit<'a> {
    sitting: Sitting<'a>,
    blocks: &'a [Option<Block>],
    there: MutexGuard<'a, Vec<Option<BlockOnCard>>>,
    /// For each pass, one for each item of its batch.
    sequences: Vec<Vec<(Sequence, Buffer)>>,
    space: Workspace,
    times: (Address, Option<Address>),
    modulation: ModulationOnCard,
    width: usize,
}

impl Visit<'_> {
    /// Makes block `index` ready for all passes.
    pub fn modulate(&mut self, index: usize) -> Result<()> {
        let (Some(block), Some(there)) = (&self.blocks[index], self.there.get_mut(index)) else {
            return Ok(());
        };
        if there.is_none() {
            *there = Some(block.bring(self.sitting.machine()).inspect_err(|_| self.sitting.give_up())?);
        }
        let Some(block) = there else { return Ok(()) };
        block.modulate(self.sitting.machine(), &self.space.scratch, self.times, self.modulation)
    }

    /// Whether the weights of block `index` are there.
    pub fn has(&self, index: usize) -> bool {
        self.there.get(index).is_some_and(Option::is_some)
    }

    /// Takes a pass through block `index`.
    pub fn forward(&mut self, pass: usize, index: usize) -> Result<()> {
        let Some(Some(block)) = self.there.get(index) else { return Ok(()) };
        for (sequence, _) in &self.sequences[pass] {
            block.forward(self.sitting.machine(), &self.space, sequence, self.modulation)?;
        }
        Ok(())
    }

    /// Gives a pass the tokens that it has on the card.
    pub fn fetch(&mut self, number: usize, pass: &mut Pass) -> Result<()> {
        let (mut texts, mut images) = (Vec::new(), Vec::new());
        for (sequence, buffer) in &self.sequences[number] {
            let values = bf16_values(&self.sitting.machine().download(*buffer)?);
            let shape = (1, sequence.texts + sequence.images, self.width);
            let all = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(pass.tokens.text.dtype())?;
            texts.push(all.narrow(1, 0, sequence.texts)?);
            images.push(all.narrow(1, sequence.texts, sequence.images)?);
        }
        pass.tokens = Tokens { text: Tensor::cat(&texts, 0)?, image: Tensor::cat(&images, 0)? };
        Ok(())
    }

    /// Brings the tokens of a pass, which were changed, back to the card.
    pub fn put(&mut self, number: usize, pass: &Pass) -> Result<()> {
        for (item, (sequence, buffer)) in self.sequences[number].iter_mut().enumerate() {
            self.sitting.clear_away(*buffer);
            *buffer = self.sitting.lay(&joined(&pass.tokens, item)?)?;
            sequence.x = buffer.at;
        }
        Ok(())
    }
}

/// Brings a pass to the card.
fn lay(sitting: &mut Sitting<'_>, pass: &Pass) -> Result<Vec<(Sequence, Buffer)>> {
    let (texts, images) = (pass.tokens.text.dim(1)?, pass.tokens.image.dim(1)?);
    let [cos, sin] = pass.rotations.tables();
    let rotations = [sitting.lay(&f32_bytes(cos))?.at, sitting.lay(&f32_bytes(sin))?.at];
    let clean = pass.clean.unwrap_or(images);
    let sequence = |item| {
        let buffer = sitting.lay(&joined(&pass.tokens, item)?)?;
        Ok((Sequence { x: buffer.at, texts, images, clean, rotations }, buffer))
    };
    (0..pass.tokens.text.dim(0)?).map(sequence).collect()
}

/// Text and picture tokens of one item of a batch.
fn joined(Tokens { text, image }: &Tokens, item: usize) -> Result<Vec<u8>> {
    bytes(&Tensor::cat(&[&text.narrow(0, item, 1)?, &image.narrow(0, item, 1)?], 1)?)
}

fn workspace(sitting: &mut Sitting<'_>, tokens: usize, width: usize, rank: usize) -> Result<Workspace> {
    let ones = sitting.lay(&bf16_bytes(&vec![1.0; 6 * width]))?.at;
    let mut room = |count: usize| sitting.room(count * size_of::<bf16>());
    let added = if rank == 0 { 0 } else { tokens * 4 * width };
    let scratch =
        Scratch { weight: room(6 * width * width)?, low: room(tokens * rank)?, added: room(added)?, ones };
    Ok(Workspace {
        normed: room(tokens * width)?,
        q: room(tokens * width)?,
        k: room(tokens * width)?,
        v: room(tokens * width)?,
        mixed: room(tokens * width)?,
        inner: room(tokens * 4 * width)?,
        scratch,
    })
}

/// The numbers of a tensor, as a card takes them.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    with_slices([tensor], |[values]| bf16_bytes(values))
}
