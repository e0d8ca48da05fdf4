//! The blocks of the network on a graphics card; everything around them stays with the processor.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use half::bf16;

use super::block::{Block, BlockOnCard, ModulationOnCard, Pass, Sequence, Tokens, Workspace};
use super::trunk::Trunk;
use crate::device::cuda::launch::Address;
use crate::device::cuda::machine::{Buffer, bf16_bytes, bf16_values, f32_bytes};
use crate::device::cuda::store::Parcel;
use crate::model::Result;
use crate::model::card::{self, Card, Desk, Lease, Pack, Parts, Sitting};
use crate::model::diffusion::leases::BLOCKS;
use crate::model::parts::{Scratch, with_slices};

/// The widest layer, the one of a timestep, in widths of a token.
const WIDEST: usize = 6;

/// The blocks as a card knows them.
pub struct Place {
    card: Card,
    network: Arc<Parts>,
    /// The part that each block is.
    parts: Vec<Option<usize>>,
    /// The highest rank of what is added to a product.
    rank: usize,
    width: usize,
}

impl Place {
    /// `None` where the card cannot do what the blocks do, which is said.
    pub fn new(card: &Card, trunk: &Trunk) -> Result<Option<Self>> {
        if !trunk.blocks.iter().flatten().all(|block| block.suits_cards()) {
            tracing::warn!(
                "the processor computes this network: adapters that change whole matrices, or changed matrices that \
                 are to be kept in eight bits, are beyond the graphics card"
            );
            return Ok(None);
        }
        let (mut rows, mut parts) = (Vec::new(), Vec::new());
        for (index, block) in trunk.blocks.iter().enumerate() {
            parts.push(block.is_some().then_some(rows.len()));
            let Some(block) = block.clone() else { continue };
            let pack: Pack = Box::new(move |parcel| block.pack(parcel).map(drop));
            rows.push((BLOCKS + index, pack));
        }
        let network = card::parts(&trunk.resident, rows)?;
        let rank = trunk.blocks.iter().flatten().map(|block| block.rank()).max().unwrap_or(0);
        Ok(Some(Self { card: card.clone(), network, parts, rank, width: trunk.width }))
    }

    /// Begins a step with these passes.
    pub fn sit(&self, passes: &[Pass]) -> Result<Sitting<'_>> {
        let mut parcel = Parcel::at(Address(0));
        for pass in passes {
            parcel.skip(pass.tokens.count()? * self.width * size_of::<bf16>());
            for table in pass.rotations.tables() {
                parcel.skip(size_of_val(table));
            }
        }
        // Vectors of ones, and of two timesteps.
        parcel.skip((WIDEST + 2) * self.width * size_of::<bf16>());
        self.workspace(&mut parcel, longest(passes)?, Address(0));
        self.card.sit(&self.network, parcel.bytes())
    }

    /// What blocks work in, for so many tokens at a time.
    fn workspace(
        &self,
        parcel: &mut Parcel<'_, '_>,
        tokens: usize,
        ones: Address,
    ) -> (Workspace, ModulationOnCard) {
        let width = self.width;
        let mut room = |count: usize| parcel.skip(count * size_of::<bf16>());
        let added = if self.rank == 0 { 0 } else { tokens * 4 * width };
        let scratch = Scratch {
            weight: room(WIDEST * width * width),
            numbers: WIDEST * width * width,
            low: room(tokens * self.rank),
            added: room(added.max(WIDEST * width)),
            ones,
        };
        let space = Workspace {
            normed: room(tokens * width),
            q: room(tokens * width),
            k: room(tokens * width),
            v: room(tokens * width),
            mixed: room(tokens * width),
            inner: room(tokens * 4 * width),
            scratch,
        };
        let mut vectors = || room(WIDEST * width);
        (space, ModulationOnCard { text: vectors(), image: vectors(), clean: vectors() })
    }

    /// Lays passes out, with the time embeddings that blocks are modulated by.
    pub fn begin<'a>(
        &'a self,
        sitting: &'a Sitting<'a>,
        blocks: &'a [Option<Arc<Block>>],
        passes: &[Pass],
        times: (&Tensor, Option<&Tensor>),
    ) -> Result<Visit<'a>> {
        let mut desk = sitting.desk();
        let sequences = passes.iter().map(|pass| lay(&mut desk, pass)).collect::<Result<Vec<_>>>()?;
        let most = longest(passes)?;
        let ones = desk.lay(&bf16_bytes(&vec![1.0; WIDEST * self.width]))?.at;
        let mut parcel = Parcel::at(Address(0));
        self.workspace(&mut parcel, most, ones);
        let base = desk.room(parcel.bytes() as usize)?.at;
        let (space, modulation) = self.workspace(&mut Parcel::at(base), most, ones);
        let mut time = |tensor: &Tensor| -> Result<_> { Ok(desk.lay(&bytes(tensor)?)?.at) };
        let times = (time(times.0)?, times.1.map(time).transpose()?);
        Ok(Visit { place: self, sitting, desk, blocks, now: None, sequences, space, times, modulation })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.card.forget(&self.network);
    }
}

/// The passes of one step on the card.
pub struct Visit<'a> {
    place: &'a Place,
    sitting: &'a Sitting<'a>,
    desk: Desk<'a>,
    blocks: &'a [Option<Arc<Block>>],
    /// The block at work.
    now: Option<(BlockOnCard, Lease<'a>)>,
    /// For each pass, one for each item of its batch.
    sequences: Vec<Vec<(Sequence, Buffer)>>,
    space: Workspace,
    times: (Address, Option<Address>),
    modulation: ModulationOnCard,
}

impl Visit<'_> {
    /// Makes block `index` ready for all passes.
    pub fn modulate(&mut self, index: usize) -> Result<()> {
        // The one before makes room.
        self.now = None;
        let (Some(block), Some(part)) = (&self.blocks[index], self.place.parts[index]) else { return Ok(()) };
        let lease = self.sitting.part(part)?;
        let there = block.pack(&mut Parcel::at(lease.room().at()))?;
        let (mut machine, scratch) = (self.desk.machine(), &self.space.scratch);
        lease.room().once(there.layers(), |layer| layer.settle(&mut **machine, scratch))?;
        there.modulate(&mut **machine, scratch, self.times, self.modulation)?;
        drop(machine);
        self.now = Some((there, lease));
        Ok(())
    }

    /// Takes a pass through the block that was made ready.
    pub fn forward(&mut self, pass: usize) -> Result<()> {
        let Some((block, _)) = &self.now else { return Ok(()) };
        for (sequence, _) in &self.sequences[pass] {
            block.forward(&mut **self.desk.machine(), &self.space, sequence, self.modulation)?;
        }
        Ok(())
    }

    /// Gives a pass the tokens that it has on the card.
    pub fn fetch(&mut self, number: usize, pass: &mut Pass) -> Result<()> {
        let (mut texts, mut images) = (Vec::new(), Vec::new());
        for (sequence, buffer) in &self.sequences[number] {
            let values = bf16_values(&self.desk.machine().download(*buffer)?);
            let shape = (1, sequence.texts + sequence.images, self.place.width);
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
            self.desk.clear_away(*buffer);
            *buffer = self.desk.lay(&joined(&pass.tokens, item)?)?;
            sequence.x = buffer.at;
        }
        Ok(())
    }
}

/// Brings a pass to the card.
fn lay(desk: &mut Desk<'_>, pass: &Pass) -> Result<Vec<(Sequence, Buffer)>> {
    let (texts, images) = (pass.tokens.text.dim(1)?, pass.tokens.image.dim(1)?);
    let [cos, sin] = pass.rotations.tables();
    let rotations = [desk.lay(&f32_bytes(cos))?.at, desk.lay(&f32_bytes(sin))?.at];
    let clean = pass.clean.unwrap_or(images);
    let sequence = |item| {
        let buffer = desk.lay(&joined(&pass.tokens, item)?)?;
        Ok((Sequence { x: buffer.at, texts, images, clean, rotations }, buffer))
    };
    (0..pass.tokens.text.dim(0)?).map(sequence).collect()
}

/// Text and picture tokens of one item of a batch.
fn joined(Tokens { text, image }: &Tokens, item: usize) -> Result<Vec<u8>> {
    bytes(&Tensor::cat(&[&text.narrow(0, item, 1)?, &image.narrow(0, item, 1)?], 1)?)
}

/// The tokens of the longest pass.
fn longest(passes: &[Pass]) -> Result<usize> {
    passes.iter().try_fold(0, |most, pass| Ok(most.max(pass.tokens.length()?)))
}

/// The numbers of a tensor, as a card takes them.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    with_slices([tensor], |[values]| bf16_bytes(values))
}
