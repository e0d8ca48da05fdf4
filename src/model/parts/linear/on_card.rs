//! A linear layer whose weights are on a graphics card.

use std::borrow::Cow;

use super::Linear;
use crate::device::cuda;
use crate::device::cuda::launch::{self, Address, Size};
use crate::device::cuda::machine::{Machine, Numbers, Product, bf16_bytes, f32_bytes};
use crate::device::cuda::store::Parcel;
use crate::model::Result;
use crate::weights::{Dtype, Fp8, Kept, Patch};

/// The weights as they are kept there.
pub struct LinearOnCard {
    weight: Address,
    form: Form,
    bias: Address,
    beside: Vec<LowRank>,
    pub inputs: usize,
    pub outputs: usize,
}

/// What the matrix is kept in.
#[derive(Clone, Copy)]
enum Form {
    Floats(Floats),
    Int8(WholeNumbers),
}

/// E4M3 as in the file, everything else as BF16.
#[derive(Clone, Copy)]
enum Floats {
    Bf16,
    Fp8 { scale: f32 },
}

/// How a product is one of whole numbers: those of the matrix have a scale for each row, and each row of inputs gets one
/// of its own.
#[derive(Clone, Copy)]
struct WholeNumbers {
    scales: Address,
    /// Inputs that meet the matrix turned, so many together.
    turned: Option<usize>,
    /// What the matrix comes as, where it is turned and rounded on the card.
    rounded_from: Option<Floats>,
}

impl Form {
    /// Bytes of a number.
    fn width(self) -> usize {
        if matches!(self, Self::Floats(Floats::Bf16)) { BF16 } else { 1 }
    }
}

/// Bytes of a number between products.
const BF16: usize = size_of::<half::bf16>();

/// `up (down x)`, added; `up` has the strength in it.
struct LowRank {
    down: Address,
    up: Address,
    rank: usize,
}

/// Memory that all layers use in turn.
pub struct Scratch {
    /// The widened matrix, or some rows on their way through whole numbers.
    pub weight: Address,
    /// BF16 numbers that find room there: at least as many as the largest matrix has.
    pub numbers: usize,
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
    /// Whether a card can do what this layer does. It cannot change matrices, only add to products.
    pub fn suits_cards(&self) -> bool {
        let bias = self.bias.as_ref().and_then(|bias| bias.patched.as_ref());
        bias.is_none() && self.patched.iter().all(|it| self.sum_format.is_none() && !it.needs_all())
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
        let (inputs, outputs) = (columns.length(self.inputs()), rows.length(self.outputs()));
        let (weight, form) = self.pack_matrix(parcel, columns, rows)?;
        let bias = parcel.add(BF16 * outputs, || rows.apply(bf16(&self.bias_values()), BF16))?;
        let mut beside = Vec::new();
        for patch in self.patched.iter().flat_map(|patched| &patched.patches) {
            if let Patch::LowRank { up, down, factor } = patch {
                let rank = down.matrix()[0];
                let strengthened = || up.to_vec().iter().map(|up| up * *factor as f32).collect::<Vec<f32>>();
                let down = || columns.apply(bf16(&down.to_vec()), BF16);
                let up = || rows.apply(bf16(&strengthened()), BF16 * rank);
                beside.push(LowRank {
                    down: parcel.add(BF16 * rank * inputs, down)?,
                    up: parcel.add(BF16 * rank * outputs, up)?,
                    rank,
                });
            }
        }
        Ok(LinearOnCard { weight, form, bias, beside, inputs, outputs })
    }

    fn pack_matrix(
        &self,
        parcel: &mut Parcel<'_, '_>,
        columns: Spread,
        rows: Spread,
    ) -> cuda::Result<(Address, Form)> {
        let (inputs, outputs) = (columns.length(self.inputs()), rows.length(self.outputs()));
        let spread = |bytes, each| rows.apply(columns.apply(bytes, each), each * inputs);
        let turned = self.turned_on_cards(columns, [inputs, outputs]);
        if let (Some(turned), Dtype::I8, Some(bytes)) = (turned, self.weight.dtype(), self.weight.as_bytes())
        {
            let weight = parcel.add(inputs * outputs, || spread(Cow::Borrowed(bytes), 1))?;
            let scales = || Cow::Owned(f32_bytes(&self.kept.scales(self.outputs())));
            let scales = parcel.add(F32 * outputs, || rows.apply(scales(), F32))?;
            return Ok((weight, Form::Int8(WholeNumbers { scales, turned, rounded_from: None })));
        }
        let e4m3 = self.weight.as_bytes().filter(|_| self.weight.dtype() == Dtype::Fp8(Fp8::E4M3));
        let (weight, floats) = if let (Some(bytes), Some(scale)) = (e4m3, self.kept.one_scale()) {
            let weight = parcel.add(inputs * outputs, || spread(Cow::Borrowed(bytes), 1))?;
            (weight, Floats::Fp8 { scale })
        } else {
            let restored = || {
                let mut values = self.weight.to_vec();
                self.kept.restore(0, &mut values, self.inputs());
                bf16(&values)
            };
            (parcel.add(BF16 * inputs * outputs, || spread(restored(), BF16))?, Floats::Bf16)
        };
        let Some(turned) = turned else { return Ok((weight, Form::Floats(floats))) };
        // Those that are found when it is rounded.
        let scales = parcel.add(F32 * outputs, || Cow::Owned(vec![0; F32 * outputs]))?;
        Ok((weight, Form::Int8(WholeNumbers { scales, turned, rounded_from: Some(floats) })))
    }

    /// How many inputs are turned together, if any, where a card multiplies whole numbers: as the file says, or as it
    /// turns what it rounds.
    #[expect(
        clippy::option_option,
        reason = "whether whole numbers are multiplied, and whether they are turned"
    )]
    fn turned_on_cards(&self, columns: Spread, [inputs, outputs]: [usize; 2]) -> Option<Option<usize>> {
        let turned = match self.weight.dtype() {
            Dtype::I8 if self.weight.as_bytes().is_some() => self.kept.group().filter(|group| *group > 1),
            _ if self.eight_bits_on_cards => Some(largest_group(inputs)?),
            _ => return None,
        };
        // What cuBLAS wants of sides and addresses.
        let fits = [inputs, outputs].iter().all(|side| side.is_multiple_of(16));
        let turns = turned.is_none_or(|group| group <= launch::LARGEST_GROUP && columns == Spread::NONE);
        let one_row_fits = Rows::fitting(inputs * outputs, [inputs, outputs]) > 0;
        (fits && turns && one_row_fits).then_some(turned)
    }

    /// Bytes that a card moves around the product of a row, where it multiplies whole numbers: the row is turned (read
    /// and written) and rounded (read and written), sums are written, scaled and narrowed.
    pub fn traffic_of_whole_numbers(&self) -> Option<usize> {
        let [inputs, outputs] = [self.inputs(), self.outputs()];
        let turned = self.turned_on_cards(Spread::NONE, [inputs, outputs])?;
        let turning = if turned.is_some() { 2 * BF16 } else { 0 };
        Some((turning + BF16 + 1) * inputs + (2 * F32 + BF16) * outputs)
    }
}

/// The largest group of inputs, up to the usual one, that can be turned together.
fn largest_group(inputs: usize) -> Option<usize> {
    let groups = std::iter::successors(Some(Kept::USUAL_GROUP), |group| Some(group / 4));
    groups.take_while(|group| *group > 1).find(|group| inputs.is_multiple_of(*group))
}

fn bf16(values: &[f32]) -> Cow<'static, [u8]> {
    Cow::Owned(bf16_bytes(values))
}

/// Bytes of a scale, and of a sum of whole numbers.
const F32: usize = 4;

/// Rows of inputs on their way through whole numbers, in the room for a widened matrix.
struct Rows {
    turned: Address,
    numbers: Address,
    scales: Address,
    sums: Address,
}

impl Rows {
    fn lay(parcel: &mut Parcel<'_, '_>, rows: usize, [inputs, outputs]: [usize; 2]) -> Self {
        Self {
            turned: parcel.skip(BF16 * rows * inputs),
            numbers: parcel.skip(rows * inputs),
            scales: parcel.skip(F32 * rows),
            sums: parcel.skip(F32 * rows * outputs),
        }
    }

    /// How many there is room for at a time, where so many BF16 numbers have room.
    fn fitting(numbers: usize, [inputs, outputs]: [usize; 2]) -> usize {
        // Each piece begins at a multiple.
        let gaps = 4 * Parcel::ALIGNMENT as usize;
        (BF16 * numbers).saturating_sub(gaps) / ((BF16 + 1) * inputs + F32 + F32 * outputs)
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
        let each = self.form.width();
        let form = match self.form {
            Form::Int8(it) => Form::Int8(WholeNumbers { scales: after(it.scales, F32 * first), ..it }),
            floats @ Form::Floats(_) => floats,
        };
        let beside = |it: &LowRank| LowRank { up: after(it.up, BF16 * first * it.rank), ..*it };
        Self {
            weight: after(self.weight, each * first * self.inputs),
            form,
            bias: after(self.bias, BF16 * first),
            beside: self.beside.iter().map(beside).collect(),
            outputs,
            ..*self
        }
    }

    /// Turns and rounds the matrix where it lies, if that is to be done, before it is used for the first time. Until the
    /// last launch, it is as it came.
    pub fn settle(&self, machine: &mut dyn Machine, scratch: &Scratch) -> Result<()> {
        let Form::Int8(WholeNumbers { scales, turned: Some(group), rounded_from: Some(floats) }) = self.form
        else {
            return Ok(());
        };
        let (inputs, outputs, turned) = (self.inputs, self.outputs, scratch.weight);
        let mut wide = self.weight;
        if let Floats::Fp8 { scale } = floats {
            machine.launch(&launch::fp8_to_bf16(wide, turned, scale, inputs * outputs))?;
            wide = turned;
        }
        machine.launch(&launch::turn_groups(wide, turned, group, inputs * outputs))?;
        let size = Size { rows: outputs, width: inputs };
        machine.launch(&launch::quantise_rows(turned, self.weight, scales, size))?;
        Ok(())
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
        let numbers = Numbers::Bf16;
        let product = |w| Product { numbers, rows, inputs, outputs, x, w, out: y };
        match self.form {
            Form::Floats(Floats::Bf16) => machine.multiply(&product(self.weight))?,
            Form::Floats(Floats::Fp8 { scale }) => {
                let wide = scratch.weight;
                machine.launch(&launch::fp8_to_bf16(self.weight, wide, scale, inputs * outputs))?;
                machine.multiply(&product(wide))?;
            }
            Form::Int8(kept) => self.multiply_whole(machine, scratch, kept, (x, rows), y)?,
        }
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

    /// `y = x Wᵀ` by whole numbers, for as many rows at a time as there is room for.
    fn multiply_whole(
        &self,
        machine: &mut dyn Machine,
        scratch: &Scratch,
        kept: WholeNumbers,
        (x, rows): (Address, usize),
        y: Address,
    ) -> Result<()> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let some = Rows::fitting(scratch.numbers, [inputs, outputs]);
        for first in (0..rows).step_by(some) {
            let rows = some.min(rows - first);
            let room = Rows::lay(&mut Parcel::at(scratch.weight), rows, [inputs, outputs]);
            let mut x = after(x, BF16 * first * inputs);
            if let Some(group) = kept.turned {
                machine.launch(&launch::turn_groups(x, room.turned, group, rows * inputs))?;
                x = room.turned;
            }
            let size = Size { rows, width: inputs };
            machine.launch(&launch::quantise_rows(x, room.numbers, room.scales, size))?;
            let numbers = Numbers::Int8;
            let (x, w, out) = (room.numbers, self.weight, room.sums);
            machine.multiply(&Product { numbers, rows, inputs, outputs, x, w, out })?;
            let (out, size) = (after(y, BF16 * first * outputs), Size { rows, width: outputs });
            machine.launch(&launch::rescale(room.sums, [room.scales, kept.scales], out, size))?;
        }
        Ok(())
    }
}
