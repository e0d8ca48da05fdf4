//! The whole way from a latent to a latent: noise in, a sampler's walk, and out again.

use candle_core::{DType, Tensor};

use super::latent::{is_blank, noised, with_frames};
use super::mask::Masked;
use super::model::Guided;
use super::samplers::{Denoise, Sampling};
use super::{Error, Guidance, Model, Noise, Result, Sampler, Watch, Watched, noise};
use crate::model::LatentFormat;
use crate::stop::Stop;

/// What to sample. Everything happens on the device of the latent.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// As the VAE gives it, not normalised: (batch, channels, \[frames,\] h, w). One of zeros is a blank
    /// sheet, whatever its channels.
    pub latent: &'a Tensor,
    pub noise: InitialNoise<'a>,
    pub seed: u64,
    pub sampler: &'a Sampler,
    /// Falling; the run ends at the last. Without any, the latent is returned as it is.
    pub sigmas: &'a [f32],
    pub guidance: Guidance<'a>,
    /// Where to sample (1) and what to keep (0): (..., h, w) of any size.
    pub mask: Option<&'a Tensor>,
}

/// The noise a run starts from.
#[derive(Clone, Copy, Debug)]
pub enum InitialNoise<'a> {
    /// The whole batch in one draw.
    Batch,
    /// For each item of the batch, the draw of this index.
    Items(&'a [usize]),
    /// None: the latent carries its noise already.
    Absent,
}

/// What a run gives. Latents are not normalised; video models give them a frame axis.
#[derive(Clone, Debug)]
pub struct Sampled {
    pub latent: Tensor,
    /// The clean estimate of the last step; `None` if there was no step.
    pub denoised: Option<Tensor>,
}

/// Runs a sampler over the latent.
pub fn sample(model: &Model, request: &Request<'_>, watch: &mut Watch<'_>, stop: &Stop) -> Result<Sampled> {
    let format = model.latent();
    let latent = prepare(format, request.latent)?;
    let outwards = |x: &Tensor| if format.video { Ok(x.clone()) } else { x.squeeze(2) };
    if request.sigmas.is_empty() {
        return Ok(Sampled { latent: outwards(&latent)?, denoised: None });
    }
    if let Some(index) = request.sigmas.iter().position(|sigma| !sigma.is_finite()) {
        return Err(Error::BadSigma { index });
    }
    // A blank sheet stays zero: ComfyUI does not shift it by the mean.
    let latent = if is_blank(&latent)? { latent } else { format.normalise(&latent)? };
    let noise = initial_noise(request.noise, request.seed, &latent)?;
    let (x, denoised) = solve(model, request, [&latent, &noise], watch, stop)?;
    if !x.sum_all()?.to_scalar::<f32>()?.is_finite() {
        return Err(Error::BadResult);
    }
    let finish = |x: Tensor| Ok::<_, Error>(outwards(&format.denormalise(&x)?)?);
    Ok(Sampled { latent: finish(x)?, denoised: denoised.map(finish).transpose()? })
}

/// A latent under the noise of one sigma, both as they lie between nodes.
pub fn add_noise(
    format: &LatentFormat,
    latent: &Tensor,
    noise: InitialNoise<'_>,
    seed: u64,
    sigma: f64,
) -> Result<Tensor> {
    let latent = prepare(format, latent)?;
    let noise = initial_noise(noise, seed, &latent)?;
    let latent = if is_blank(&latent)? { latent } else { format.normalise(&latent)? };
    Ok(format.denormalise(&noised(&latent, &noise, sigma)?)?)
}

/// Pixels per cell of blank latents that were made for no model in particular.
const BLANK_SCALE: usize = 8;

/// Gives a latent its frame axis, and a blank one of another space the channels and the size it has in the model's.
fn prepare(format: &LatentFormat, latent: &Tensor) -> Result<Tensor> {
    let latent = with_frames(&latent.to_dtype(DType::F32)?)?;
    let (batch, channels, frames, h, w) = latent.dims5()?;
    if channels == format.channels {
        return Ok(latent);
    }
    if !is_blank(&latent)? {
        return Err(Error::Channels { found: channels, expected: format.channels });
    }
    let side = |cells: usize| (cells * BLANK_SCALE / format.scale).max(1);
    let shape = (batch, format.channels, frames, side(h), side(w));
    Ok(Tensor::zeros(shape, DType::F32, latent.device())?)
}

fn initial_noise(noise: InitialNoise<'_>, seed: u64, latent: &Tensor) -> Result<Tensor> {
    let indices = match noise {
        InitialNoise::Batch => None,
        InitialNoise::Items(indices) => Some(indices),
        InitialNoise::Absent => return Ok(latent.zeros_like()?),
    };
    Ok(noise::initial(seed, latent.dims(), indices, latent.device())?)
}

/// From the normalised latent to the normalised result, and the last clean estimate.
fn solve(
    model: &Model,
    request: &Request<'_>,
    [latent, noise]: [&Tensor; 2],
    watch: &mut Watch<'_>,
    stop: &Stop,
) -> Result<(Tensor, Option<Tensor>)> {
    let sigmas: Vec<f64> = request.sigmas.iter().map(|sigma| f64::from(*sigma)).collect();
    let mut guided = Guided::new(model, &request.guidance, latent, request.sigmas, stop)?;
    let mut denoised = None;
    let mut keep = |watched: Watched<'_>| {
        denoised = Some(watched.denoised.clone());
        watch(watched)
    };
    let mut walk = |denoise: &mut dyn Denoise| {
        let x = noised(latent, noise, sigmas[0])?;
        let run = &mut Sampling { model: denoise, sigmas: &sigmas, seed: request.seed, watch: &mut keep };
        request.sampler.run(run, x)
    };
    let x = match request.mask {
        None => walk(&mut guided)?,
        Some(mask) => {
            let fresh = request.sampler.fresh_mask_noise;
            let noise = if fresh { other_noise(request, latent)? } else { noise.clone() };
            walk(&mut Masked::new(&mut guided, mask, [latent, &noise], &sigmas)?)?
        }
    };
    let last = sigmas[sigmas.len() - 1];
    Ok(((x / (1.0 - last))?, denoised))
}

/// Noise for what a mask protects, for the samplers that draw their own.
fn other_noise(request: &Request<'_>, latent: &Tensor) -> Result<Tensor> {
    Ok(Noise::new(request.seed.wrapping_add(1)).draw(latent.dims(), latent.device())?)
}
