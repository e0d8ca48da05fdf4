//! A block whose weights are on a graphics card: what the block does, as launches of kernels.

use std::borrow::Cow;

use super::{Block, EPS, HEAD_WIDTH, Stream};
use crate::device::cuda;
use crate::device::cuda::launch::{self, Address, Attention, Size};
use crate::device::cuda::machine::{Machine, bf16_bytes};
use crate::device::cuda::store::Parcel;
use crate::model::Result;
use crate::model::parts::{LinearOnCard, Scratch, Then};

pub struct BlockOnCard {
    text: StreamOnCard,
    image: StreamOnCard,
}

struct StreamOnCard {
    modulation: LinearOnCard,
    query: LinearOnCard,
    key: LinearOnCard,
    value: LinearOnCard,
    norm_query: Address,
    norm_key: Address,
    out: LinearOnCard,
    widen: LinearOnCard,
    narrow: LinearOnCard,
}

/// Memory for the work of a block, for a sequence of so many tokens of text and picture together.
pub struct Workspace {
    /// (tokens, width), each.
    pub normed: Address,
    pub q: Address,
    pub k: Address,
    pub v: Address,
    pub mixed: Address,
    /// (tokens, 4 width).
    pub inner: Address,
    pub scratch: Scratch,
}

/// A sequence on its way through the blocks: text, then the picture, then what is shown as free of noise.
pub struct Sequence {
    /// (tokens, width).
    pub x: Address,
    pub texts: usize,
    pub images: usize,
    /// The first picture token that is free of noise; `images` if none is.
    pub clean: usize,
    /// (tokens, head width / 2), each.
    pub rotations: [Address; 2],
}

/// The six vectors of text, picture, and what is free of noise, each (1, 6 width).
#[derive(Clone, Copy)]
pub struct ModulationOnCard {
    pub text: Address,
    pub image: Address,
    pub clean: Address,
}

/// Rows of a sequence that the same weights and vectors serve.
struct Segment<'a> {
    stream: &'a StreamOnCard,
    vectors: Address,
    first: usize,
    rows: usize,
}

/// Where row `row` begins, of BF16 numbers.
fn row(matrix: Address, row: usize, width: usize) -> Address {
    Address(matrix.0 + (2 * row * width) as u64)
}

impl Block {
    fn layers(&self) -> impl Iterator<Item = &super::Linear> {
        [&self.text, &self.image].into_iter().flat_map(|stream| {
            let Stream { modulation, query, key, value, out, widen, narrow, .. } = stream;
            [modulation, query, key, value, out, widen, narrow]
        })
    }

    pub fn suits_cards(&self) -> bool {
        self.layers().all(super::Linear::suits_cards)
    }

    /// The highest rank of what is added to a product.
    pub fn rank(&self) -> usize {
        self.layers().map(super::Linear::rank).max().unwrap_or(0)
    }

    /// Lays the weights out for a card.
    pub fn pack(&self, parcel: &mut Parcel<'_, '_>) -> cuda::Result<BlockOnCard> {
        Ok(BlockOnCard { text: self.text.pack(parcel)?, image: self.image.pack(parcel)? })
    }
}

impl Stream {
    fn pack(&self, parcel: &mut Parcel<'_, '_>) -> cuda::Result<StreamOnCard> {
        let [norm_query, norm_key] = [&self.norm_query, &self.norm_key]
            .map(|norm| parcel.add(2 * norm.weight().len(), || Cow::Owned(bf16_bytes(norm.weight()))));
        Ok(StreamOnCard {
            modulation: self.modulation.pack(parcel)?,
            query: self.query.pack(parcel)?,
            key: self.key.pack(parcel)?,
            value: self.value.pack(parcel)?,
            norm_query: norm_query?,
            norm_key: norm_key?,
            out: self.out.pack(parcel)?,
            widen: self.widen.pack(parcel)?,
            narrow: self.narrow.pack(parcel)?,
        })
    }
}

impl BlockOnCard {
    /// Its layers, always in this order.
    pub fn layers(&self) -> impl Iterator<Item = &LinearOnCard> {
        [&self.text, &self.image].into_iter().flat_map(|stream| {
            let StreamOnCard { modulation, query, key, value, out, widen, narrow, .. } = stream;
            [modulation, query, key, value, out, widen, narrow]
        })
    }

    /// Computes the vectors of a timestep. `time` and `clean`: (1, width), as for [`Block::modulation`].
    pub fn modulate(
        &self,
        machine: &mut dyn Machine,
        scratch: &Scratch,
        (time, clean): (Address, Option<Address>),
        to: ModulationOnCard,
    ) -> Result<()> {
        let (text, image) = (&self.text.modulation, &self.image.modulation);
        text.forward(machine, scratch, (time, 1), to.text, Then::Nothing)?;
        image.forward(machine, scratch, (time, 1), to.image, Then::Nothing)?;
        if let Some(time) = clean {
            image.forward(machine, scratch, (time, 1), to.clean, Then::Nothing)?;
        }
        Ok(())
    }

    /// Takes a sequence through the block, in place.
    pub fn forward(
        &self,
        machine: &mut dyn Machine,
        space: &Workspace,
        sequence: &Sequence,
        modulation: ModulationOnCard,
    ) -> Result<()> {
        let &Sequence { x, texts, images, clean, rotations } = sequence;
        let segment = |stream, vectors, first, rows| Segment { stream, vectors, first, rows };
        let segments = [
            segment(&self.text, modulation.text, 0, texts),
            segment(&self.image, modulation.image, texts, clean),
            segment(&self.image, modulation.clean, texts + clean, images - clean),
        ];
        let segments = segments.iter().filter(|segment| segment.rows > 0);
        for segment in segments.clone() {
            segment.attend(machine, space, x, rotations)?;
        }
        let (tokens, heads) = (texts + images, self.text.query.outputs / HEAD_WIDTH);
        let attention = Attention {
            queries: tokens,
            keys: tokens,
            heads,
            key_heads: heads,
            scale: (HEAD_WIDTH as f32).powf(-0.5),
            causal: false,
            sequences: 1,
        };
        machine.launch(&attention.launch([space.q, space.k, space.v], space.mixed))?;
        for segment in segments {
            segment.finish(machine, space, x)?;
        }
        Ok(())
    }
}

impl Segment<'_> {
    fn size(&self) -> Size {
        Size { rows: self.rows, width: self.stream.query.outputs }
    }

    /// Vector `index` of shift, scale and gate before the attention, then before the MLP.
    fn vector(&self, index: usize) -> Address {
        row(self.vectors, index, self.size().width)
    }

    fn own(&self, matrix: Address) -> Address {
        row(matrix, self.first, self.size().width)
    }

    /// Queries, keys and values of its rows.
    fn attend(
        &self,
        machine: &mut dyn Machine,
        space: &Workspace,
        x: Address,
        rotations: [Address; 2],
    ) -> Result<()> {
        let (stream, size, eps) = (self.stream, self.size(), EPS as f32);
        let [normed, q, k, v] = [space.normed, space.q, space.k, space.v].map(|matrix| self.own(matrix));
        let vectors = [self.vector(0), self.vector(1)];
        machine.launch(&launch::layer_norm_modulate(self.own(x), vectors, normed, size, eps))?;
        for (layer, out) in [(&stream.query, q), (&stream.key, k), (&stream.value, v)] {
            layer.forward(machine, &space.scratch, (normed, size.rows), out, Then::Nothing)?;
        }
        // Tables are f32: a row is as long as two of HEAD_WIDTH / 2 BF16 numbers.
        let tables = rotations.map(|table| row(table, self.first, HEAD_WIDTH));
        let heads = [size.rows, size.width / HEAD_WIDTH];
        machine.launch(&launch::norm_rope(q, stream.norm_query, tables, heads, eps))?;
        machine.launch(&launch::norm_rope(k, stream.norm_key, tables, heads, eps))?;
        Ok(())
    }

    /// Adds the attention's result and then the MLP's to its rows.
    fn finish(&self, machine: &mut dyn Machine, space: &Workspace, x: Address) -> Result<()> {
        let (stream, size, x) = (self.stream, self.size(), self.own(x));
        let [normed, y, mixed] = [space.normed, space.q, space.mixed].map(|matrix| self.own(matrix));
        stream.out.forward(machine, &space.scratch, (mixed, size.rows), y, Then::Nothing)?;
        machine.launch(&launch::gated_sum(x, self.vector(2), y, size))?;
        let vectors = [self.vector(3), self.vector(4)];
        machine.launch(&launch::layer_norm_modulate(x, vectors, normed, size, EPS as f32))?;
        stream.widen.forward(machine, &space.scratch, (normed, size.rows), space.inner, Then::Gelu)?;
        stream.narrow.forward(machine, &space.scratch, (space.inner, size.rows), y, Then::Nothing)?;
        machine.launch(&launch::gated_sum(x, self.vector(5), y, size))?;
        Ok(())
    }
}
