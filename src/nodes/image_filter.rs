//! Pictures whose values change where they stand: inverted, blended, blurred, sharpened, made noisy,
//! reduced to few colours or to their edges.

use std::sync::Arc;

use rayon::prelude::*;

use super::Services;
use crate::graph::{AnyNode, Card, Node, Result, Run, choice, float, int, socket};
use crate::image::{Crop, Dither, Filter, Image, canny, quantized};
use crate::sampling::noise::Noise;
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &ImageInvert,
    &ImageBlend,
    &ImageBlur,
    &ImageQuantize,
    &ImageSharpen,
    &ImageAddNoise,
    &Canny,
    &MarigoldV2PostProcess,
];

struct ImageInvert;

inputs! {
    struct ImageInvertIn {
        image: Arc<Image> = socket(),
    }
}

impl Node<Services> for ImageInvert {
    const CARD: Card = Card::new("ImageInvert", "Invert Image", "image");
    type In = ImageInvertIn;
    type Out = (Image,);

    fn run(&self, input: ImageInvertIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        Ok((input.image.map(|value| 1.0 - value),))
    }
}

choices! {
    enum BlendMode {
        Normal = "normal",
        Multiply = "multiply",
        Screen = "screen",
        Overlay = "overlay",
        SoftLight = "soft_light",
        Difference = "difference",
    }
}

impl BlendMode {
    fn mix(self, below: f32, above: f32) -> f32 {
        match self {
            Self::Normal => above,
            Self::Multiply => below * above,
            Self::Screen => 1.0 - (1.0 - below) * (1.0 - above),
            Self::Overlay if below <= 0.5 => 2.0 * below * above,
            Self::Overlay => 1.0 - 2.0 * (1.0 - below) * (1.0 - above),
            Self::SoftLight if above <= 0.5 => below - (1.0 - 2.0 * above) * below * (1.0 - below),
            Self::SoftLight => {
                let lifted =
                    if below <= 0.25 { ((16.0 * below - 12.0) * below + 4.0) * below } else { below.sqrt() };
                below + (2.0 * above - 1.0) * (lifted - below)
            }
            Self::Difference => below - above,
        }
    }
}

struct ImageBlend;

inputs! {
    struct ImageBlendIn {
        image1: Arc<Image> = socket(),
        image2: Arc<Image> = socket(),
        blend_factor: f64 = float(0.5).range(0.0, 1.0).step(0.01),
        blend_mode: BlendMode = choice().with("multiselect", false),
    }
}

impl Node<Services> for ImageBlend {
    const CARD: Card = Card::new("ImageBlend", "", "image/postprocessing")
        .module("comfy_extras.nodes_post_processing")
        .schema();
    type In = ImageBlendIn;
    type Out = (Image,);

    fn run(&self, input: ImageBlendIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let batch = input.image1.batch().max(input.image2.batch());
        let mut blended = input.image1.repeated_to(batch)?;
        let above = input.image2.with_channels(blended.channels());
        let above = above.resized(blended.size(), Filter::Bicubic, Crop::Center)?.repeated_to(batch)?;
        let share = input.blend_factor as f32;
        blended.data_mut().par_iter_mut().zip(above.data()).for_each(|(below, above)| {
            let mixed = input.blend_mode.mix(*below, *above);
            *below = (*below * (1.0 - share) + mixed * share).clamp(0.0, 1.0);
        });
        Ok((blended,))
    }
}

/// Weights of a square of `2 * radius + 1` pixels, row by row; `sigma` counts in radii.
pub(super) fn gaussian(radius: usize, sigma: f64) -> Vec<f32> {
    let side = 2 * radius + 1;
    let place = |index: usize| index as f32 / radius as f32 - 1.0;
    let weight = |index: usize| {
        let (x, y) = (place(index % side), place(index / side));
        (-(x * x + y * y) / (2.0 * sigma * sigma) as f32).exp()
    };
    let weights: Vec<f32> = (0..side * side).map(weight).collect();
    let total: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// Every pixel becomes the weighted sum of its surroundings, mirrored at the edges of the picture. `checkpoint` ends the
/// work between pictures.
pub(super) fn convolve(
    image: &Image,
    radius: usize,
    weights: &[f32],
    checkpoint: &dyn Fn() -> Result<()>,
) -> Result<Image> {
    let [_, height, width, channels] = image.shape();
    let side = 2 * radius + 1;
    // Reflected without repeating the edge, as often as a small picture needs it.
    let mirrored = |at: usize, offset: usize, length: usize| {
        let period = (2 * (length as i64 - 1)).max(1);
        let place = (at as i64 + offset as i64 - radius as i64).rem_euclid(period);
        place.min(period - place).min(length as i64 - 1) as usize
    };
    let mut result = Image::zeros(image.shape())?;
    for (to, from) in result.frames_mut().zip(image.frames()) {
        checkpoint()?;
        to.par_chunks_mut(width * channels).enumerate().for_each(|(y, row)| {
            for (offset, weight) in weights.iter().enumerate() {
                let source = &from[mirrored(y, offset / side, height) * width * channels..];
                for (x, pixel) in row.chunks_exact_mut(channels).enumerate() {
                    let at = mirrored(x, offset % side, width) * channels;
                    pixel.iter_mut().zip(&source[at..]).for_each(|(sum, value)| *sum += weight * value);
                }
            }
        });
    }
    Ok(result)
}

struct ImageBlur;

inputs! {
    struct ImageBlurIn {
        image: Arc<Image> = socket(),
        blur_radius: usize = int(1).range(1, 31).step(1),
        sigma: f64 = float(1.0).range(0.1, 10.0).step(0.1),
    }
}

impl Node<Services> for ImageBlur {
    const CARD: Card = Card::new("ImageBlur", "", "image/postprocessing")
        .module("comfy_extras.nodes_post_processing")
        .schema();
    type In = ImageBlurIn;
    type Out = (Image,);

    fn run(&self, input: ImageBlurIn, run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let weights = gaussian(input.blur_radius, input.sigma);
        Ok((convolve(&input.image, input.blur_radius, &weights, &|| run.checkpoint())?,))
    }
}

choices! {
    enum DitherName {
        None = "none",
        FloydSteinberg = "floyd-steinberg",
        Bayer2 = "bayer-2",
        Bayer4 = "bayer-4",
        Bayer8 = "bayer-8",
        Bayer16 = "bayer-16",
    }
}

struct ImageQuantize;

inputs! {
    struct ImageQuantizeIn {
        image: Arc<Image> = socket(),
        colors: usize = int(256).range(1, 256).step(1),
        dither: DitherName = choice().with("multiselect", false),
    }
}

impl Node<Services> for ImageQuantize {
    const CARD: Card = Card::new("ImageQuantize", "", "image/postprocessing")
        .module("comfy_extras.nodes_post_processing")
        .schema();
    type In = ImageQuantizeIn;
    type Out = (Image,);

    fn run(&self, input: ImageQuantizeIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let dither = match input.dither {
            DitherName::None => Dither::Nearest,
            DitherName::FloydSteinberg => Dither::FloydSteinberg,
            DitherName::Bayer2 => Dither::Bayer(1),
            DitherName::Bayer4 => Dither::Bayer(2),
            DitherName::Bayer8 => Dither::Bayer(3),
            DitherName::Bayer16 => Dither::Bayer(4),
        };
        Ok((quantized(&input.image, input.colors, dither)?,))
    }
}

struct ImageSharpen;

inputs! {
    struct ImageSharpenIn {
        image: Arc<Image> = socket(),
        sharpen_radius: usize = int(1).range(1, 31).step(1),
        sigma: f64 = float(1.0).range(0.1, 10.0).step(0.01),
        alpha: f64 = float(1.0).range(0.0, 5.0).step(0.01),
    }
}

impl Node<Services> for ImageSharpen {
    const CARD: Card = Card::new("ImageSharpen", "", "image/postprocessing")
        .module("comfy_extras.nodes_post_processing")
        .schema();
    type In = ImageSharpenIn;
    type Out = (Image,);

    fn run(&self, input: ImageSharpenIn, run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let strength = -(input.alpha * 10.0) as f32;
        let weights = gaussian(input.sharpen_radius, input.sigma).into_iter();
        let mut weights: Vec<f32> = weights.map(|weight| weight * strength).collect();
        let total: f32 = weights.iter().sum();
        let center = weights.len() / 2;
        weights[center] += 1.0 - total;
        let sharpened = convolve(&input.image, input.sharpen_radius, &weights, &|| run.checkpoint())?;
        Ok((sharpened.map(|value| value.clamp(0.0, 1.0)),))
    }
}

struct ImageAddNoise;

inputs! {
    struct ImageAddNoiseIn {
        image: Arc<Image> = socket(),
        seed: u64 = int(0).seed().tooltip("Another seed draws other noise."),
        strength: f64 = float(0.5).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for ImageAddNoise {
    const CARD: Card =
        Card::new("ImageAddNoise", "ImageAddNoise", "image").module("comfy_extras.nodes_images");
    type In = ImageAddNoiseIn;
    type Out = (Image,);

    fn run(&self, input: ImageAddNoiseIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let mut noisy = Image::zeros(input.image.shape())?;
        Noise::new(input.seed).fill(noisy.data_mut());
        let strength = input.strength as f32;
        noisy.data_mut().par_iter_mut().zip(input.image.data()).for_each(|(noise, value)| {
            *noise = (value + strength * *noise).clamp(0.0, 1.0);
        });
        Ok((noisy,))
    }
}

struct Canny;

inputs! {
    struct CannyIn {
        image: Arc<Image> = socket(),
        low_threshold: f64 = float(0.4).range(0.01, 0.99).step(0.01),
        high_threshold: f64 = float(0.8).range(0.01, 0.99).step(0.01),
    }
}

impl Node<Services> for Canny {
    const CARD: Card =
        Card::new("Canny", "", "image/preprocessors").module("comfy_extras.nodes_canny").schema();
    type In = CannyIn;
    type Out = (Image,);

    fn run(&self, input: CannyIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        Ok((canny(&input.image, input.low_threshold as f32, input.high_threshold as f32).to_image(),))
    }
}

choices! {
    enum Prediction {
        Depth = "depth",
        Normals = "normals",
        Albedo = "albedo",
    }
}

/// Came after ComfyUI 0.3.64.
struct MarigoldV2PostProcess;

inputs! {
    struct MarigoldV2PostProcessIn {
        image: Arc<Image> = socket(),
        prediction: Prediction = choice().with("multiselect", false),
    }
}

impl Node<Services> for MarigoldV2PostProcess {
    const CARD: Card = Card::new(
        "MarigoldV2PostProcess",
        "Marigold V2 Post-Process",
        "image/geometry estimation",
    )
    .about("Shows what Marigold V2 predicts: depth, near being bright, directions of length one, or colours.")
    .module("comfy_extras.nodes_marigold")
    .schema();
    type In = MarigoldV2PostProcessIn;
    type Out = (Image,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        Ok((match input.prediction {
            Prediction::Depth => depth_shown(&input.image)?,
            Prediction::Normals => directions_shown(&input.image),
            Prediction::Albedo => input.image.map(from_linear),
        },))
    }
}

/// Grey pictures of depth that fill the range from black to white, what is near being white.
fn depth_shown(image: &Image) -> Result<Image> {
    let [batch, height, width, channels] = image.shape();
    let mut shown = Image::zeros([batch, height, width, 3])?;
    for (from, to) in image.frames().zip(shown.frames_mut()) {
        let depths = from.chunks(channels).map(|pixel| pixel.iter().sum::<f32>() / channels as f32);
        let depths: Vec<f32> = depths.collect();
        let far = depths.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let near = depths.iter().copied().fold(f32::INFINITY, f32::min);
        for (depth, pixel) in depths.into_iter().zip(to.chunks_mut(3)) {
            pixel.fill((far - depth) / (far - near).max(1e-6));
        }
    }
    Ok(shown)
}

/// Pixels as directions from -1 to 1, made of length one.
fn directions_shown(image: &Image) -> Image {
    let mut shown = image.map(|value| value * 2.0 - 1.0);
    let channels = image.channels();
    for pixel in shown.data_mut().chunks_mut(channels) {
        let length = pixel.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
        for value in pixel {
            *value = (*value / length + 1.0) * 0.5;
        }
    }
    shown
}

/// A colour in linear light as sRGB has it.
fn from_linear(value: f32) -> f32 {
    if value <= 0.003_130_8 { value * 12.92 } else { 1.055 * value.powf(1.0 / 2.4) - 0.055 }
}
