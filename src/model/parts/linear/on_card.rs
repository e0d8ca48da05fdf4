//! A linear layer whose weights are on a graphics card.

use std::borrow::Cow;

use super::Linear;
use crate::device::cuda;
use crate::device::cuda::launch::{self, Address, Size};
use crate::device::cuda::machine::{Machine, Numbers, Product, bf16_bytes};
use crate::device::cuda::store::Parcel;
use crate::model::Result;
use crate::weights::{Dtype, Fp8, Patch};

/// The weights as they are kept there: E4M3 as in the file, everything else as BF16.
pub struct LinearOnCard {
    weight: Address,
    is_fp8: bool,
    scale: f32,
    bias: Address,
    beside: Vec<LowRank>,
    pub inputs: usize,
    pub outputs: usize,
}

/// `up (down x)`, added; `up` has the strength in it.
struct LowRank {
    down: Address,
    up: Address,
    rank: usize,
}

/// Memory that all layers use in turn.
pub struct Scratch {
    /// The widened matrix: as many BF16 numbers as the largest has.
    pub weight: Address,
    /// As many BF16 numbers as the highest rank has rows.
    pub low: Address,
    /// As many BF16 numbers as the largest result has.
    pub added: Address,
    /// As many BF16 ones as the widest result has columns.
    pub ones: Address,
}

/// What follows the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    /// By tanh.
    Gelu,
    GeluErf,
}

/// How rows lie on a card: so many together, at the beginning of room for more, which is zeros. Kernels want some sizes
/// to be multiples of others, and zeros change no sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    pub of: usize,
    pub to: usize,
}

impl Spread {
    /// One after the other.
    pub const NONE: Self = Self { of: 1, to: 1 };

    /// How many so many are then.
    pub fn length(self, count: usize) -> usize {
        count.div_ceil(self.of) * self.to
    }

    /// Spreads things of so many bytes.
    pub fn apply(self, bytes: Cow<'_, [u8]>, each: usize) -> Cow<'_, [u8]> {
        if self.of == self.to {
            return bytes;
        }
        let mut out = vec![0; self.length(bytes.len() / each) * each];
        for (out, bytes) in out.chunks_mut(self.to * each).zip(bytes.chunks(self.of * each)) {
            out[..bytes.len()].copy_from_slice(bytes);
        }
        Cow::Owned(out)
    }
}

impl Linear {
    /// Whether a card can do what this layer does. It cannot change or turn matrices, only add to products.
    pub fn suits_cards(&self) -> bool {
        let bias = self.bias.as_ref().and_then(|bias| bias.patched.as_ref());
        let same = bias.is_none() && self.kept.one_scale().is_some();
        same && self.patched.iter().all(|it| self.sum_format.is_none() && !it.needs_all())
    }

    /// The highest rank of what is added to its products.
    pub fn rank(&self) -> usize {
        let patches = self.patched.iter().flat_map(|patched| &patched.patches);
        let rank = |patch: &Patch| match patch {
            Patch::LowRank { down, .. } => down.matrix()[0],
            Patch::Whole(_) => 0,
        };
        patches.map(rank).max().unwrap_or(0)
    }

    /// Lays the weights out for a card.
    pub fn pack(&self, parcel: &mut Parcel<'_, '_>) -> cuda::Result<LinearOnCard> {
        self.pack_spread(parcel, Spread::NONE, Spread::NONE)
    }

    /// [`Linear::pack`] for inputs and outputs that are spread.
    pub fn pack_spread(
        &self,
        parcel: &mut Parcel<'_, '_>,
        columns: Spread,
        rows: Spread,
    ) -> cuda::Result<LinearOnCard> {
        const BF16: usize = size_of::<half::bf16>();
        let (inputs, outputs) = (columns.length(self.inputs()), rows.length(self.outputs()));
        let bf16 = |values: Vec<f32>| Cow::Owned(bf16_bytes(&values));
        let as_it_is = self.weight.as_bytes().filter(|_| self.weight.dtype() == Dtype::Fp8(Fp8::E4M3));
        let scale = self.kept.one_scale().unwrap_or(1.0);
        let weight = if let Some(bytes) = as_it_is {
            let spread = || rows.apply(columns.apply(Cow::Borrowed(bytes), 1), inputs);
            parcel.add(inputs * outputs, spread)?
        } else {
            let scaled = || self.weight.to_vec().iter().map(|weight| weight * scale).collect();
            let spread = || rows.apply(columns.apply(bf16(scaled()), BF16), BF16 * inputs);
            parcel.add(BF16 * inputs * outputs, spread)?
        };
        let bias = parcel.add(BF16 * outputs, || rows.apply(bf16(self.bias_values()), BF16))?;
        let mut beside = Vec::new();
        for patch in self.patched.iter().flat_map(|patched| &patched.patches) {
            if let Patch::LowRank { up, down, factor } = patch {
                let rank = down.matrix()[0];
                let strengthened = || up.to_vec().iter().map(|up| up * *factor as f32).collect();
                let down = || columns.apply(bf16(down.to_vec()), BF16);
                let up = || rows.apply(bf16(strengthened()), BF16 * rank);
                beside.push(LowRank {
                    down: parcel.add(BF16 * rank * inputs, down)?,
                    up: parcel.add(BF16 * rank * outputs, up)?,
                    rank,
                });
            }
        }
        Ok(LinearOnCard { weight, is_fp8: as_it_is.is_some(), scale, bias, beside, inputs, outputs })
    }
}

/// So many bytes further.
fn after(at: Address, bytes: usize) -> Address {
    Address(at.0 + bytes as u64)
}

impl LinearOnCard {
    /// The layer that gives some of the outputs.
    #[must_use]
    pub fn giving(&self, first: usize, outputs: usize) -> Self {
        const BF16: usize = size_of::<half::bf16>();
        let each = if self.is_fp8 { 1 } else { BF16 };
        let beside = |it: &LowRank| LowRank { up: after(it.up, BF16 * first * it.rank), ..*it };
        Self {
            weight: after(self.weight, each * first * self.inputs),
            bias: after(self.bias, BF16 * first),
            beside: self.beside.iter().map(beside).collect(),
            outputs,
            ..*self
        }
    }

    /// `y = x Wᵀ + b`, and what is added to it. `x`: (rows, inputs), `y`: (rows, outputs), BF16.
    pub fn forward(
        &self,
        machine: &mut dyn Machine,
        scratch: &Scratch,
        (x, rows): (Address, usize),
        y: Address,
        then: Then,
    ) -> Result<()> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let size = Size { rows, width: outputs };
        let w = if self.is_fp8 {
            let count = inputs * outputs;
            machine.launch(&launch::fp8_to_bf16(self.weight, scratch.weight, self.scale, count))?;
            scratch.weight
        } else {
            self.weight
        };
        let numbers = Numbers::Bf16;
        machine.multiply(&Product { numbers, rows, inputs, outputs, x, w, out: y })?;
        for LowRank { down, up, rank } in &self.beside {
            let (low, added) = (scratch.low, scratch.added);
            machine.multiply(&Product { numbers, rows, inputs, outputs: *rank, x, w: *down, out: low })?;
            let back = Product { numbers, rows, inputs: *rank, outputs, x: low, w: *up, out: added };
            machine.multiply(&back)?;
            machine.launch(&launch::gated_sum(y, scratch.ones, added, size))?;
        }
        let bias = self.bias;
        machine.launch(&match then {
            Then::Nothing => launch::add_bias(y, bias, size),
            Then::Gelu => launch::bias_gelu(y, bias, size),
            Then::GeluErf => launch::bias_gelu_erf(y, bias, size),
        })?;
        Ok(())
    }
}
