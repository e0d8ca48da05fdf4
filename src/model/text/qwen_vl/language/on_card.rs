//! The layers of the language model on a graphics card; embeddings and the last norm stay with the processor.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{EPS, HEAD, Layer};
use crate::device::cuda;
use crate::device::cuda::launch::{self, Address, Attention};
use crate::device::cuda::machine::{Machine, bf16_bytes, bf16_values, f32_bytes};
use crate::device::cuda::store::Parcel;
use crate::model::Result;
use crate::model::card::{self, Card, Pack, Parts};
use crate::model::parts::{Linear, LinearOnCard, Then, with_slices};
use crate::model::text::qwen_vl::on_card::{self, MlpOnCard, NormOnCard, States};
use crate::model::text::qwen_vl::rotary::Rotary;
use crate::stop::Stop;
use crate::weights::Resident;

/// The layers as a card knows them.
pub struct Place {
    card: Card,
    network: Arc<Parts>,
    sizes: Sizes,
}

/// Of all layers alike.
#[derive(Clone, Copy)]
struct Sizes {
    width: usize,
    /// Of queries, of keys and values, and between the layers of the MLP.
    queries: usize,
    keys: usize,
    inner: usize,
    /// Numbers of the largest matrix.
    largest: usize,
    /// The highest rank of what is added to a product.
    rank: usize,
}

impl Sizes {
    fn of(layers: &[Arc<Layer>]) -> Option<Self> {
        let attention = &layers.first()?.attention;
        let all = || layers.iter().flat_map(|layer| layer.linears());
        Some(Self {
            width: attention.q.inputs(),
            queries: attention.q.outputs(),
            keys: attention.k.outputs(),
            inner: layers.first()?.mlp.inner_on_card(),
            largest: all().map(|linear| linear.inputs() * linear.outputs()).max()?,
            rank: all().map(Linear::rank).max()?,
        })
    }
}

/// Memory that layers work in.
struct Workspace {
    q: Address,
    k: Address,
    v: Address,
    /// What the attention comes to.
    mixed: Address,
    rest: on_card::Workspace,
}

struct LayerOnCard {
    input_norm: NormOnCard,
    q: LinearOnCard,
    k: LinearOnCard,
    v: LinearOnCard,
    o: LinearOnCard,
    output_norm: NormOnCard,
    mlp: MlpOnCard,
}

impl Layer {
    fn linears(&self) -> [&Linear; 7] {
        let (attention, [gate, up, down]) = (&self.attention, self.mlp.layers());
        [&attention.q, &attention.k, &attention.v, &attention.o, gate, up, down]
    }

    /// Lays the weights out for a card.
    fn pack(&self, parcel: &mut Parcel<'_, '_>) -> cuda::Result<LayerOnCard> {
        let attention = &self.attention;
        Ok(LayerOnCard {
            input_norm: NormOnCard::pack(&self.input_norm, EPS, parcel)?,
            q: attention.q.pack(parcel)?,
            k: attention.k.pack(parcel)?,
            v: attention.v.pack(parcel)?,
            o: attention.o.pack(parcel)?,
            output_norm: NormOnCard::pack(&self.output_norm, EPS, parcel)?,
            mlp: self.mlp.pack(parcel)?,
        })
    }
}

impl LayerOnCard {
    /// Takes states through the layer, in place.
    fn forward(
        &self,
        machine: &mut dyn Machine,
        space: &Workspace,
        states: &States,
        sizes: Sizes,
    ) -> Result<()> {
        let rows = states.rows;
        let Workspace { q, k, v, mixed, rest } = space;
        states.normed(machine, &self.input_norm, rest.normed)?;
        for (layer, out) in [(&self.q, q), (&self.k, k), (&self.v, v)] {
            layer.forward(machine, &rest.scratch, (rest.normed, rows), *out, Then::Nothing)?;
        }
        let (heads, key_heads) = (sizes.queries / HEAD, sizes.keys / HEAD);
        machine.launch(&launch::rope_halves(*q, states.rotations, [rows, heads]))?;
        machine.launch(&launch::rope_halves(*k, states.rotations, [rows, key_heads]))?;
        let scale = (HEAD as f32).powf(-0.5);
        let attention =
            Attention { queries: rows, keys: rows, heads, key_heads, scale, causal: true, sequences: 1 };
        machine.launch(&attention.launch([*q, *k, *v], *mixed))?;
        states.add(machine, rest, &self.o, *mixed)?;
        self.mlp.forward(machine, rest, states, &self.output_norm)
    }
}

impl Place {
    /// `None` where the card cannot do what the layers do, which is said. `first`: the part of the first layer in main
    /// memory.
    pub fn new(
        card: &Card,
        layers: &[Arc<Layer>],
        resident: &Resident,
        first: usize,
    ) -> Result<Option<Self>> {
        let Some(sizes) = Sizes::of(layers) else { return Ok(None) };
        if layers.iter().any(|layer| layer.attention.norms.is_some()) {
            tracing::info!(
                "the processor reads texts: the graphics card knows no norms of single heads here"
            );
            return Ok(None);
        }
        if !layers.iter().flat_map(|layer| layer.linears()).all(Linear::suits_cards) {
            tracing::warn!(
                "the processor reads texts: adapters that change whole matrices, or changed matrices that are to be kept in \
                 eight bits, are beyond the graphics card"
            );
            return Ok(None);
        }
        let rows = layers.iter().cloned().enumerate().map(|(index, layer)| {
            let pack: Pack = Box::new(move |parcel| layer.pack(parcel).map(drop));
            (first + index, pack)
        });
        Ok(Some(Self { card: card.clone(), network: card::parts(resident, rows)?, sizes }))
    }

    /// The states after some of the layers: (1, rows, width), as `x`.
    pub fn forward(&self, layers: &[Arc<Layer>], x: &Tensor, rotary: &Rotary, stop: &Stop) -> Result<Tensor> {
        let (rows, width) = (x.dim(1)?, self.sizes.width);
        let begun = with_slices([x], |[x]| bf16_bytes(x))?;
        let tables = rotary.tables()?.map(|table| f32_bytes(&table));
        let ones = bf16_bytes(&vec![1.0; self.widest()]);
        let mut work = Parcel::at(Address(0));
        for laid in [&begun, &tables[0], &tables[1], &ones] {
            work.skip(laid.len());
        }
        self.workspace(&mut work, rows, Address(0));
        let sitting = self.card.sit(&self.network, work.bytes())?;
        let bytes = sitting.retry(|| {
            let mut desk = sitting.desk();
            let x = desk.lay(&begun)?;
            let rotations = [desk.lay(&tables[0])?.at, desk.lay(&tables[1])?.at];
            let ones = desk.lay(&ones)?.at;
            let mut parcel = Parcel::at(Address(0));
            self.workspace(&mut parcel, rows, ones);
            let base = desk.room(parcel.bytes() as usize)?.at;
            let space = self.workspace(&mut Parcel::at(base), rows, ones);
            let states = States { x: x.at, rows, width, rotations };
            for (index, layer) in layers.iter().enumerate() {
                stop.check()?;
                let lease = sitting.part(index)?;
                let there = layer.pack(&mut Parcel::at(lease.room().at()))?;
                there.forward(&mut **desk.machine(), &space, &states, self.sizes)?;
            }
            Ok(desk.machine().download(x)?)
        })?;
        Ok(Tensor::from_vec(bf16_values(&bytes), (1, rows, width), &Device::Cpu)?)
    }

    /// Columns of the widest result.
    fn widest(&self) -> usize {
        let Sizes { width, queries, keys, inner, .. } = self.sizes;
        width.max(queries).max(keys).max(inner)
    }

    fn workspace(&self, parcel: &mut Parcel<'_, '_>, rows: usize, ones: Address) -> Workspace {
        let Sizes { width, queries, keys, inner, largest, rank } = self.sizes;
        let widest = if rank == 0 { 0 } else { self.widest() };
        let mut room = |count: usize| parcel.skip(2 * count);
        Workspace {
            q: room(rows * queries),
            k: room(rows * keys),
            v: room(rows * keys),
            mixed: room(rows * queries),
            rest: on_card::Workspace::lay(parcel, rows, [width, inner], [largest, rank, widest], ones),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.card.forget(&self.network);
    }
}
