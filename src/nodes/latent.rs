//! Latents: empty ones, batches of them, and the way to pixels and back.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::values::{Latent, Vae};
use super::{MAX_RESOLUTION, Services};
use crate::graph::{AnyNode, Card, Node, Result, Run, int, socket};
use crate::image::Image;
use crate::inputs;
use crate::model::vae::Tiling;

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &EmptyLatentImage,
    &EmptySD3LatentImage,
    &EmptyHunyuanLatentVideo,
    &VAEDecode,
    &VAEDecodeTiled,
    &VAEEncode,
    &VAEEncodeTiled,
    &RepeatLatentBatch,
    &LatentFromBatch,
];

/// Pictures that a video VAE folds into one latent frame.
const FRAMES_PER_CELL: usize = 4;

/// A zero latent with one cell per 8x8 pixels; partial cells are dropped.
fn empty(batch: usize, channels: usize, height: usize, width: usize) -> Result<Latent> {
    Ok(Latent::new(Tensor::zeros((batch, channels, height / 8, width / 8), DType::F32, &Device::Cpu)?))
}

struct EmptyLatentImage;

inputs! {
    struct EmptyLatentImageIn {
        width: usize = int(512).range(16, MAX_RESOLUTION).step(8).tooltip("Width of the picture in pixels."),
        height: usize = int(512).range(16, MAX_RESOLUTION).step(8).tooltip("Height of the picture in pixels."),
        batch_size: usize = int(1).range(1, 4096).tooltip("How many pictures to make at once."),
    }
}

impl Node<Services> for EmptyLatentImage {
    const CARD: Card = Card::new("EmptyLatentImage", "Empty Latent Image", "latent")
        .about("An empty latent of four channels, to be filled by a sampler.");
    type In = EmptyLatentImageIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((empty(input.batch_size, 4, input.height, input.width)?,))
    }
}

struct EmptySD3LatentImage;

inputs! {
    struct EmptySD3LatentImageIn {
        width: usize = int(1024).range(16, MAX_RESOLUTION).step(16),
        height: usize = int(1024).range(16, MAX_RESOLUTION).step(16),
        batch_size: usize = int(1).range(1, 4096),
    }
}

impl Node<Services> for EmptySD3LatentImage {
    const CARD: Card =
        Card::new("EmptySD3LatentImage", "", "latent/sd3").module("comfy_extras.nodes_sd3").schema();
    type In = EmptySD3LatentImageIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((empty(input.batch_size, 16, input.height, input.width)?,))
    }
}

struct EmptyHunyuanLatentVideo;

inputs! {
    struct EmptyHunyuanLatentVideoIn {
        width: usize = int(848).range(16, MAX_RESOLUTION).step(16),
        height: usize = int(480).range(16, MAX_RESOLUTION).step(16),
        length: usize = int(25).range(1, MAX_RESOLUTION).step(4),
        batch_size: usize = int(1).range(1, 4096),
    }
}

impl Node<Services> for EmptyHunyuanLatentVideo {
    const CARD: Card = Card::new("EmptyHunyuanLatentVideo", "EmptyHunyuanLatentVideo", "latent/video")
        .module("comfy_extras.nodes_hunyuan");
    type In = EmptyHunyuanLatentVideoIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let frames = (input.length - 1) / FRAMES_PER_CELL + 1;
        let shape = (input.batch_size, 16, frames, input.height / 8, input.width / 8);
        Ok((Latent::new(Tensor::zeros(shape, DType::F32, &Device::Cpu)?),))
    }
}

struct VAEDecode;

inputs! {
    struct VAEDecodeIn {
        samples: Arc<Latent> = socket().tooltip("The latent to decode."),
        vae: Arc<Vae> = socket().tooltip("The VAE to decode with."),
    }
}

impl Node<Services> for VAEDecode {
    const CARD: Card = Card::new("VAEDecode", "VAE Decode", "latent").about("Turns a latent into pixels.");
    type In = VAEDecodeIn;
    type Out = (Image,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.vae.decode(&input.samples, None, run.stop())?,))
    }
}

struct VAEDecodeTiled;

inputs! {
    struct VAEDecodeTiledIn {
        samples: Arc<Latent> = socket(),
        vae: Arc<Vae> = socket(),
        tile_size: usize = int(512).range(64, 4096).step(32),
        overlap: usize = int(64).range(0, 4096).step(32),
        temporal_size: usize = int(64).range(8, 4096).step(4)
            .tooltip("Only for video VAEs: frames decoded at a time."),
        temporal_overlap: usize = int(8).range(4, 4096).step(4)
            .tooltip("Only for video VAEs: frames two tiles share."),
    }
}

impl Node<Services> for VAEDecodeTiled {
    const CARD: Card = Card::new("VAEDecodeTiled", "VAE Decode (Tiled)", "_for_testing");
    type In = VAEDecodeTiledIn;
    type Out = (Image,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let overlap = if input.tile_size < input.overlap * 4 { input.tile_size / 4 } else { input.overlap };
        let short = input.temporal_size < input.temporal_overlap * 2;
        let temporal_overlap = if short { input.temporal_overlap / 2 } else { input.temporal_overlap };
        let frames = (input.temporal_size / FRAMES_PER_CELL).max(2);
        let frames_overlap = (temporal_overlap / FRAMES_PER_CELL).min(frames / 2).max(1);
        let scale = input.vae.0.latent().scale;
        let (side, overlap) = (input.tile_size / scale, overlap / scale);
        let tiling = Tiling { tile: [frames, side, side], overlap: [frames_overlap, overlap, overlap] };
        Ok((input.vae.decode(&input.samples, Some(&tiling), run.stop())?,))
    }
}

struct VAEEncode;

inputs! {
    struct VAEEncodeIn {
        pixels: Arc<Image> = socket(),
        vae: Arc<Vae> = socket(),
    }
}

impl Node<Services> for VAEEncode {
    const CARD: Card = Card::new("VAEEncode", "VAE Encode", "latent");
    type In = VAEEncodeIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Latent::new(input.vae.encode(&input.pixels, None, run.stop())?),))
    }
}

struct VAEEncodeTiled;

inputs! {
    struct VAEEncodeTiledIn {
        pixels: Arc<Image> = socket(),
        vae: Arc<Vae> = socket(),
        tile_size: usize = int(512).range(64, 4096).step(64),
        overlap: usize = int(64).range(0, 4096).step(32),
        temporal_size: usize = int(64).range(8, 4096).step(4)
            .tooltip("Only for video VAEs: frames encoded at a time."),
        temporal_overlap: usize = int(8).range(4, 4096).step(4)
            .tooltip("Only for video VAEs: frames two tiles share."),
    }
}

impl Node<Services> for VAEEncodeTiled {
    const CARD: Card = Card::new("VAEEncodeTiled", "VAE Encode (Tiled)", "_for_testing");
    type In = VAEEncodeTiledIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let tiling = Tiling {
            tile: [input.temporal_size, input.tile_size, input.tile_size],
            overlap: [input.temporal_overlap, input.overlap, input.overlap],
        };
        Ok((Latent::new(input.vae.encode(&input.pixels, Some(&tiling), run.stop())?),))
    }
}

struct RepeatLatentBatch;

inputs! {
    struct RepeatLatentBatchIn {
        samples: Arc<Latent> = socket(),
        amount: usize = int(1).range(1, 64),
    }
}

impl Node<Services> for RepeatLatentBatch {
    const CARD: Card = Card::new("RepeatLatentBatch", "Repeat Latent Batch", "latent/batch");
    type In = RepeatLatentBatchIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.samples.repeat(input.amount)?,))
    }
}

struct LatentFromBatch;

inputs! {
    struct LatentFromBatchIn {
        samples: Arc<Latent> = socket(),
        batch_index: usize = int(0).range(0, 63),
        length: usize = int(1).range(1, 64),
    }
}

impl Node<Services> for LatentFromBatch {
    const CARD: Card = Card::new("LatentFromBatch", "Latent From Batch", "latent/batch");
    type In = LatentFromBatchIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.samples.slice(input.batch_index, input.length)?,))
    }
}
