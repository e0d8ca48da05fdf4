//! The layers encoder and decoder are stacked from. Frames are (channels, h, w).

mod on_card;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::conv::Conv;
use super::names::Form;
use super::past::Past;
use crate::device::ops::{Numbers, Resize, vectorised, zeros};
use crate::model::Result;
use crate::model::estimate::Work;
use crate::model::parts::{attention, silu, with_slices};
use crate::weights::Weights;

pub use on_card::Space;

/// Frames go in and come out; some layers change how many there are.
pub enum Layer {
    Conv(Conv),
    /// [`Norm`], then silu, then a convolution.
    Head(Norm, Conv),
    Residual(Residual),
    Attention(Attention),
    Down(Down),
    Up(Up),
}

impl Layer {
    pub fn forward(&self, frames: Vec<Tensor>, past: &mut Past) -> Result<Vec<Tensor>> {
        match self {
            Self::Conv(conv) => conv.causally(&frames, past),
            Self::Head(norm, conv) => conv.causally(&norm.silu(&frames)?, past),
            Self::Residual(residual) => residual.forward(frames, past),
            Self::Attention(attention) => frames.iter().map(|frame| attention.forward(frame)).collect(),
            Self::Down(down) => down.forward(frames, past),
            Self::Up(up) => up.forward(frames, past),
        }
    }
}

impl Layer {
    /// What it costs for one picture of this size, and the size of what comes out.
    pub fn work(&self, size: (usize, usize)) -> (Work, (usize, usize)) {
        match self {
            Self::Conv(conv) | Self::Head(_, conv) => conv.work(size),
            Self::Residual(Residual { convs: [one, two], shortcut, .. }) => {
                let convs = [Some(one), Some(two), shortcut.as_ref()].into_iter().flatten();
                (convs.map(|conv| conv.work(size).0).sum(), size)
            }
            Self::Attention(Attention { qkv, out, norm, .. }) => {
                let (places, width) = (size.0 * size.1, norm.gamma.len());
                (qkv.work(size).0 + out.work(size).0 + Work::attention(places, places, width), size)
            }
            // Of one picture, the convolutions over time see nothing.
            Self::Down(Down { plane, .. }) | Self::Up(Up { plane, .. }) => plane.work(size),
        }
    }
}

/// `x / max(|x|, 1e-12) * sqrt(channels) * gamma`, with the length of the channels of one place.
pub struct Norm {
    gamma: Vec<f32>,
}

impl Norm {
    /// Reads `gamma` at `weights`, which has `ones` more sides of one.
    pub fn load(weights: &Weights, channels: usize, ones: usize) -> Result<Self> {
        let mut shape = vec![channels];
        shape.resize(1 + ones, 1);
        Ok(Self { gamma: weights.stored("gamma", &shape)?.to_vec() })
    }

    fn silu(&self, frames: &[Tensor]) -> Result<Vec<Tensor>> {
        frames.iter().map(|frame| self.apply(frame, silu)).collect()
    }

    /// The norm, and an activation on top.
    fn apply(&self, frame: &Tensor, activation: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
        let (channels, h, w) = frame.dims3()?;
        let root = (channels as f32).sqrt();
        let mut out = zeros(channels * h * w);
        with_slices([frame], |[values]| {
            let mut factors = vec![0.0; h * w];
            factors.par_chunks_mut(w).enumerate().for_each(|(row, factors)| {
                for plane in values.chunks(h * w) {
                    for (sum, x) in factors.iter_mut().zip(&plane[row * w..]) {
                        *sum += x * x;
                    }
                }
                for sum in factors {
                    *sum = root / sum.sqrt().max(1e-12);
                }
            });
            let planes = out.par_chunks_mut(h * w).zip(values.par_chunks(h * w)).zip(&self.gamma);
            planes.for_each(|((out, plane), gamma)| scaled(plane, &factors, *gamma, &activation, out));
        })?;
        Ok(Tensor::from_vec(out, frame.shape(), &Device::Cpu)?.to_dtype(frame.dtype())?)
    }
}

vectorised! {
    fn scaled(plane: &[f32], factors: &[f32], gamma: f32, activation: &impl Fn(f32) -> f32, out: &mut [f32]) {
        for ((out, x), factor) in out.iter_mut().zip(plane).zip(factors) {
            *out = activation(x * factor * gamma);
        }
    }
}

pub struct Residual {
    norms: [Norm; 2],
    convs: [Conv; 2],
    shortcut: Option<Conv>,
}

impl Residual {
    pub fn load(weights: &Weights, channels: [usize; 2], form: Form) -> Result<Self> {
        let [inputs, outputs] = channels;
        let (norms, convs) = (form.names.norms, form.names.convs);
        let shortcut = || form.conv(&weights.at(form.names.shortcut), channels, 1);
        Ok(Self {
            norms: [
                Norm::load(&weights.at(norms[0]), inputs, 3)?,
                Norm::load(&weights.at(norms[1]), outputs, 3)?,
            ],
            convs: [
                form.conv(&weights.at(convs[0]), channels, 3)?,
                form.conv(&weights.at(convs[1]), [outputs; 2], 3)?,
            ],
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
        })
    }

    fn forward(&self, mut frames: Vec<Tensor>, past: &mut Past) -> Result<Vec<Tensor>> {
        let [first, second] = &self.norms;
        let y = self.convs[0].causally(&first.silu(&frames)?, past)?;
        if let Some(shortcut) = &self.shortcut {
            frames = shortcut.each(&frames)?;
        }
        self.convs[1].causally_onto(Some(&frames), &second.silu(&y)?, past)
    }
}

/// Attention of one head over the places of a frame.
pub struct Attention {
    norm: Norm,
    qkv: Conv,
    out: Conv,
    numbers: Numbers,
}

impl Attention {
    pub fn load(weights: &Weights, channels: usize) -> Result<Self> {
        Ok(Self {
            norm: Norm::load(&weights.at("norm"), channels, 2)?,
            qkv: Conv::plane(&weights.at("to_qkv"), [channels, 3 * channels], 1, Resize::No)?,
            out: Conv::plane(&weights.at("proj"), [channels, channels], 1, Resize::No)?,
            numbers: weights.numbers(),
        })
    }

    fn forward(&self, frame: &Tensor) -> Result<Tensor> {
        let (channels, h, w) = frame.dims3()?;
        let normed = self.norm.apply(frame, |x| x)?;
        let qkv = self.qkv.each(&[normed])?.remove(0).reshape((3, channels, h * w))?.transpose(1, 2)?;
        // (batch, heads, places, channels)
        let part = |index: usize| qkv.get(index)?.unsqueeze(0)?.unsqueeze(0);
        let scale = (channels as f64).powf(-0.5);
        let mixed = attention([&part(0)?, &part(1)?, &part(2)?], scale, None, self.numbers)?;
        let mixed = mixed.reshape((h * w, channels))?.t()?.contiguous()?.reshape((channels, h, w))?;
        Ok((frame + self.out.each(&[mixed])?.remove(0))?)
    }
}

/// Halves the sides, and the number of frames where there is a convolution over time.
pub struct Down {
    plane: Conv,
    time: Option<Conv>,
}

impl Down {
    pub fn load(weights: &Weights, channels: [usize; 2], form: Form) -> Result<Self> {
        let time = |time| Conv::causal(&weights.at("time_conv"), [channels[1]; 2], time, 1);
        Ok(Self {
            plane: Conv::plane(&weights.at("resample.1"), channels, 3, Resize::Half)?,
            time: form.time_of(weights).map(time).transpose()?,
        })
    }

    /// The first frame of a video passes alone; the others come in pairs, and each pair is joined with the
    /// frame before it.
    fn forward(&self, frames: Vec<Tensor>, past: &mut Past) -> Result<Vec<Tensor>> {
        let frames = self.plane.each(&frames)?;
        let Some(time) = &self.time else { return Ok(frames) };
        let Some(mut all) = past.recall() else {
            past.keep(frames.clone(), 1);
            return Ok(frames);
        };
        all.extend(frames);
        let joined = time.every_second(&all)?;
        past.keep(all, 1);
        Ok(joined)
    }
}

/// Doubles the sides, and the number of frames where there is a convolution over time.
pub struct Up {
    plane: Conv,
    time: Option<Conv>,
}

impl Up {
    pub fn load(weights: &Weights, channels: [usize; 2], form: Form) -> Result<Self> {
        let time = |time| Conv::causal(&weights.at("time_conv"), [channels[0], 2 * channels[0]], time, 1);
        Ok(Self {
            plane: Conv::plane(&weights.at("resample.1"), channels, 3, Resize::Double)?,
            time: form.time_of(weights).map(time).transpose()?,
        })
    }

    /// The first frame of a video stays alone, and those after it do not see it.
    fn forward(&self, frames: Vec<Tensor>, past: &mut Past) -> Result<Vec<Tensor>> {
        let frames = match &self.time {
            Some(time) if past.begun() => halves(&time.causally(&frames, past)?)?,
            Some(_) => {
                past.keep(Vec::new(), 0);
                frames
            }
            None => frames,
        };
        self.plane.each(&frames)
    }
}

/// Each (2 channels, h, w) becomes two frames of (channels, h, w).
fn halves(frames: &[Tensor]) -> Result<Vec<Tensor>> {
    let halves = frames.iter().flat_map(|frame| frame.chunk(2, 0).into_iter().flatten());
    halves.map(|half| Ok(half.contiguous()?)).collect()
}
