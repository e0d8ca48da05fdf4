//! One half of the network on a graphics card. It takes pictures; videos stay with the processor.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::conv::{Needs, channels};
use super::layers::{Layer, Space};
use crate::device::cuda::launch::Address;
use crate::device::cuda::machine::{Buffer, bf16_bytes, bf16_values};
use crate::device::cuda::store::Parcel;
use crate::model::Result;
use crate::model::card::{self, Card, Pack, Parts};
use crate::model::parts::with_slices;
use crate::stop::Stop;
use crate::weights::Resident;

/// The layers as a card knows them.
pub struct OnCard {
    card: Card,
    network: Arc<Parts>,
    layers: Arc<[Layer]>,
    outputs: usize,
}

impl OnCard {
    /// `None` where the card cannot do what the layers do, which is said.
    pub fn new(card: &Card, layers: &Arc<[Layer]>, resident: &Resident) -> Result<Option<Self>> {
        let outputs = layers.last().and_then(Layer::outputs);
        let Some(outputs) = outputs.filter(|_| layers.iter().all(Layer::suits_cards)) else {
            tracing::warn!("the processor computes this VAE: the graphics card wants channels in eights");
            return Ok(None);
        };
        let packed = layers.clone();
        let pack: Pack =
            Box::new(move |parcel| packed.iter().try_for_each(|layer| layer.pack(parcel).map(drop)));
        let (card, layers) = (card.clone(), layers.clone());
        Ok(Some(Self { card, network: card::parts(resident, [(0, pack)])?, layers, outputs }))
    }

    /// Takes a picture through the layers: (channels, h, w), which may be another size.
    pub fn forward(&self, picture: &Tensor, stop: &Stop) -> Result<Tensor> {
        let (inputs, h, w) = picture.dims3()?;
        let (mut needs, mut size) = (Needs::default(), (h, w));
        for layer in &*self.layers {
            size = layer.needs(size, &mut needs);
        }
        let outputs = channels(self.outputs).to;
        // Columns take as much as a picture does: those of large layers come in a few bands.
        let plane = 2 * needs.plane;
        let rooms = [plane, plane, plane, needs.least.max(plane), 2 * outputs * size.0 * size.1];
        let begun = together(picture, channels(inputs).to)?;
        let mut work = Parcel::at(Address(0));
        for bytes in rooms.into_iter().chain([begun.len()]) {
            work.skip(bytes);
        }
        let sitting = self.card.sit(&self.network, work.bytes())?;
        let bytes = sitting.retry(|| {
            let mut desk = sitting.desk();
            let (mut x, mut size) = (desk.lay(&begun)?.at, (h, w));
            let mut room = |index: usize| -> Result<Buffer> { Ok(desk.room(rooms[index])?) };
            let turns = [room(0)?.at, room(1)?.at];
            let space = Space { plane: room(2)?.at, columns: room(3)? };
            let result = room(4)?;
            let lease = sitting.part(0)?;
            let mut parcel = Parcel::at(lease.room().at());
            for (index, layer) in self.layers.iter().enumerate() {
                stop.check()?;
                let is_last = index + 1 == self.layers.len();
                let y = if is_last { result.at } else { turns[index % 2] };
                let layer = layer.pack(&mut parcel)?;
                size = layer.forward(&mut **desk.machine(), space, (x, size), y)?;
                x = y;
            }
            Ok(desk.machine().download(result)?)
        })?;
        apart(&bf16_values(&bytes), [self.outputs, outputs], size)
    }
}

impl Drop for OnCard {
    fn drop(&mut self) {
        self.card.forget(&self.network);
    }
}

/// A picture, (channels, h, w), with the channels of a place together and zeros up to so many.
fn together(picture: &Tensor, width: usize) -> Result<Vec<u8>> {
    let (channels, h, w) = picture.dims3()?;
    with_slices([picture], |[planes]| {
        let mut values = vec![0.0; h * w * width];
        for (channel, plane) in planes.chunks(h * w).enumerate().take(channels) {
            for (place, value) in values.chunks_mut(width).zip(plane) {
                place[channel] = *value;
            }
        }
        bf16_bytes(&values)
    })
}

/// The first channels of places with so many, as (channels, h, w).
fn apart(values: &[f32], [channels, width]: [usize; 2], (h, w): (usize, usize)) -> Result<Tensor> {
    let plane = |channel: usize| values.iter().skip(channel).step_by(width).copied();
    let planes: Vec<f32> = (0..channels).flat_map(plane).collect();
    Ok(Tensor::from_vec(planes, (channels, h, w), &Device::Cpu)?)
}
