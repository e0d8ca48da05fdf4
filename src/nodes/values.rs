//! What travels along links besides pictures and plain values.

use std::sync::Arc;

use candle_core::Tensor;
use serde_json::Value as Json;

use crate::device;
use crate::graph::{NodeError, Result, Socket};
use crate::image::Image;
use crate::model::lora::Lora;
use crate::model::vae::Tiling;
use crate::model::{self, EncodedText, TextEncoder, TextPrompt};
use crate::sampling::{self, Entry, Hooks, InitialNoise, Keyframes};
use crate::stop::Stop;

/// A text encoder, under ComfyUI's name for it, and what is hooked to it.
#[derive(Clone)]
pub struct Clip(pub Arc<dyn TextEncoder>, pub ClipHooks);

/// What goes with texts that an encoder reads.
#[derive(Clone, Default)]
pub struct ClipHooks {
    /// What changes the encoder.
    pub encoder: Hooks,
    /// Whether that follows its keyframes: a text then becomes an entry for each part of the run.
    pub scheduled: bool,
    /// What is put on the entries, to change the diffusion model.
    pub entries: Hooks,
}

impl Clip {
    pub fn new(encoder: Arc<dyn TextEncoder>) -> Self {
        Self(encoder, ClipHooks::default())
    }

    /// Another encoder, such as this one with a LoRA, with the same hooks.
    #[must_use]
    pub fn with_encoder(&self, encoder: Arc<dyn TextEncoder>) -> Self {
        Self(encoder, self.1.clone())
    }

    /// The parts of a run for which texts are encoded, each with what hooks add to the encoder; `None` is all of it.
    fn parts(&self) -> Vec<(Option<[f64; 2]>, Vec<Lora>)> {
        let ClipHooks { scheduled, encoder, .. } = &self.1;
        if !scheduled || encoder.is_empty() {
            return vec![(None, encoder.on_text())];
        }
        encoder.on_text_by_parts().into_iter().map(|(part, loras)| (Some(part), loras)).collect()
    }
}

impl Socket for Clip {
    const NAME: &'static str = "CLIP";
}

impl Socket for sampling::Model {
    const NAME: &'static str = "MODEL";
}

impl Socket for sampling::Sampler {
    const NAME: &'static str = "SAMPLER";
}

impl Socket for Hooks {
    const NAME: &'static str = "HOOKS";
}

impl Socket for Keyframes {
    const NAME: &'static str = "HOOK_KEYFRAMES";
}

/// The noise levels a run visits, falling.
pub struct Sigmas(pub Vec<f32>);

impl Socket for Sigmas {
    const NAME: &'static str = "SIGMAS";
    /// The numbers themselves, so that PreviewAny shows them.
    fn describe(&self) -> Json {
        self.0.iter().map(|sigma| f64::from(*sigma)).collect()
    }
}

/// What a sampler is steered by: entries whose predictions are averaged.
#[derive(Clone)]
pub struct Conditioning(pub Vec<Entry>);

impl Socket for Conditioning {
    const NAME: &'static str = "CONDITIONING";
    fn bytes(&self) -> usize {
        self.0.iter().flat_map(|entry| entry.references.iter().chain([&entry.text])).map(tensor_bytes).sum()
    }
}

impl Conditioning {
    /// `prompt` as the encoder reads it: one entry, unless hooks follow keyframes.
    pub fn encode(clip: &Clip, prompt: &TextPrompt, stop: &Stop) -> Result<Self> {
        let entry = |(text_span, loras): (Option<[f64; 2]>, Vec<Lora>)| {
            let encoded = if loras.is_empty() {
                clip.0.encode(prompt, stop)?
            } else {
                clip.0.with_loras(&loras)?.network.encode(prompt, stop)?
            };
            let hooks = clip.1.entries.clone();
            let EncodedText { hidden, pictures, pooled, .. } = encoded;
            Ok(Entry { pictures, pooled, text_span, hooks, ..Entry::new(hidden) })
        };
        clip.parts().into_iter().map(entry).collect::<Result<_>>().map(Self)
    }

    /// The same entries, each changed.
    #[must_use]
    pub fn map(&self, change: impl Fn(&mut Entry)) -> Self {
        let mut changed = self.clone();
        changed.0.iter_mut().for_each(change);
        changed
    }
}

/// A batch of latents as they lie between nodes: not normalised.
#[derive(Clone)]
pub struct Latent {
    /// (batch, channels, h, w), or with a frame axis before h.
    pub samples: Tensor,
    /// (1 or batch, h, w): where the sampler may change anything, 0..1.
    pub noise_mask: Option<Tensor>,
    /// Which draw of the noise each item of the batch is given.
    pub batch_index: Option<Vec<usize>>,
}

impl Socket for Latent {
    const NAME: &'static str = "LATENT";
    fn bytes(&self) -> usize {
        tensor_bytes(&self.samples)
    }
}

impl Latent {
    pub fn new(samples: Tensor) -> Self {
        Self { samples, noise_mask: None, batch_index: None }
    }

    /// Other samples with the same mask and draws of noise.
    #[must_use]
    pub fn with_samples(&self, samples: Tensor) -> Self {
        Self { samples, ..self.clone() }
    }

    /// The noise each item starts from.
    pub fn draws(&self) -> InitialNoise<'_> {
        self.batch_index.as_deref().map_or(InitialNoise::Batch, InitialNoise::Items)
    }

    /// The batch `amount` times over; draws of noise go on counting where the last repetition ended.
    pub fn repeat(&self, amount: usize) -> Result<Self> {
        let noise_mask = match &self.noise_mask {
            Some(mask) if mask.dim(0)? > 1 => Some(Tensor::cat(&vec![&self.batch_mask(mask)?; amount], 0)?),
            other => other.clone(),
        };
        let batch_index = self.batch_index.as_ref().map(|index| {
            let span = index.iter().max().unwrap_or(&0) - index.iter().min().unwrap_or(&0) + 1;
            (0..amount).flat_map(|turn| index.iter().map(move |draw| draw + turn * span)).collect()
        });
        Ok(Self { samples: Tensor::cat(&vec![&self.samples; amount], 0)?, noise_mask, batch_index })
    }

    /// The draw of noise of each item.
    pub fn indices(&self) -> Result<Vec<usize>> {
        Ok(match &self.batch_index {
            Some(indices) => indices.clone(),
            None => (0..self.samples.dim(0)?).collect(),
        })
    }

    /// A batch of `count`: the first ones, or all of them over and over.
    pub fn repeated_to(&self, count: usize) -> Result<Self> {
        let batch = self.samples.dim(0)?;
        let samples = Tensor::cat(&vec![&self.samples; count.div_ceil(batch)], 0)?;
        Ok(self.with_samples(samples.narrow(0, 0, count)?))
    }

    /// Items `first..first + count` of the batch, cut to what there is; each keeps its draw of noise.
    pub fn slice(&self, first: usize, count: usize) -> Result<Self> {
        let batch = self.samples.dim(0)?;
        let first = first.min(batch - 1);
        let count = count.min(batch - first);
        let noise_mask = match &self.noise_mask {
            Some(mask) if mask.dim(0)? > 1 => Some(self.batch_mask(mask)?.narrow(0, first, count)?),
            other => other.clone(),
        };
        let draws = self.batch_index.clone().unwrap_or_else(|| (0..batch).collect());
        let batch_index = Some(draws.into_iter().skip(first).take(count).collect());
        Ok(Self { samples: self.samples.narrow(0, first, count)?, noise_mask, batch_index })
    }

    /// The mask with one entry per item of the batch.
    fn batch_mask(&self, mask: &Tensor) -> Result<Tensor> {
        let batch = self.samples.dim(0)?;
        let times = batch.div_ceil(mask.dim(0)?);
        Ok(Tensor::cat(&vec![mask; times], 0)?.narrow(0, 0, batch)?)
    }
}

/// An autoencoder between pixels and latents.
pub struct Vae(pub Arc<dyn model::Vae>);

impl Socket for Vae {
    const NAME: &'static str = "VAE";
}

impl Vae {
    /// The latent of a batch of pictures, in tiles if asked to, or when the whole would not fit into memory.
    /// A video VAE takes the batch for the frames of one video, as ComfyUI does; one for pictures encodes each.
    pub fn encode(&self, image: &Image, tiling: Option<&Tiling>, stop: &Stop) -> Result<Tensor> {
        let pixels = image.to_tensor().map_err(NodeError::other)?;
        let size = [image.height(), image.width()];
        self.whole_or_in_tiles(tiling, size, Tiling::square(256, 64), |tiling| match tiling {
            None => self.0.encode(&pixels, stop),
            Some(tiling) => self.0.encode_tiled(&pixels, tiling, stop),
        })
    }

    /// The pictures of a batch of latents, frames of videos one after another; tiles as in [`Vae::encode`].
    pub fn decode(&self, latent: &Latent, tiling: Option<&Tiling>, stop: &Stop) -> Result<Image> {
        let samples = match latent.samples.rank() {
            4 => latent.samples.unsqueeze(2)?,
            _ => latent.samples.clone(),
        };
        let (scale, [.., h, w]) = (self.0.latent().scale, samples.dims()) else {
            return Err(NodeError::Refused("a latent without sides cannot be decoded".to_owned()));
        };
        let size = [h * scale, w * scale];
        let rescue = Tiling::square(256 / scale, 64 / scale);
        let pixels = self.whole_or_in_tiles(tiling, size, rescue, |tiling| match tiling {
            None => self.0.decode(&samples, stop),
            Some(tiling) => self.0.decode_tiled(&samples, tiling, stop),
        })?;
        Image::from_tensor(&pixels).map_err(NodeError::other)
    }

    /// Work in the tiles asked for; else on the whole, and in ComfyUI's tiles if a picture of this size does not fit
    /// into memory at once.
    fn whole_or_in_tiles(
        &self,
        asked: Option<&Tiling>,
        [height, width]: [usize; 2],
        rescue: Tiling,
        work: impl Fn(Option<&Tiling>) -> model::Result<Tensor>,
    ) -> Result<Tensor> {
        if asked.is_some() {
            return Ok(work(asked)?);
        }
        if self.0.working_bytes(height, width) <= device::memory().free {
            match work(None) {
                Err(model::Error::Full(full)) => tracing::info!("working in tiles: {full}"),
                done => return Ok(done?),
            }
        }
        Ok(work(Some(&rescue))?)
    }
}

fn tensor_bytes(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

impl NodeError {
    /// What a network is told when the hint that it asked for cannot be made.
    pub(super) fn into_model_error(self) -> model::Error {
        match self {
            Self::Interrupted(stopped) => stopped.into(),
            error => model::Error::Hint(Box::new(error)),
        }
    }
}

/// Stopping is no failure, whichever layer noticed it.
impl From<model::Error> for NodeError {
    fn from(error: model::Error) -> Self {
        match error {
            model::Error::Stopped(stopped) => stopped.into(),
            error => Self::other(error),
        }
    }
}

impl From<sampling::Error> for NodeError {
    fn from(error: sampling::Error) -> Self {
        match error {
            sampling::Error::Stopped(stopped) => stopped.into(),
            sampling::Error::Model(error) => error.into(),
            // The watcher is a node reporting its steps; its own error comes back unchanged.
            sampling::Error::Watch(cause) => match cause.downcast::<Self>() {
                Ok(own) => *own,
                Err(cause) => Self::Other(cause),
            },
            error => Self::other(error),
        }
    }
}

impl From<candle_core::Error> for NodeError {
    fn from(error: candle_core::Error) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    fn batch(count: usize) -> Latent {
        Latent::new(Tensor::zeros((count, 16, 2, 2), DType::F32, &Device::Cpu).expect("a small tensor"))
    }

    #[test]
    fn a_slice_remembers_its_draws_and_repeating_goes_on_counting() {
        let slice = batch(4).slice(1, 2).expect("in range");
        assert_eq!(slice.batch_index, Some(vec![1, 2]));
        assert_eq!(slice.repeat(2).expect("small").batch_index, Some(vec![1, 2, 3, 4]));
    }

    #[test]
    fn a_slice_past_the_end_is_cut() {
        let slice = batch(2).slice(9, 9).expect("cut");
        assert_eq!((slice.samples.dims()[0], slice.batch_index), (1, Some(vec![1])));
    }
}
