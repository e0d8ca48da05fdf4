//! Layers whose weights are on a graphics card, for pictures: videos of one frame.

use std::borrow::Cow;

use super::{Attention, Down, Layer, Norm, Residual, Up};
use crate::device::cuda;
use crate::device::cuda::launch::{self, Address, CHANNELS, Size};
use crate::device::cuda::machine::{Buffer, Machine, Numbers, Product, bf16_bytes};
use crate::device::cuda::store::Parcel;
use crate::model::Result;
use crate::model::vae::network::conv::{Conv, ConvOnCard, Needs, channels, number};

pub enum LayerOnCard {
    Conv(ConvOnCard),
    Head(NormOnCard, ConvOnCard),
    Residual(ResidualOnCard),
    Attention(AttentionOnCard),
}

pub struct NormOnCard {
    gamma: Address,
    channels: usize,
}

pub struct ResidualOnCard {
    norms: [NormOnCard; 2],
    convs: [ConvOnCard; 2],
    shortcut: Option<ConvOnCard>,
}

pub struct AttentionOnCard {
    norm: NormOnCard,
    qkv: ConvOnCard,
    out: ConvOnCard,
}

/// Memory that layers work in: for a picture between layers, and for columns of a convolution or scores of an attention.
#[derive(Clone, Copy)]
pub struct Space {
    pub plane: Address,
    pub columns: Buffer,
}

impl Layer {
    /// Whether a card can do it: it wants channels to be multiples of 8 where they are normalised.
    pub fn suits_cards(&self) -> bool {
        let suits = |norm: &Norm| norm.gamma.len().is_multiple_of(CHANNELS);
        match self {
            Self::Conv(_) | Self::Down(_) | Self::Up(_) => true,
            Self::Head(norm, _) => suits(norm),
            Self::Residual(residual) => residual.norms.iter().all(suits),
            Self::Attention(attention) => suits(&attention.norm),
        }
    }

    /// Channels of what it gives where it ends a network.
    pub fn outputs(&self) -> Option<usize> {
        match self {
            Self::Conv(conv) | Self::Head(_, conv) => Some(conv.outputs()),
            _ => None,
        }
    }

    /// Counts in what it takes for a picture of this size; gives the size of what comes out.
    pub fn needs(&self, size: (usize, usize), needs: &mut Needs) -> (usize, usize) {
        match self {
            Self::Conv(conv) | Self::Head(_, conv) => conv.needs(size, needs),
            Self::Residual(Residual { convs: [one, two], shortcut, .. }) => {
                for conv in [Some(one), Some(two), shortcut.as_ref()].into_iter().flatten() {
                    conv.needs(size, needs);
                }
                size
            }
            Self::Attention(Attention { norm, .. }) => {
                // Queries, keys and values; a row of scores and of weights.
                needs.hold(size, 3 * norm.gamma.len());
                needs.least = needs.least.max(score_bytes(size.0 * size.1));
                size
            }
            Self::Down(Down { plane, .. }) | Self::Up(Up { plane, .. }) => plane.needs(size, needs),
        }
    }

    /// Lays out for a card what pictures alone meet.
    pub fn pack(&self, parcel: &mut Parcel<'_, '_>) -> cuda::Result<LayerOnCard> {
        Ok(match self {
            Self::Conv(conv) => LayerOnCard::Conv(conv.pack(parcel)?),
            Self::Head(norm, conv) => LayerOnCard::Head(norm.pack(parcel)?, conv.pack(parcel)?),
            Self::Residual(Residual { norms: [first, second], convs: [one, two], shortcut }) => {
                LayerOnCard::Residual(ResidualOnCard {
                    norms: [first.pack(parcel)?, second.pack(parcel)?],
                    convs: [one.pack(parcel)?, two.pack(parcel)?],
                    shortcut: shortcut.as_ref().map(|conv: &Conv| conv.pack(parcel)).transpose()?,
                })
            }
            Self::Attention(Attention { norm, qkv, out, .. }) => LayerOnCard::Attention(AttentionOnCard {
                norm: norm.pack(parcel)?,
                qkv: qkv.pack(parcel)?,
                out: out.pack(parcel)?,
            }),
            // Of one picture, the convolutions over time see nothing.
            Self::Down(Down { plane, .. }) | Self::Up(Up { plane, .. }) => {
                LayerOnCard::Conv(plane.pack(parcel)?)
            }
        })
    }
}

impl Norm {
    fn pack(&self, parcel: &mut Parcel<'_, '_>) -> cuda::Result<NormOnCard> {
        let channels = channels(self.gamma.len()).to;
        let gamma = parcel.add(2 * channels, || Cow::Owned(bf16_bytes(&self.gamma)))?;
        Ok(NormOnCard { gamma, channels })
    }
}

impl NormOnCard {
    fn apply(
        &self,
        machine: &mut dyn Machine,
        (x, (h, w)): (Address, (usize, usize)),
        out: Address,
        with_silu: bool,
    ) -> Result<()> {
        let size = Size { rows: h * w, width: self.channels };
        Ok(machine.launch(&launch::channel_norm(x, self.gamma, out, size, with_silu))?)
    }
}

impl LayerOnCard {
    /// Takes the picture at `x` to `y`, which is another place; what was at `x` may be lost. Gives its size.
    pub fn forward(
        &self,
        machine: &mut dyn Machine,
        space: Space,
        (x, size): (Address, (usize, usize)),
        y: Address,
    ) -> Result<(usize, usize)> {
        match self {
            Self::Conv(conv) => {
                let out = conv.multiply(machine, space.columns, (x, size), y)?;
                conv.finish(machine, (y, out), None, y)?;
                Ok(out)
            }
            Self::Head(norm, conv) => {
                norm.apply(machine, (x, size), space.plane, true)?;
                conv.multiply(machine, space.columns, (space.plane, size), y)?;
                conv.finish(machine, (y, size), None, y)?;
                Ok(size)
            }
            Self::Residual(residual) => residual.forward(machine, space, (x, size), y).map(|()| size),
            Self::Attention(attention) => attention.forward(machine, space, (x, size), y).map(|()| size),
        }
    }
}

impl ResidualOnCard {
    fn forward(
        &self,
        machine: &mut dyn Machine,
        Space { plane, columns }: Space,
        (x, size): (Address, (usize, usize)),
        y: Address,
    ) -> Result<()> {
        let ([first, second], [one, two]) = (&self.norms, &self.convs);
        first.apply(machine, (x, size), plane, true)?;
        one.multiply(machine, columns, (plane, size), y)?;
        one.finish(machine, (y, size), None, y)?;
        second.apply(machine, (y, size), plane, true)?;
        if let Some(shortcut) = &self.shortcut {
            shortcut.multiply(machine, columns, (x, size), y)?;
            shortcut.finish(machine, (y, size), None, y)?;
            two.multiply(machine, columns, (plane, size), x)?;
            two.finish(machine, (x, size), Some(y), y)
        } else {
            two.multiply(machine, columns, (plane, size), y)?;
            two.finish(machine, (y, size), Some(x), y)
        }
    }
}

/// Bytes of the scores and the weights of one place.
fn score_bytes(places: usize) -> usize {
    places * (size_of::<f32>() + size_of::<half::bf16>())
}

impl AttentionOnCard {
    /// Scores are written down for as many queries at a time as there is room for. Weights add up to one, so that the bias
    /// of the values can be added to their mixture.
    fn forward(
        &self,
        machine: &mut dyn Machine,
        Space { plane, columns }: Space,
        (x, size): (Address, (usize, usize)),
        y: Address,
    ) -> Result<()> {
        let (places, channels) = (size.0 * size.1, self.norm.channels);
        let [q, k, v] = [0, 1, 2].map(|index| number(y, index * places * channels));
        let [of_q, of_k, of_v] = [0, 1, 2].map(|index| self.qkv.giving(index * channels, channels));
        self.norm.apply(machine, (x, size), plane, false)?;
        for (conv, out) in [(&of_q, q), (&of_k, k)] {
            conv.multiply(machine, columns, (plane, size), out)?;
            conv.finish(machine, (out, size), None, out)?;
        }
        of_v.multiply_transposed(machine, (plane, places), v)?;
        let mixed = plane;
        let most = (columns.bytes / score_bytes(places)).max(1);
        // Whole tiles of the products.
        let band = if most < 64 { most } else { most / 64 * 64 };
        for first in (0..places).step_by(band) {
            let rows = band.min(places - first);
            let weights = Address(columns.at.0 + (size_of::<f32>() * rows * places) as u64);
            machine.multiply(&Product {
                numbers: Numbers::Bf16Sums,
                rows,
                inputs: channels,
                outputs: places,
                x: number(q, first * channels),
                w: k,
                out: columns.at,
            })?;
            let size = Size { rows, width: places };
            let scale = (channels as f32).powf(-0.5);
            machine.launch(&launch::softmax_rows(columns.at, weights, size, scale))?;
            machine.multiply(&Product {
                numbers: Numbers::Bf16,
                rows,
                inputs: places,
                outputs: channels,
                x: weights,
                w: v,
                out: number(mixed, first * channels),
            })?;
        }
        of_v.finish(machine, (mixed, size), None, mixed)?;
        self.out.multiply(machine, columns, (mixed, size), y)?;
        self.out.finish(machine, (y, size), Some(x), y)
    }
}
