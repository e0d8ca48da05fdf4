//! Pictures made larger or smaller.

use std::sync::Arc;

use super::{MAX_RESOLUTION, Services};
use crate::graph::{AnyNode, Card, Node, Result, Run, Same, choice, float, int, socket};
use crate::image::{Crop, Filter, Image};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &ImageScale,
    &ImageScaleBy,
    &ImageScaleToTotalPixels,
    &ImageScaleToMaxDimension,
    &FluxKontextImageScale,
    &ResizeAndPadImage,
];

choices! {
    pub(super) enum UpscaleMethod {
        NearestExact = "nearest-exact",
        Bilinear = "bilinear",
        Area = "area",
        Bicubic = "bicubic",
        Lanczos = "lanczos",
    }
}

impl From<UpscaleMethod> for Filter {
    fn from(method: UpscaleMethod) -> Self {
        match method {
            UpscaleMethod::NearestExact => Self::NearestExact,
            UpscaleMethod::Bilinear => Self::Bilinear,
            UpscaleMethod::Area => Self::Area,
            UpscaleMethod::Bicubic => Self::Bicubic,
            UpscaleMethod::Lanczos => Self::Lanczos,
        }
    }
}

choices! {
    pub(super) enum CropMethod {
        Disabled = "disabled",
        Center = "center",
    }
}

impl From<CropMethod> for Crop {
    fn from(method: CropMethod) -> Self {
        match method {
            CropMethod::Disabled => Self::Disabled,
            CropMethod::Center => Self::Center,
        }
    }
}

/// Half to even, as Python rounds.
pub(super) fn round(side: f64) -> usize {
    side.round_ties_even() as usize
}

struct ImageScale;

inputs! {
    struct ImageScaleIn {
        image: Arc<Image> = socket(),
        upscale_method: UpscaleMethod = choice(),
        width: usize = int(512).range(0, MAX_RESOLUTION).step(1),
        height: usize = int(512).range(0, MAX_RESOLUTION).step(1),
        crop: CropMethod = choice(),
    }
}

impl Node<Services> for ImageScale {
    const CARD: Card = Card::new("ImageScale", "Upscale Image", "image/upscaling");
    type In = ImageScaleIn;
    type Out = (Same<Image>,);

    fn run(&self, input: ImageScaleIn, _run: &mut Run<'_, Services>) -> Result<(Same<Image>,)> {
        let (width, height) = (input.image.width(), input.image.height());
        let proportional =
            |side: usize, other: usize, from: usize| round((side * from) as f64 / other as f64).max(1);
        let size = match (input.width, input.height) {
            (0, 0) => return Ok((Same(input.image),)),
            (0, wanted) => (proportional(width, height, wanted), wanted),
            (wanted, 0) => (wanted, proportional(height, width, wanted)),
            size => size,
        };
        let scaled = input.image.resized(size, input.upscale_method.into(), input.crop.into())?;
        Ok((Same(Arc::new(scaled)),))
    }
}

struct ImageScaleBy;

inputs! {
    struct ImageScaleByIn {
        image: Arc<Image> = socket(),
        upscale_method: UpscaleMethod = choice(),
        scale_by: f64 = float(1.0).range(0.01, 8.0).step(0.01),
    }
}

impl Node<Services> for ImageScaleBy {
    const CARD: Card = Card::new("ImageScaleBy", "Upscale Image By", "image/upscaling");
    type In = ImageScaleByIn;
    type Out = (Image,);

    fn run(&self, input: ImageScaleByIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let side = |side: usize| round(side as f64 * input.scale_by);
        let size = (side(input.image.width()), side(input.image.height()));
        Ok((input.image.resized(size, input.upscale_method.into(), Crop::Disabled)?,))
    }
}

struct ImageScaleToTotalPixels;

inputs! {
    struct ImageScaleToTotalPixelsIn {
        image: Arc<Image> = socket(),
        upscale_method: UpscaleMethod = choice().with("multiselect", false),
        megapixels: f64 = float(1.0).range(0.01, 16.0).step(0.01),
    }
}

impl Node<Services> for ImageScaleToTotalPixels {
    const CARD: Card = Card::new("ImageScaleToTotalPixels", "", "image/upscaling")
        .module("comfy_extras.nodes_post_processing")
        .schema();
    type In = ImageScaleToTotalPixelsIn;
    type Out = (Image,);

    fn run(&self, input: ImageScaleToTotalPixelsIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let (width, height) = input.image.size();
        let scale = (input.megapixels * 1024.0 * 1024.0 / (width * height) as f64).sqrt();
        let size = (round(width as f64 * scale), round(height as f64 * scale));
        Ok((input.image.resized(size, input.upscale_method.into(), Crop::Disabled)?,))
    }
}

struct ImageScaleToMaxDimension;

inputs! {
    struct ImageScaleToMaxDimensionIn {
        image: Arc<Image> = socket(),
        upscale_method: LongestSideMethod = choice(),
        largest_size: usize = int(512).range(0, MAX_RESOLUTION).step(1),
    }
}

/// ComfyUI's list for this node, which names `bilinear` twice.
#[derive(Clone, Copy)]
struct LongestSideMethod(UpscaleMethod);

impl crate::graph::Choice for LongestSideMethod {
    fn words() -> Vec<&'static str> {
        vec!["area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic"]
    }
    fn from_word(word: &str) -> Option<Self> {
        UpscaleMethod::from_word(word).map(Self)
    }
}
crate::choice_input!(LongestSideMethod);

impl Node<Services> for ImageScaleToMaxDimension {
    const CARD: Card = Card::new("ImageScaleToMaxDimension", "ImageScaleToMaxDimension", "image/upscaling")
        .module("comfy_extras.nodes_images");
    type In = ImageScaleToMaxDimensionIn;
    type Out = (Image,);

    fn run(&self, input: ImageScaleToMaxDimensionIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let (width, height) = input.image.size();
        let longest = input.largest_size;
        let side = |side: usize, other: usize| round(side as f64 / other as f64 * longest as f64);
        let size =
            if height > width { (side(width, height), longest) } else { (longest, side(height, width)) };
        Ok((input.image.resized(size, input.upscale_method.0.into(), Crop::Disabled)?,))
    }
}

/// The sizes FLUX.1 Kontext was trained on, (width, height).
const KONTEXT_SIZES: [(usize, usize); 17] = [
    (672, 1568),
    (688, 1504),
    (720, 1456),
    (752, 1392),
    (800, 1328),
    (832, 1248),
    (880, 1184),
    (944, 1104),
    (1024, 1024),
    (1104, 944),
    (1184, 880),
    (1248, 832),
    (1328, 800),
    (1392, 752),
    (1456, 720),
    (1504, 688),
    (1568, 672),
];

struct FluxKontextImageScale;

inputs! {
    struct FluxKontextImageScaleIn {
        image: Arc<Image> = socket(),
    }
}

impl Node<Services> for FluxKontextImageScale {
    const CARD: Card = Card::new("FluxKontextImageScale", "", "advanced/conditioning/flux")
        .about("Scales the picture to the size nearest in aspect that FLUX.1 Kontext was trained on.")
        .module("comfy_extras.nodes_flux")
        .schema();
    type In = FluxKontextImageScaleIn;
    type Out = (Image,);

    fn run(&self, input: FluxKontextImageScaleIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let aspect = |(width, height): (usize, usize)| width as f64 / height as f64;
        let away = |size: &(usize, usize)| (aspect(input.image.size()) - aspect(*size)).abs();
        let nearest = KONTEXT_SIZES.into_iter().min_by(|a, b| away(a).total_cmp(&away(b)));
        let size = nearest.unwrap_or((1024, 1024));
        Ok((input.image.resized(size, Filter::Lanczos, Crop::Center)?,))
    }
}

choices! {
    enum PaddingColor {
        White = "white",
        Black = "black",
    }
}

choices! {
    enum Interpolation {
        Area = "area",
        Bicubic = "bicubic",
        NearestExact = "nearest-exact",
        Bilinear = "bilinear",
        Lanczos = "lanczos",
    }
}

struct ResizeAndPadImage;

inputs! {
    struct ResizeAndPadImageIn {
        image: Arc<Image> = socket(),
        target_width: usize = int(512).range(1, MAX_RESOLUTION).step(1),
        target_height: usize = int(512).range(1, MAX_RESOLUTION).step(1),
        padding_color: PaddingColor = choice(),
        interpolation: Interpolation = choice(),
    }
}

impl Node<Services> for ResizeAndPadImage {
    const CARD: Card = Card::new("ResizeAndPadImage", "ResizeAndPadImage", "image/transform")
        .module("comfy_extras.nodes_images");
    type In = ResizeAndPadImageIn;
    type Out = (Image,);

    fn run(&self, input: ResizeAndPadImageIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let filter = match input.interpolation {
            Interpolation::Area => Filter::Area,
            Interpolation::Bicubic => Filter::Bicubic,
            Interpolation::NearestExact => Filter::NearestExact,
            Interpolation::Bilinear => Filter::Bilinear,
            Interpolation::Lanczos => Filter::Lanczos,
        };
        let padding = if input.padding_color == PaddingColor::White { 1.0 } else { 0.0 };
        let (width, height) = input.image.size();
        let target = (input.target_width, input.target_height);
        let scale = (target.0 as f64 / width as f64).min(target.1 as f64 / height as f64);
        // Cut off and not rounded, as ComfyUI does.
        let inner = ((width as f64 * scale) as usize, (height as f64 * scale) as usize);
        let scaled = input.image.resized(inner, filter, Crop::Disabled)?;
        let batch = [scaled.batch(), target.1, target.0];
        let mut padded = Image::filled(batch, &vec![padding; scaled.channels()])?;
        padded.paste(&scaled, ((target.0 - inner.0) / 2, (target.1 - inner.1) / 2));
        Ok((padded,))
    }
}
