//! Qwen-Image 2.1's own nodes. They came after ComfyUI 0.3.64.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Services;
use super::values::{Clip, Conditioning, Latent, Vae};
use crate::graph::{
    AnyNode, Args, Card, Growth, InputSpec, Inputs, Node, NodeError, Result, Run, Same, choice, int, socket,
    text,
};
use crate::image::{Crop, Filter, Image};
use crate::model::latents::QWEN_IMAGE_2_1;
use crate::model::{Precision, Prefix, TextPrompt};
use crate::sampling::Model;
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&QwenImage21Cache, &TextEncodeQwenImage21];

choices! {
    enum CacheDevice { Auto = "auto", Gpu = "gpu", Cpu = "cpu", Off = "off" }
}

choices! {
    enum CacheDtype { Default = "default", Int8 = "int8", Int4 = "int4" }
}

impl From<CacheDtype> for Precision {
    fn from(dtype: CacheDtype) -> Self {
        match dtype {
            CacheDtype::Default => Self::Whole,
            CacheDtype::Int8 => Self::Int8,
            CacheDtype::Int4 => Self::Int4,
        }
    }
}

struct QwenImage21Cache;

inputs! {
    struct QwenImage21CacheIn {
        model: Arc<Model> = socket(),
        device: CacheDevice = choice().with("multiselect", false)
            .tooltip("`off` computes text and references anew in each step. All others keep them in main memory, \
                      since the processor computes this model."),
        dtype: CacheDtype = choice().with("multiselect", false)
            .tooltip("What is kept takes half as much memory in int8 as in bf16, a quarter in int4, and is less exact."),
    }
}

impl Node<Services> for QwenImage21Cache {
    const CARD: Card = Card::new("QwenImage21Cache", "Qwen Image 2.1 Cache", "model/conditioning/qwen image")
        .about("How Qwen-Image 2.1 keeps what it computes of text and references from one step to the next. Other models \
                pass unchanged.")
        .module("comfy_extras.nodes_qwen")
        .experimental()
        .schema();
    type In = QwenImage21CacheIn;
    type Out = (Same<Model>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let prefix = match input.device {
            CacheDevice::Off => Prefix::Recomputed,
            CacheDevice::Auto | CacheDevice::Gpu | CacheDevice::Cpu => Prefix::Kept(input.dtype.into()),
        };
        let changed = input.model.network().keeping(prefix)?;
        Ok((Same(changed.map_or_else(
            || input.model.clone(),
            |network| Arc::new(input.model.as_ref().clone().with_network(network)),
        )),))
    }
}

/// The pictures a prompt may speak of.
const IMAGES: Growth = Growth {
    group: "images",
    item: "image",
    numbered: false,
    least: 0,
    names: &[
        "images.image_1",
        "images.image_2",
        "images.image_3",
        "images.image_4",
        "images.image_5",
        "images.image_6",
        "images.image_7",
        "images.image_8",
        "images.image_9",
        "images.image_10",
        "images.image_11",
        "images.image_12",
        "images.image_13",
        "images.image_14",
        "images.image_15",
        "images.image_16",
    ],
};

/// Sides of pictures are multiples of this: one row of the text encoder stands for so many pixels each way.
const MULTIPLE: f64 = 32.0;
/// The side of a picture when nothing says another.
const USUAL_SIDE: usize = 1024;

struct TextEncodeQwenImage21;

struct TextEncodeQwenImage21In {
    plain: TextEncodeQwenImage21Plain,
    images: Vec<Arc<Image>>,
}

inputs! {
    struct TextEncodeQwenImage21Plain {
        clip: Arc<Clip> = socket(),
        prompt: String = text().prompt(),
        negative_prompt: String = text().prompt(),
        vae: Option<Arc<Vae>> = socket(),
        resolution: usize = int(USUAL_SIDE as i64).range(0, 4096).step(32).tooltip(
            "Pictures are resized to about as many pixels as a square of this side has; with 0 they keep their size, \
             rounded to multiples of 32."
        ),
    }
}

impl Inputs for TextEncodeQwenImage21In {
    fn specs() -> Vec<InputSpec> {
        TextEncodeQwenImage21Plain::specs().into_iter().chain(IMAGES.specs::<Arc<Image>>()).collect()
    }

    fn read(args: &Args) -> Result<Self> {
        Ok(Self {
            plain: TextEncodeQwenImage21Plain::read(args)?,
            images: IMAGES.read(args)?.into_iter().map(|(_, image)| image).collect(),
        })
    }
}

impl Node<Services> for TextEncodeQwenImage21 {
    const CARD: Card = Card::new("TextEncodeQwenImage21", "Text Encode Qwen Image 2.1", "model/conditioning/qwen image")
        .about(
            "Reads a prompt and what to avoid for Qwen-Image 2.1, with the pictures they speak of as <image1>, \
             <image2> and so on. With a VAE the model sees the pictures themselves too. The latent has the size of \
             the first picture.",
        )
        .module("comfy_extras.nodes_qwen")
        .outputs(&["positive", "negative", "latent"])
        .schema();
    type In = TextEncodeQwenImage21In;
    type Out = (Conditioning, Conditioning, Latent);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let TextEncodeQwenImage21In { plain, images } = input;
        let images = images.iter().map(|image| sized(image, plain.resolution)).collect::<Result<Vec<_>>>()?;
        let references = match &plain.vae {
            Some(vae) => {
                images.iter().map(|image| vae.encode(image, None, run.stop())).collect::<Result<_>>()?
            }
            None => Vec::new(),
        };
        let seen = images.iter().map(|image| Ok(on_white(image).to_tensor()?)).collect::<Result<Vec<_>>>()?;
        let read = |text: String| {
            let prompt = TextPrompt { text, images: seen.clone(), template: None };
            let conditioning = Conditioning::encode(&plain.clip, &prompt, run.stop())?;
            Ok::<_, NodeError>(conditioning.map(|entry| entry.references.clone_from(&references)))
        };
        let (positive, negative) = (read(plain.prompt)?, read(plain.negative_prompt)?);
        let side = if plain.resolution == 0 { USUAL_SIDE } else { plain.resolution };
        let (width, height) = images.first().map_or((side, side), Image::size);
        let [h, w] = [height, width].map(|side| side / QWEN_IMAGE_2_1.scale);
        let samples = Tensor::zeros((1, QWEN_IMAGE_2_1.channels, h, w), DType::F32, &Device::Cpu)?;
        Ok((positive, negative, Latent::new(samples)))
    }
}

/// The first picture of a batch, with about `resolution` squared pixels, or as many as it has where that is 0; both sides
/// are multiples of [`MULTIPLE`].
fn sized(image: &Image, resolution: usize) -> Result<Image> {
    let (width, height) = image.size();
    let [wide, high] = match resolution {
        0 => [width as f64, height as f64],
        side => {
            let (pixels, ratio) = ((side * side) as f64, width as f64 / height as f64);
            [pixels * ratio, pixels / ratio].map(f64::sqrt)
        }
    };
    let side = |side: f64| ((side / MULTIPLE).round_ties_even().max(1.0) * MULTIPLE) as usize;
    let first = image.batch_range(0, 1);
    match (side(wide), side(high)) {
        size if size == (width, height) => Ok(first),
        size => first.resized(size, Filter::Lanczos, Crop::Disabled).map_err(NodeError::other),
    }
}

/// Without alpha, as if the picture lay on white paper.
fn on_white(image: &Image) -> Image {
    let Some(alpha) = image.channel(3) else { return image.with_channels(3) };
    let mut opaque = image.with_channels(3);
    for (pixel, alpha) in opaque.data_mut().chunks_exact_mut(3).zip(alpha.data()) {
        for value in pixel {
            *value = *value * alpha + (1.0 - alpha);
        }
    }
    opaque
}
