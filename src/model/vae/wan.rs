//! The Wan 2.1 autoencoder, which Qwen-Image uses for pictures: a causal video network over planes.
//!
//! Architecture: Wan Team, "Wan: open and advanced large-scale video generative models" (2025). Sizes come
//! from the weights. A picture is a video of one frame; only pictures go to a graphics card.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::device::residency::Use;
use crate::model::card::Card;
use crate::model::estimate::{Estimate, Kind, Work};
use crate::model::memo::Memo;
use crate::model::{Compute, Error, LatentFormat, Result, Vae, latents};
use crate::stop::Stop;
use crate::weights::{Resident, Weights};

mod conv;
mod layers;
mod on_card;
mod past;

use super::tiles::{Place, Scale, Tiling, blend};
use conv::Conv;
use layers::{Attention, Down, Layer, Norm, Residual, Up};
use on_card::OnCard;
use past::Past;

pub struct Family;

impl super::Family for Family {
    fn name(&self) -> &'static str {
        "Wan 2.1 / Qwen-Image VAE"
    }

    fn claims(&self, weights: &Weights) -> bool {
        // Wan 2.2 has the first name too, and groups its layers differently.
        weights.has("decoder.middle.0.residual.0.gamma")
            && !weights.has("decoder.upsamples.0.upsamples.0.residual.2.weight")
    }

    fn load(&self, weights: Weights, compute: Compute) -> Result<Arc<dyn Vae>> {
        Ok(Arc::new(WanVae::load(weights, compute)?))
    }
}

/// Frames of a video that one latent frame stands for, but for the first, which stands for itself.
const FRAMES: usize = 4;
/// Pixels that one latent cell stands for, each way.
const SIDE: usize = 8;

pub struct WanVae {
    encoder: Half,
    decoder: Half,
    compute: Compute,
    /// Channels of its pictures: colours, and for layers how opaque they are.
    colours: usize,
    weights: Weights,
    /// Channels at full size.
    width: usize,
    resident: Resident,
    encoded: Memo<Tensor>,
}

/// Layers, and where a graphics card computes them.
struct Half {
    layers: Arc<[Layer]>,
    card: Option<OnCard>,
}

impl From<Vec<Layer>> for Half {
    fn from(layers: Vec<Layer>) -> Self {
        Self { layers: layers.into(), card: None }
    }
}

impl Half {
    fn on_card(&self, card: &Card, resident: &Resident) -> Result<Self> {
        Ok(Self { layers: self.layers.clone(), card: OnCard::new(card, &self.layers, resident)? })
    }
}

impl WanVae {
    pub fn load(weights: Weights, compute: Compute) -> Result<Self> {
        let channels = latents::WAN_2_1.channels;
        weights.multiplied_with(compute.numbers()).build(|weights| {
            let encoder = weights.at("encoder");
            let colours = weights.side("encoder.conv1.weight", 1)?;
            let mut stack = Stack::new(&encoder, colours)?;
            stack.sequence(&encoder.at("downsamples"), Direction::Down)?;
            stack.middle(&encoder.at("middle"))?;
            stack.head(&encoder.at("head"), 2 * channels)?;
            stack.point(&weights.at("conv1"))?;
            let encoder = Half::from(stack.layers);

            let decoder = weights.at("decoder");
            let mut stack = Stack::new(&decoder, channels)?;
            stack.layers.insert(0, Layer::Conv(Conv::causal(&weights.at("conv2"), [channels; 2], 1, 1)?));
            stack.middle(&decoder.at("middle"))?;
            stack.sequence(&decoder.at("upsamples"), Direction::Up)?;
            stack.head(&decoder.at("head"), colours)?;
            let width = weights.side("encoder.conv1.weight", 0)?;
            let all = vec!["all".to_owned()];
            let resident = weights.resident("the VAE", all, 1, Use::Seldom, |_| Some(0));
            let (decoder, encoded) = (Half::from(stack.layers), Memo::default());
            let weights = weights.clone();
            Ok(Self { encoder, decoder, compute, colours, weights, width, resident, encoded })
        })
    }

    /// `video`: (colours, frames, h, w), -1..1. Gives (channels, frames', h', w').
    fn encode_video(&self, video: &Tensor, stop: &Stop) -> Result<Tensor> {
        let frames = frames(video)?;
        let (first, rest) = frames.split_at(1);
        // Frames that do not fill a group are not seen at all, as in ComfyUI.
        let groups: Vec<_> = std::iter::once(first).chain(rest.chunks_exact(FRAMES)).collect();
        let encoded = self.run(&self.encoder, &groups, (video.dim(2)?, video.dim(3)?), stop)?;
        // The other half is the logarithm of the variance; the mean alone is used.
        Ok(encoded.narrow(0, 0, latents::WAN_2_1.channels)?)
    }

    /// `latent`: (channels, frames, h, w). Gives (colours, frames', h', w'), -1..1 and somewhat
    /// beyond.
    fn decode_video(&self, latent: &Tensor, stop: &Stop) -> Result<Tensor> {
        let frames = frames(latent)?;
        let size = (SIDE * latent.dim(2)?, SIDE * latent.dim(3)?);
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
            for layer in &*half.layers {
                stop.check()?;
                frames = layer.forward(frames, &mut past)?;
            }
            results.extend(frames);
        }
        Ok(Tensor::stack(&results, 1)?.to_dtype(DType::F32)?)
    }
}

impl WanVae {
    /// What one picture costs that goes in at this size.
    fn estimate(&self, kind: Kind, layers: &[Layer], size: (usize, usize)) -> Estimate {
        let (mut work, mut now) = (Work::default(), size);
        for layer in layers {
            let (more, next) = layer.work(now);
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

/// How lengths and places of latents become those of videos, and back.
const DECODED: Scale = Scale {
    length: [|frames| (FRAMES * frames).saturating_sub(FRAMES - 1), |h| SIDE * h, |w| SIDE * w],
    position: [|frame| FRAMES * frame, |y| SIDE * y, |x| SIDE * x],
};
const ENCODED: Scale = Scale {
    length: [|frames| frames.div_ceil(FRAMES), |h| h / SIDE, |w| w / SIDE],
    position: [|frame| frame / FRAMES, |y| y / SIDE, |x| x / SIDE],
};

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

impl Vae for WanVae {
    fn latent(&self) -> &'static LatentFormat {
        &latents::WAN_2_1
    }

    fn encode(&self, pixels: &Tensor, stop: &Stop) -> Result<Tensor> {
        self.encoded.get_or(pixels, "", || {
            Ok(self.encode_video(&video(pixels, self.colours)?, stop)?.unsqueeze(0)?)
        })
    }

    fn decode(&self, latent: &Tensor, stop: &Stop) -> Result<Tensor> {
        each(latent, |latent| self.decode_video(latent, stop))
    }

    fn encode_tiled(&self, pixels: &Tensor, tiling: &Tiling, stop: &Stop) -> Result<Tensor> {
        self.encoded.get_or(pixels, &format!("{tiling:?}"), || {
            let video = video(pixels, self.colours)?;
            let work = |place: &Place| self.encode_video(&tile(&video, place)?, stop);
            Ok(blend(size(&video)?, tiling, &ENCODED, work)?.unsqueeze(0)?)
        })
    }

    fn decode_tiled(&self, latent: &Tensor, tiling: &Tiling, stop: &Stop) -> Result<Tensor> {
        each(latent, |latent| {
            let work = |place: &Place| self.decode_video(&tile(latent, place)?, stop);
            blend(size(latent)?, tiling, &DECODED, work)
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
        self.estimate(Kind::Encode, &self.encoder.layers, (h / SIDE * SIDE, w / SIDE * SIDE))
    }

    fn estimate_decoding(&self, h: usize, w: usize) -> Estimate {
        self.estimate(Kind::Decode, &self.decoder.layers, (h, w))
    }

    fn working_bytes(&self, h: usize, w: usize) -> u64 {
        // In the last layers, at full size: what goes in, comes out, and adds up, with some room.
        const PLANES: usize = 5;
        (PLANES * self.width * h * w * size_of::<f32>()) as u64
    }
}

/// Pixels (frames, h, w, channels) of 0..1 as a video (colours, frames', h', w') of -1..1: the centre, as far as
/// the sides are multiples of [`SIDE`], and the frames that fill groups. Colours that are not there are full.
fn video(pixels: &Tensor, colours: usize) -> Result<Tensor> {
    let (frames, height, width, channels) = pixels.dims4()?;
    let (h, w) = (height / SIDE * SIDE, width / SIDE * SIDE);
    if h == 0 || w == 0 {
        return Err(Error::TooSmall { width, height, least: SIDE });
    }
    let frames = DECODED.length[0](ENCODED.length[0](frames));
    let centre = pixels.narrow(0, 0, frames)?.narrow(3, 0, channels.min(colours))?;
    let mut centre = centre.narrow(1, (height - h) / 2, h)?.narrow(2, (width - w) / 2, w)?;
    if channels < colours {
        let full = Tensor::ones((frames, h, w, colours - channels), centre.dtype(), centre.device())?;
        centre = Tensor::cat(&[&centre, &full], 3)?;
    }
    Ok(centre.permute((3, 0, 1, 2))?.affine(2.0, -1.0)?)
}

/// Decodes each item of a batch and joins all frames: (batch * frames, h, w, colours), 0..1.
fn each(latent: &Tensor, decode: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let found = latent.dim(1)?;
    let expected = latents::WAN_2_1.channels;
    if found != expected {
        return Err(Error::Channels { expected, found });
    }
    let pictures = (0..latent.dim(0)?).map(|index| {
        let video = decode(&latent.get(index)?)?;
        Ok(video.affine(0.5, 0.5)?.clamp(0.0, 1.0)?.permute((1, 2, 3, 0))?.contiguous()?)
    });
    Ok(Tensor::cat(&pictures.collect::<Result<Vec<_>>>()?, 0)?)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Down,
    Up,
}

/// Layers being loaded, and the channels the last of them puts out.
struct Stack {
    layers: Vec<Layer>,
    channels: usize,
}

impl Stack {
    /// Begins with `conv1` at `weights`.
    fn new(weights: &Weights, inputs: usize) -> Result<Self> {
        let channels = weights.side("conv1.weight", 0)?;
        let first = Conv::causal(&weights.at("conv1"), [inputs, channels], 3, 3)?;
        Ok(Self { layers: vec![Layer::Conv(first)], channels })
    }

    fn residual(&mut self, weights: &Weights) -> Result<()> {
        let outputs = weights.side_or("residual.2.weight", 0, self.channels);
        self.layers.push(Layer::Residual(Residual::load(weights, [self.channels, outputs])?));
        self.channels = outputs;
        Ok(())
    }

    fn sequence(&mut self, weights: &Weights, direction: Direction) -> Result<()> {
        for index in 0..weights.count("") {
            let weights = weights.at(index);
            if !weights.has("resample.1.weight") {
                self.residual(&weights)?;
            } else if direction == Direction::Down {
                self.layers.push(Layer::Down(Down::load(&weights, self.channels)?));
            } else {
                self.layers.push(Layer::Up(Up::load(&weights, self.channels)?));
                self.channels /= 2;
            }
        }
        Ok(())
    }

    fn middle(&mut self, weights: &Weights) -> Result<()> {
        self.residual(&weights.at(0))?;
        self.layers.push(Layer::Attention(Attention::load(&weights.at(1), self.channels)?));
        self.residual(&weights.at(2))
    }

    fn head(&mut self, weights: &Weights, outputs: usize) -> Result<()> {
        let norm = Norm::load(&weights.at(0), self.channels, 3)?;
        let conv = Conv::causal(&weights.at(2), [self.channels, outputs], 3, 3)?;
        self.layers.push(Layer::Head(norm, conv));
        self.channels = outputs;
        Ok(())
    }

    /// A convolution that mixes channels only.
    fn point(&mut self, weights: &Weights) -> Result<()> {
        self.layers.push(Layer::Conv(Conv::causal(weights, [self.channels; 2], 1, 1)?));
        Ok(())
    }
}
