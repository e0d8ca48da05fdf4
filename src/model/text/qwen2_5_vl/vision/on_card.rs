//! The vision tower on a graphics card. The processor cuts a picture into patches and puts them into the order of windows.
//!
//! Heads are 80 wide, and the kernels know 128: each half of a head lies at the beginning of 64 numbers, of which the rest
//! are zeros in weights, rotations and states.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{AREA, Block, EPS, FULL, HEAD, Merger, ROW, Run, Vision};
use crate::device::cuda;
use crate::device::cuda::launch::{self, Address, Attention, HEAD_WIDTH};
use crate::device::cuda::machine::{Machine, Numbers, Product, bf16_bytes, bf16_values, f32_bytes};
use crate::device::cuda::store::Parcel;
use crate::model::Result;
use crate::model::card::{self, Card, Pack, Parts};
use crate::model::parts::{Linear, LinearOnCard, Spread, Then, with_slices};
use crate::model::text::qwen_vl::on_card::{self, MlpOnCard, NormOnCard, States};
use crate::model::text::qwen_vl::rotary::Rotary;
use crate::stop::Stop;
use crate::weights::Resident;

/// Half of a head in half of a head that the kernels know.
const HALF: Spread = Spread { of: HEAD / 2, to: HEAD_WIDTH / 2 };

/// The tower as a card knows it: the embedding of patches, the blocks, and what joins their patches.
pub struct Place {
    card: Card,
    network: Arc<Parts>,
    sizes: Sizes,
}

#[derive(Clone, Copy)]
struct Sizes {
    width: usize,
    /// All heads together, as they are spread.
    heads: usize,
    /// Between the layers of the MLP, as it is spread.
    inner: usize,
    /// Of a cell's patches together, and of a token.
    joined: usize,
    token: usize,
    /// Numbers of the largest matrix, of which that of queries, keys and values is three.
    largest: usize,
    /// The highest rank of what is added to a product.
    rank: usize,
}

/// Memory that the tower works in.
struct Workspace {
    q: Address,
    k: Address,
    v: Address,
    /// What the attention comes to.
    mixed: Address,
    joined: Address,
    rest: on_card::Workspace,
}

struct BlockOnCard {
    norm1: NormOnCard,
    qkv: LinearOnCard,
    proj: LinearOnCard,
    norm2: NormOnCard,
    mlp: MlpOnCard,
}

struct MergerOnCard {
    norm: NormOnCard,
    first: LinearOnCard,
    second: LinearOnCard,
}

impl Vision {
    fn linears(&self) -> impl Iterator<Item = &Linear> {
        let merger = [&self.merger.first, &self.merger.second];
        self.blocks.iter().flat_map(|block| block.linears()).chain(merger)
    }
}

impl Block {
    fn linears(&self) -> [&Linear; 5] {
        let [gate, up, down] = self.mlp.layers();
        [&self.qkv, &self.proj, gate, up, down]
    }

    /// Lays the weights out for a card.
    fn pack(&self, parcel: &mut Parcel<'_, '_>) -> cuda::Result<BlockOnCard> {
        Ok(BlockOnCard {
            norm1: NormOnCard::pack(&self.norm1, EPS, parcel)?,
            qkv: self.qkv.pack_spread(parcel, Spread::NONE, HALF)?,
            proj: self.proj.pack_spread(parcel, HALF, Spread::NONE)?,
            norm2: NormOnCard::pack(&self.norm2, EPS, parcel)?,
            mlp: self.mlp.pack(parcel)?,
        })
    }
}

impl Merger {
    fn pack(&self, parcel: &mut Parcel<'_, '_>) -> cuda::Result<MergerOnCard> {
        Ok(MergerOnCard {
            norm: NormOnCard::pack(&self.norm, EPS, parcel)?,
            first: self.first.pack(parcel)?,
            second: self.second.pack(parcel)?,
        })
    }
}

impl BlockOnCard {
    /// Takes states through the block, in place; rows attend within the windows of `runs`.
    fn forward(
        &self,
        machine: &mut dyn Machine,
        space: &Workspace,
        states: &States,
        (sizes, runs): (Sizes, &[Run]),
    ) -> Result<()> {
        let rows = states.rows;
        let Workspace { q, k, v, mixed, rest, .. } = space;
        states.normed(machine, &self.norm1, rest.normed)?;
        for (index, out) in [q, k, v].into_iter().enumerate() {
            let layer = self.qkv.giving(index * sizes.heads, sizes.heads);
            layer.forward(machine, &rest.scratch, (rest.normed, rows), *out, Then::Nothing)?;
        }
        let heads = sizes.heads / HEAD_WIDTH;
        for turned in [q, k] {
            machine.launch(&launch::rope_halves(*turned, states.rotations, [rows, heads]))?;
        }
        let (scale, mut first) = ((HEAD as f32).powf(-0.5), 0);
        for Run { count: sequences, rows } in runs {
            let (queries, keys, key_heads, causal) = (*rows, *rows, heads, false);
            let attention =
                Attention { queries, keys, heads, key_heads, scale, causal, sequences: *sequences };
            let [q, k, v, mixed] =
                [q, k, v, mixed].map(|matrix| Address(matrix.0 + (2 * first * sizes.heads) as u64));
            machine.launch(&attention.launch([q, k, v], mixed))?;
            first += sequences * rows;
        }
        states.add(machine, rest, &self.proj, *mixed)?;
        self.mlp.forward(machine, rest, states, &self.norm2)
    }
}

impl MergerOnCard {
    /// Joins states into `tokens`: (rows / 4, token).
    fn forward(
        &self,
        machine: &mut dyn Machine,
        space: &Workspace,
        states: &States,
        tokens: Address,
    ) -> Result<()> {
        let cells = states.rows / AREA;
        let Workspace { joined, rest, .. } = space;
        states.normed(machine, &self.norm, rest.normed)?;
        self.first.forward(machine, &rest.scratch, (rest.normed, cells), *joined, Then::GeluErf)?;
        self.second.forward(machine, &rest.scratch, (*joined, cells), tokens, Then::Nothing)
    }
}

impl Sizes {
    fn of(vision: &Vision) -> Option<Self> {
        let block = vision.blocks.first()?;
        let [width, heads] = [block.proj.outputs(), HALF.length(block.proj.inputs())];
        let inner = block.mlp.inner_on_card();
        let [joined, token] = [vision.merger.first.outputs(), vision.merger.second.outputs()];
        let largest = [width * heads, width * inner, joined * joined, joined * token];
        Some(Self {
            width,
            heads,
            inner,
            joined,
            token,
            largest: largest.into_iter().max()?,
            rank: vision.linears().map(Linear::rank).max()?,
        })
    }

    /// Columns of the widest result.
    fn widest(&self) -> usize {
        let Self { width, heads, inner, joined, token, .. } = *self;
        width.max(heads).max(inner).max(joined).max(token)
    }

    fn workspace(&self, parcel: &mut Parcel<'_, '_>, rows: usize, ones: Address) -> Workspace {
        let Self { width, heads, inner, joined, largest, rank, .. } = *self;
        let widest = if rank == 0 { 0 } else { self.widest() };
        let mut room = |count: usize| parcel.skip(2 * count);
        Workspace {
            q: room(rows * heads),
            k: room(rows * heads),
            v: room(rows * heads),
            mixed: room(rows * heads),
            joined: room(rows / AREA * joined),
            rest: on_card::Workspace::lay(parcel, rows, [width, inner], [largest, rank, widest], ones),
        }
    }
}

impl Place {
    /// `None` where the card cannot do what the tower does, which is said. `parts`: of what is around the layers, and of
    /// the first block, in main memory.
    pub fn new(card: &Card, vision: &Vision, resident: &Resident, parts: [usize; 2]) -> Result<Option<Self>> {
        let Some(sizes) = Sizes::of(vision) else { return Ok(None) };
        if !vision.linears().all(Linear::suits_cards) {
            tracing::warn!(
                "the processor looks at pictures: adapters that change whole matrices, or changed matrices that are to be \
                 kept in eight bits, are beyond the graphics card"
            );
            return Ok(None);
        }
        let [ends, first] = parts;
        let embed = with_slices([&vision.embed], |[values]| bf16_bytes(values))?;
        let embed: Pack = Box::new(move |parcel| parcel.add(embed.len(), || Cow::Borrowed(&embed)).map(drop));
        let mut rows = vec![(ends, embed)];
        for (index, block) in vision.blocks.iter().cloned().enumerate() {
            let pack: Pack = Box::new(move |parcel| block.pack(parcel).map(drop));
            rows.push((first + index, pack));
        }
        let merger = vision.merger.clone();
        rows.push((first + vision.blocks.len(), Box::new(move |parcel| merger.pack(parcel).map(drop))));
        Ok(Some(Self { card: card.clone(), network: card::parts(resident, rows)?, sizes }))
    }

    /// The tokens of patches in the order of `windows`: (rows / 4, token), from (rows, [`ROW`]).
    pub fn forward(
        &self,
        vision: &Vision,
        patches: &Tensor,
        (rotary, windows): (&Rotary, &[Run]),
        stop: &Stop,
    ) -> Result<Tensor> {
        let (rows, sizes) = (patches.dim(0)?, self.sizes);
        let patches = with_slices([patches], |[values]| bf16_bytes(values))?;
        let tables = rotary
            .tables()?
            .map(|table| HALF.apply(Cow::Owned(f32_bytes(&table)), size_of::<f32>()).into_owned());
        let ones = bf16_bytes(&vec![1.0; sizes.widest()]);
        let (states, tokens) = (2 * rows * sizes.width, 2 * rows / AREA * sizes.token);
        let mut work = Parcel::at(Address(0));
        for bytes in [patches.len(), tables[0].len(), tables[1].len(), ones.len(), states, tokens] {
            work.skip(bytes);
        }
        sizes.workspace(&mut work, rows, Address(0));
        let sitting = self.card.sit(&self.network, work.bytes())?;
        let bytes = sitting.retry(|| {
            let mut desk = sitting.desk();
            let patches = desk.lay(&patches)?.at;
            let rotations = [desk.lay(&tables[0])?.at, desk.lay(&tables[1])?.at];
            let ones = desk.lay(&ones)?.at;
            let (x, tokens) = (desk.room(states)?.at, desk.room(tokens)?);
            let mut parcel = Parcel::at(Address(0));
            sizes.workspace(&mut parcel, rows, ones);
            let base = desk.room(parcel.bytes() as usize)?.at;
            let space = sizes.workspace(&mut Parcel::at(base), rows, ones);
            let lease = sitting.part(0)?;
            let (w, inputs, outputs, numbers) = (lease.room().at(), ROW, sizes.width, Numbers::Bf16);
            desk.machine().multiply(&Product { numbers, rows, inputs, outputs, x: patches, w, out: x })?;
            drop(lease);
            let (states, whole) =
                (States { x, rows, width: sizes.width, rotations }, [Run { count: 1, rows }]);
            for (index, block) in vision.blocks.iter().enumerate() {
                stop.check()?;
                let runs = if FULL.contains(&index) { &whole[..] } else { windows };
                let lease = sitting.part(1 + index)?;
                let there = block.pack(&mut Parcel::at(lease.room().at()))?;
                there.forward(&mut **desk.machine(), &space, &states, (sizes, runs))?;
            }
            let lease = sitting.part(1 + vision.blocks.len())?;
            let merger = vision.merger.pack(&mut Parcel::at(lease.room().at()))?;
            merger.forward(&mut **desk.machine(), &space, &states, tokens.at)?;
            Ok(desk.machine().download(tokens)?)
        })?;
        Ok(Tensor::from_vec(bf16_values(&bytes), (rows / AREA, sizes.token), &Device::Cpu)?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.card.forget(&self.network);
    }
}
