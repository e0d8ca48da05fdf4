//! What both halves of the encoder do alike on a graphics card: norms, the gated layer, and sums with the states.

use std::borrow::Cow;

use super::mlp::Mlp;
use crate::device::cuda;
use crate::device::cuda::launch::{self, Address, Size};
use crate::device::cuda::machine::{Machine, bf16_bytes};
use crate::device::cuda::store::Parcel;
use crate::model::Result;
use crate::model::parts::{LinearOnCard, RmsNorm, Scratch, Spread, Then};

/// States on their way, (rows, width), with the tables that turn their heads.
pub struct States {
    pub x: Address,
    pub rows: usize,
    pub width: usize,
    pub rotations: [Address; 2],
}

/// Memory that a layer works in beside its attention.
pub struct Workspace {
    /// States after a norm, and what is added to states: (rows, width).
    pub normed: Address,
    pub added: Address,
    /// Between the products of the gated layer: (rows, inner).
    pub gate: Address,
    pub up: Address,
    pub scratch: Scratch,
}

impl Workspace {
    /// Takes what so many rows need. `largest`: numbers of the largest matrix; `added`: columns of the widest result that
    /// something of `rank` is added to.
    pub fn lay(
        parcel: &mut Parcel<'_, '_>,
        rows: usize,
        [width, inner]: [usize; 2],
        [largest, rank, added]: [usize; 3],
        ones: Address,
    ) -> Self {
        let mut room = |count: usize| parcel.skip(2 * count);
        Self {
            normed: room(rows * width),
            added: room(rows * width),
            gate: room(rows * inner),
            up: room(rows * inner),
            scratch: Scratch {
                weight: room(largest),
                numbers: largest,
                low: room(rows * rank),
                added: room(rows * added),
                ones,
            },
        }
    }
}

pub struct NormOnCard {
    weight: Address,
    eps: f32,
}

pub struct MlpOnCard {
    gate: LinearOnCard,
    up: LinearOnCard,
    down: LinearOnCard,
    inner: usize,
}

impl NormOnCard {
    pub fn pack(norm: &RmsNorm, eps: f64, parcel: &mut Parcel<'_, '_>) -> cuda::Result<Self> {
        let weight = parcel.add(2 * norm.weight().len(), || Cow::Owned(bf16_bytes(norm.weight())))?;
        Ok(Self { weight, eps: eps as f32 })
    }
}

impl States {
    /// Writes the states to `out`, normalised.
    pub fn normed(&self, machine: &mut dyn Machine, norm: &NormOnCard, out: Address) -> Result<()> {
        let size = Size { rows: self.rows, width: self.width };
        Ok(machine.launch(&launch::rms_norm(self.x, norm.weight, out, size, norm.eps))?)
    }

    /// Adds what `layer` makes of `from`.
    pub fn add(
        &self,
        machine: &mut dyn Machine,
        space: &Workspace,
        layer: &LinearOnCard,
        from: Address,
    ) -> Result<()> {
        let Workspace { added, scratch, .. } = space;
        let size = Size { rows: self.rows, width: self.width };
        layer.forward(machine, scratch, (from, self.rows), *added, Then::Nothing)?;
        Ok(machine.launch(&launch::gated_sum(self.x, scratch.ones, *added, size))?)
    }
}

impl Mlp {
    /// How the width between the layers lies on a card.
    fn spread(&self) -> Spread {
        Spread { of: self.inner(), to: self.inner().next_multiple_of(8) }
    }

    /// Numbers of a row between the layers, on a card.
    pub fn inner_on_card(&self) -> usize {
        self.spread().to
    }

    pub fn pack(&self, parcel: &mut Parcel<'_, '_>) -> cuda::Result<MlpOnCard> {
        let [gate, up, down] = self.layers();
        let inner = self.spread();
        Ok(MlpOnCard {
            gate: gate.pack_spread(parcel, Spread::NONE, inner)?,
            up: up.pack_spread(parcel, Spread::NONE, inner)?,
            down: down.pack_spread(parcel, inner, Spread::NONE)?,
            inner: inner.to,
        })
    }
}

impl MlpOnCard {
    /// Adds to states what the layer makes of them after `norm`.
    pub fn forward(
        &self,
        machine: &mut dyn Machine,
        space: &Workspace,
        states: &States,
        norm: &NormOnCard,
    ) -> Result<()> {
        let Workspace { normed, gate, up, scratch, .. } = space;
        let rows = states.rows;
        states.normed(machine, norm, *normed)?;
        self.gate.forward(machine, scratch, (*normed, rows), *gate, Then::Nothing)?;
        self.up.forward(machine, scratch, (*normed, rows), *up, Then::Nothing)?;
        machine.launch(&launch::silu_product(*gate, *up, Size { rows, width: self.inner }))?;
        states.add(machine, space, &self.down, *gate)
    }
}
