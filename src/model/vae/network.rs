//! Autoencoders of plane convolutions: what becomes of pictures and videos, whole or in tiles.
//!
//! Sizes come from the weights. A picture is a video of one frame; only pictures go to a graphics card.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::device::residency::Use;
use crate::model::card::Card;
use crate::model::estimate::{Estimate, Kind, Work};
use crate::model::memo::Memo;
use crate::model::{Compute, Error, LatentFormat, Result, Vae};
use crate::stop::Stop;
use crate::weights::{Resident, Weights};

mod conv;
mod layers;
pub(super) mod names;
mod on_card;
mod past;
pub(super) mod shortcut;
pub(super) mod stack;

use super::tiles::{Place, Scaling, Tiling, blend};
use names::{Direction, Form};
use on_card::OnCard;
use past::Past;
use stack::{Stack, Stage};

/// What the families of such networks differ in.
pub struct Design {
    pub latent: &'static LatentFormat,
    /// Frames of a video that one latent frame stands for, but for the first, which stands for itself. One where the
    /// pictures of a batch are no video.
    pub frames: usize,
    /// Reads what lies between the first convolution and the middle, or between the middle and the head.
    pub stages: fn(&mut Stack, &Weights, Direction) -> Result<()>,
}

pub struct Autoencoder {
    design: &'static Design,
    encoder: Half,
    decoder: Half,
    compute: Compute,
    /// Channels of its pictures: colours, and for some how opaque they are.
    colours: usize,
    weights: Weights,
    /// Channels at full size.
    width: usize,
    resident: Resident,
    encoded: Memo<Tensor>,
}

/// Half a network, and where a graphics card computes it.
struct Half {
    stages: Arc<[Stage]>,
    card: Option<OnCard>,
}

impl From<Stack> for Half {
    fn from(stack: Stack) -> Self {
        Self { stages: stack.finish(), card: None }
    }
}

impl Half {
    fn on_card(&self, card: &Card, resident: &Resident) -> Result<Self> {
        let card = if let [Stage { layers, shortcut: None }] = &*self.stages {
            OnCard::new(card, layers, resident)?
        } else {
            tracing::warn!(
                "the processor computes this VAE: the graphics card has nothing for its shortcuts"
            );
            None
        };
        Ok(Self { stages: self.stages.clone(), card })
    }
}

impl Autoencoder {
    pub fn load(design: &'static Design, form: Form, weights: Weights, compute: Compute) -> Result<Self> {
        let (channels, names) = (design.latent.channels, form.names);
        weights.multiplied_with(compute.numbers()).build(|weights| {
            let encoder = weights.at("encoder");
            let colours = encoder.at(names.first).side("weight", 1)?;
            let mut stack = Stack::new(form, colours);
            stack.first(&encoder)?;
            let mut width = stack.channels;
            (design.stages)(&mut stack, &encoder, Direction::Down)?;
            stack.middle(&encoder)?;
            stack.head(&encoder, 2 * channels)?;
            stack.point(&weights.at(names.points[0]))?;
            let encoder = Half::from(stack);

            let decoder = weights.at("decoder");
            let mut stack = Stack::new(form, channels);
            stack.point(&weights.at(names.points[1]))?;
            stack.first(&decoder)?;
            stack.middle(&decoder)?;
            (design.stages)(&mut stack, &decoder, Direction::Up)?;
            width = width.max(stack.channels);
            stack.head(&decoder, colours)?;
            let all = vec!["all".to_owned()];
            let resident = weights.resident("the VAE", all, 1, Use::Seldom, |_| Some(0));
            let (decoder, encoded) = (Half::from(stack), Memo::default());
            let weights = weights.clone();
            Ok(Self { design, encoder, decoder, compute, colours, weights, width, resident, encoded })
        })
    }

    /// `video`: (colours, frames, h, w), -1..1. Gives (channels, frames', h', w').
    fn encode_video(&self, video: &Tensor, stop: &Stop) -> Result<Tensor> {
        let size = (video.dim(2)?, video.dim(3)?);
        self.refuse_small(size)?;
        let frames = frames(video)?;
        let (first, rest) = frames.split_at(1);
        // Frames that do not fill a group are not seen at all, as in ComfyUI.
        let groups: Vec<_> = std::iter::once(first).chain(rest.chunks_exact(self.design.frames)).collect();
        let encoded = self.run(&self.encoder, &groups, size, stop)?;
        // The other half is the logarithm of the variance; the mean alone is used.
        Ok(encoded.narrow(0, 0, self.design.latent.channels)?)
    }

    /// `latent`: (channels, frames, h, w). Gives (colours, frames', h', w'), -1..1 and somewhat
    /// beyond.
    fn decode_video(&self, latent: &Tensor, stop: &Stop) -> Result<Tensor> {
        let frames = frames(latent)?;
        let side = self.design.latent.scale;
        let size = (side * latent.dim(2)?, side * latent.dim(3)?);
        self.run(&self.decoder, &frames.chunks(1).collect::<Vec<_>>(), size, stop)
    }

    /// Passes groups of frames through layers, one group after the other. `size`: of the video in pixels.
    fn run(&self, half: &Half, groups: &[&[Tensor]], size: (usize, usize), stop: &Stop) -> Result<Tensor> {
        if let (Some(card), [[picture]]) = (&half.card, groups) {
            return Ok(card.forward(picture, stop)?.unsqueeze(1)?);
        }
        let stay = self.resident.visit(self.working_bytes(size.0, size.1))?;
        let _weights = stay.part(0)?;
        let mut past = Past::default();
        let mut results = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            past.begin(index + 1 == groups.len());
            let cast = group.iter().map(|x| x.to_dtype(self.compute.dtype()));
            let mut frames = cast.collect::<candle_core::Result<Vec<_>>>()?;
            for stage in &*half.stages {
                frames = stage.forward(frames, &mut past, stop)?;
            }
            results.extend(frames);
        }
        Ok(Tensor::stack(&results, 1)?.to_dtype(DType::F32)?)
    }
}

impl Autoencoder {
    /// What one picture costs that goes in at this size.
    fn estimate(&self, kind: Kind, half: &Half, size: (usize, usize)) -> Estimate {
        let (mut work, mut now) = (Work::default(), size);
        for stage in &*half.stages {
            let (more, next) = stage.work(now);
            work += more;
            now = next;
        }
        let full = if kind == Kind::Encode { size } else { now };
        let working_bytes = self.working_bytes(full.0, full.1);
        Estimate { kind, network: self.resident.network().clone(), working_bytes, parts: vec![(0, work)] }
            .using_weights(1)
    }
}

/// (channels, frames, h, w) as frames of (channels, h, w).
fn frames(video: &Tensor) -> Result<Vec<Tensor>> {
    (0..video.dim(1)?).map(|index| Ok(video.narrow(1, index, 1)?.squeeze(1)?)).collect()
}

/// How lengths and places of latents become those of videos.
struct Decoded(&'static Design);
/// How lengths and places of videos become those of latents.
struct Encoded(&'static Design);

impl Scaling for Decoded {
    fn length(&self, axis: usize, length: usize) -> usize {
        let Design { latent, frames, .. } = self.0;
        if axis == 0 { (frames * length).saturating_sub(frames - 1) } else { latent.scale * length }
    }

    fn position(&self, axis: usize, position: usize) -> usize {
        position * if axis == 0 { self.0.frames } else { self.0.latent.scale }
    }
}

impl Scaling for Encoded {
    fn length(&self, axis: usize, length: usize) -> usize {
        if axis == 0 { length.div_ceil(self.0.frames) } else { length / self.0.latent.scale }
    }

    fn position(&self, axis: usize, position: usize) -> usize {
        position / if axis == 0 { self.0.frames } else { self.0.latent.scale }
    }
}

fn tile(video: &Tensor, place: &Place) -> Result<Tensor> {
    let mut tile = video.clone();
    for (axis, range) in place.iter().enumerate() {
        tile = tile.narrow(axis + 1, range.start, range.len())?;
    }
    Ok(tile)
}

fn size(video: &Tensor) -> Result<[usize; 3]> {
    let (_, frames, h, w) = video.dims4()?;
    Ok([frames, h, w])
}

impl Autoencoder {
    /// Refuses what has not one cell.
    fn refuse_small(&self, (height, width): (usize, usize)) -> Result<()> {
        let least = self.design.latent.scale;
        if height < least || width < least {
            return Err(Error::TooSmall { width, height, least });
        }
        Ok(())
    }

    /// Pixels (frames, h, w, channels) of 0..1 as a video (colours, frames', h', w') of -1..1: the centre, as far as
    /// the sides are multiples of the scale, and the frames that fill groups. Colours that are not there are full.
    fn video(&self, pixels: &Tensor) -> Result<Tensor> {
        let (frames, height, width, channels) = pixels.dims4()?;
        self.refuse_small((height, width))?;
        let (side, colours) = (self.design.latent.scale, self.colours);
        let (h, w) = (height / side * side, width / side * side);
        let frames = Decoded(self.design).length(0, Encoded(self.design).length(0, frames));
        let centre = pixels.narrow(0, 0, frames)?.narrow(3, 0, channels.min(colours))?;
        let mut centre = centre.narrow(1, (height - h) / 2, h)?.narrow(2, (width - w) / 2, w)?;
        if channels < colours {
            let full = Tensor::ones((frames, h, w, colours - channels), centre.dtype(), centre.device())?;
            centre = Tensor::cat(&[&centre, &full], 3)?;
        }
        Ok(centre.permute((3, 0, 1, 2))?.affine(2.0, -1.0)?)
    }

    /// Encodes the video that the pictures are, or each picture: (batch, channels, frames', h', w').
    fn encode_each(&self, pixels: &Tensor, encode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let pictures = pixels.dim(0)?;
        let of_one = if self.joins_pictures() { pictures } else { 1 };
        let starts = (0..pictures).step_by(of_one.max(1));
        let latents = starts.map(|start| encode(&self.video(&pixels.narrow(0, start, of_one)?)?));
        Ok(Tensor::stack(&latents.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// Decodes each item of a batch and joins all frames: (batch * frames, h, w, colours), 0..1.
    fn decode_each(&self, latent: &Tensor, decode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (batch, found, frames, _, _) = latent.dims5()?;
        let expected = self.design.latent.channels;
        if found != expected {
            return Err(Error::Channels { expected, found });
        }
        if frames > 1 && !self.joins_pictures() {
            return Err(Error::Frames { found: frames });
        }
        let pictures = (0..batch).map(|index| {
            let video = decode(&latent.get(index)?)?;
            Ok(video.affine(0.5, 0.5)?.clamp(0.0, 1.0)?.permute((1, 2, 3, 0))?.contiguous()?)
        });
        Ok(Tensor::cat(&pictures.collect::<Result<Vec<_>>>()?, 0)?)
    }
}

impl Vae for Autoencoder {
    fn latent(&self) -> &'static LatentFormat {
        self.design.latent
    }

    fn colours(&self) -> usize {
        self.colours
    }

    fn joins_pictures(&self) -> bool {
        self.design.frames > 1
    }

    fn encode(&self, pixels: &Tensor, stop: &Stop) -> Result<Tensor> {
        self.encoded.get_or(pixels, "", || self.encode_each(pixels, |video| self.encode_video(video, stop)))
    }

    fn decode(&self, latent: &Tensor, stop: &Stop) -> Result<Tensor> {
        self.decode_each(latent, |latent| self.decode_video(latent, stop))
    }

    fn encode_tiled(&self, pixels: &Tensor, tiling: &Tiling, stop: &Stop) -> Result<Tensor> {
        self.encoded.get_or(pixels, &format!("{tiling:?}"), || {
            self.encode_each(pixels, |video| {
                let work = |place: &Place| self.encode_video(&tile(video, place)?, stop);
                blend(size(video)?, tiling, &Encoded(self.design), work)
            })
        })
    }

    fn decode_tiled(&self, latent: &Tensor, tiling: &Tiling, stop: &Stop) -> Result<Tensor> {
        self.decode_each(latent, |latent| {
            let work = |place: &Place| self.decode_video(&tile(latent, place)?, stop);
            blend(size(latent)?, tiling, &Decoded(self.design), work)
        })
    }

    fn weights(&self) -> &Weights {
        &self.weights
    }

    fn on_card(&self, card: &Card) -> Result<Arc<dyn Vae>> {
        Ok(Arc::new(Self {
            encoder: self.encoder.on_card(card, &self.resident)?,
            decoder: self.decoder.on_card(card, &self.resident)?,
            resident: self.resident.clone(),
            encoded: Memo::default(),
            weights: self.weights.clone(),
            ..*self
        }))
    }

    fn estimate_encoding(&self, h: usize, w: usize) -> Estimate {
        let side = self.design.latent.scale;
        self.estimate(Kind::Encode, &self.encoder, (h / side * side, w / side * side))
    }

    fn estimate_decoding(&self, h: usize, w: usize) -> Estimate {
        self.estimate(Kind::Decode, &self.decoder, (h, w))
    }

    fn working_bytes(&self, h: usize, w: usize) -> u64 {
        // In the last layers, at full size: what goes in, comes out, and adds up, with some room. What goes in may be
        // twice as wide, and then nothing else is there yet.
        const PLANES: usize = 5;
        (PLANES * self.width * h * w * size_of::<f32>()) as u64
    }
}
