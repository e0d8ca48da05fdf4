//! Pictures seen through a window: darkest and brightest values around each place; and brightness apart from colour.

use std::sync::Arc;

use rayon::prelude::*;

use super::Services;
use crate::graph::{AnyNode, Card, Node, NodeError, Result, Run, choice, int, socket};
use crate::image::Image;
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&Morphology, &ImageRGBToYUV, &ImageYUVToRGB];

choices! {
    enum MorphologyOperation {
        Erode = "erode",
        Dilate = "dilate",
        Open = "open",
        Close = "close",
        Gradient = "gradient",
        BottomHat = "bottom_hat",
        TopHat = "top_hat",
    }
}

struct Morphology;

inputs! {
    struct MorphologyIn {
        image: Arc<Image> = socket(),
        operation: MorphologyOperation = choice().with("multiselect", false),
        kernel_size: usize = int(3).range(3, 999).step(1),
    }
}

impl Node<Services> for Morphology {
    const CARD: Card = Card::new("Morphology", "ImageMorphology", "image/postprocessing")
        .module("comfy_extras.nodes_morphology")
        .schema();
    type In = MorphologyIn;
    type Out = (Image,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let image = input.image.as_ref();
        // Windows of an even side reach further up and left for the one, and down and right for the other.
        let (far, near) = (input.kernel_size / 2, input.kernel_size - input.kernel_size / 2 - 1);
        let darkest = |image: &Image| windowed(image, [far, near], f32::min);
        let brightest = |image: &Image| windowed(image, [near, far], f32::max);
        Ok((match input.operation {
            MorphologyOperation::Erode => darkest(image),
            MorphologyOperation::Dilate => brightest(image),
            MorphologyOperation::Open => brightest(&darkest(image)),
            MorphologyOperation::Close => darkest(&brightest(image)),
            MorphologyOperation::Gradient => difference(brightest(image), &darkest(image)),
            MorphologyOperation::BottomHat => difference(darkest(&brightest(image)), image),
            MorphologyOperation::TopHat => difference(image.clone(), &brightest(&darkest(image))),
        },))
    }
}

fn difference(mut image: Image, other: &Image) -> Image {
    image.data_mut().iter_mut().zip(other.data()).for_each(|(value, other)| *value -= other);
    image
}

/// The one of a square window around each place that `choose` prefers, of each channel. The window reaches so many places
/// up and left, and down and right; beyond the border there is nothing.
fn windowed(image: &Image, reach: [usize; 2], choose: fn(f32, f32) -> f32) -> Image {
    let [_, _, width, channels] = image.shape();
    let (row, frame) = (width * channels, image.height() * width * channels);
    let mut out = image.clone();
    if frame > 0 {
        for (part, step) in [(row, channels), (frame, row)] {
            out.data_mut()
                .par_chunks_mut(part)
                .for_each(|part| part.copy_from_slice(&slid(part, step, reach, choose)));
        }
    }
    out
}

/// For each of `values`, what `choose` prefers of so many before and after it, `step` values from one to the next.
fn slid(values: &[f32], step: usize, [before, after]: [usize; 2], choose: fn(f32, f32) -> f32) -> Vec<f32> {
    let mut out = values.to_vec();
    let take = |to: &mut [f32], from: &[f32]| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = choose(*to, *from));
    };
    for distance in (1..=before).map(|places| (places * step).min(values.len())) {
        take(&mut out[distance..], values);
    }
    for distance in (1..=after).map(|places| (places * step).min(values.len())) {
        take(&mut out, &values[distance..]);
    }
    out
}

/// Brightness, and how far blue and red are from it, as in JPEG files; like ComfyUI's, with three digits.
fn yuv([r, g, b]: [f32; 3]) -> [f32; 3] {
    let y = 0.299 * r + 0.587 * g + 0.114 * b;
    [y, (b - y) * 0.564 + 0.5, (r - y) * 0.713 + 0.5]
}

fn rgb([y, u, v]: [f32; 3]) -> [f32; 3] {
    let (u, v) = (u - 0.5, v - 0.5);
    [y + 1.403 * v, y - 0.714 * v - 0.344 * u, y + 1.773 * u]
}

struct ImageRGBToYUV;

inputs! {
    struct ImageRGBToYUVIn {
        image: Arc<Image> = socket(),
    }
}

impl Node<Services> for ImageRGBToYUV {
    const CARD: Card = Card::new("ImageRGBToYUV", "", "image/batch")
        .module("comfy_extras.nodes_morphology")
        .outputs(&["Y", "U", "V"])
        .schema();
    type In = ImageRGBToYUVIn;
    type Out = (Image, Image, Image);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        if input.image.channels() != 3 {
            let channels = input.image.channels();
            return Err(NodeError::Refused(format!(
                "a picture of three channels is needed, this has {channels}"
            )));
        }
        let part = |index: usize| {
            let mut image = input.image.as_ref().clone();
            for pixel in image.data_mut().as_chunks_mut::<3>().0 {
                *pixel = [yuv(*pixel)[index]; 3];
            }
            image
        };
        Ok((part(0), part(1), part(2)))
    }
}

struct ImageYUVToRGB;

inputs! {
    struct ImageYUVToRGBIn {
        y as "Y": Arc<Image> = socket(),
        u as "U": Arc<Image> = socket(),
        v as "V": Arc<Image> = socket(),
    }
}

impl Node<Services> for ImageYUVToRGB {
    const CARD: Card =
        Card::new("ImageYUVToRGB", "", "image/batch").module("comfy_extras.nodes_morphology").schema();
    type In = ImageYUVToRGBIn;
    type Out = (Image,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let parts = [input.y, input.u, input.v];
        let [batch, height, width, _] = parts[0].shape();
        if parts.iter().any(|part| part.shape()[..3] != [batch, height, width]) {
            return Err(NodeError::Refused("Y, U and V must be of one size and count".to_owned()));
        }
        let mean = |pixel: &[f32]| pixel.iter().sum::<f32>() / pixel.len() as f32;
        let [y, u, v] = parts.each_ref().map(|part| part.data().chunks(part.channels()).map(mean));
        let data = y.zip(u).zip(v).flat_map(|((y, u), v)| rgb([y, u, v])).collect();
        Ok((Image::new([batch, height, width, 3], data),))
    }
}
