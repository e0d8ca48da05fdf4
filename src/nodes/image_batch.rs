//! Batches of pictures: making, joining, splitting, measuring.

use std::sync::Arc;

use super::{MAX_RESOLUTION, Services};
use crate::graph::{
    AnyNode, Args, Card, Growth, InputSpec, Inputs, ListOf, Node, NodeError, Result, Run, int, numbered,
    socket,
};
use crate::image::{Crop, Filter, Image};
use crate::inputs;

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &EmptyImage,
    &ImageBatch,
    &BatchImagesNode,
    &RepeatImageBatch,
    &ImageFromBatch,
    &RebatchImages,
    &GetImageSize,
];

struct EmptyImage;

inputs! {
    struct EmptyImageIn {
        width: usize = int(512).range(1, MAX_RESOLUTION).step(1),
        height: usize = int(512).range(1, MAX_RESOLUTION).step(1),
        batch_size: usize = int(1).range(1, 4096),
        color: u32 = int(0).range(0, 0xFF_FF_FF).step(1).with("display", "color"),
    }
}

impl Node<Services> for EmptyImage {
    const CARD: Card = Card::new("EmptyImage", "EmptyImage", "image");
    type In = EmptyImageIn;
    type Out = (Image,);

    fn run(&self, input: EmptyImageIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let [_, red, green, blue] = input.color.to_be_bytes();
        let color = [red, green, blue].map(|value| f32::from(value) / 255.0);
        Ok((Image::filled([input.batch_size, input.height, input.width], &color)?,))
    }
}

struct ImageBatch;

inputs! {
    struct ImageBatchIn {
        image1: Arc<Image> = socket(),
        image2: Arc<Image> = socket(),
    }
}

impl Node<Services> for ImageBatch {
    const CARD: Card = Card::new("ImageBatch", "Batch Images", "image");
    type In = ImageBatchIn;
    type Out = (Image,);

    fn run(&self, input: ImageBatchIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        Ok((joined(&[input.image1, input.image2])?,))
    }
}

/// All pictures of some batches, in the size of the first.
fn joined(images: &[Arc<Image>]) -> Result<Image> {
    let channels = images.iter().map(|image| image.channels()).max().unwrap_or(3);
    let size = images.first().map_or((0, 0), |image| image.size());
    let fitted = |image: &Arc<Image>| {
        let image = image.with_channels(channels);
        if image.size() == size { Ok(image) } else { image.resized(size, Filter::Bilinear, Crop::Center) }
    };
    let fitted = images.iter().map(fitted).collect::<Result<Vec<_>, _>>()?;
    Ok(Image::concatenated(&fitted.iter().collect::<Vec<_>>())?)
}

const IMAGES: Growth = Growth {
    group: "images",
    item: "image",
    numbered: true,
    // Two until version 0.24 or so.
    least: 1,
    names: numbered!(
        "images.image"
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24
        25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49
    ),
};

struct BatchImagesNodeIn {
    images: Vec<Arc<Image>>,
}

impl Inputs for BatchImagesNodeIn {
    fn specs() -> Vec<InputSpec> {
        IMAGES.specs::<Arc<Image>>().collect()
    }

    fn read(args: &Args) -> Result<Self> {
        Ok(Self { images: IMAGES.read(args)?.into_iter().map(|(_, image)| image).collect() })
    }
}

struct BatchImagesNode;

impl Node<Services> for BatchImagesNode {
    const CARD: Card = Card::new("BatchImagesNode", "Batch Images", "image")
        .about("Makes one batch of several pictures, in the size of the first.")
        .module("comfy_extras.nodes_post_processing")
        .schema();
    type In = BatchImagesNodeIn;
    type Out = (Image,);

    fn run(&self, input: BatchImagesNodeIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        Ok((joined(&input.images)?,))
    }
}

struct RepeatImageBatch;

inputs! {
    struct RepeatImageBatchIn {
        image: Arc<Image> = socket(),
        amount: usize = int(1).range(1, 4096),
    }
}

impl Node<Services> for RepeatImageBatch {
    const CARD: Card =
        Card::new("RepeatImageBatch", "RepeatImageBatch", "image/batch").module("comfy_extras.nodes_images");
    type In = RepeatImageBatchIn;
    type Out = (Image,);

    fn run(&self, input: RepeatImageBatchIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        Ok((input.image.repeated_to(input.image.batch() * input.amount)?,))
    }
}

struct ImageFromBatch;

inputs! {
    struct ImageFromBatchIn {
        image: Arc<Image> = socket(),
        batch_index: usize = int(0).range(0, 4095),
        length: usize = int(1).range(1, 4096),
    }
}

impl Node<Services> for ImageFromBatch {
    const CARD: Card =
        Card::new("ImageFromBatch", "ImageFromBatch", "image/batch").module("comfy_extras.nodes_images");
    type In = ImageFromBatchIn;
    type Out = (Image,);

    fn run(&self, input: ImageFromBatchIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let batch = input.image.batch();
        let first = input.batch_index.min(batch.saturating_sub(1));
        Ok((input.image.batch_range(first, input.length.min(batch - first)),))
    }
}

struct RebatchImages;

inputs! {
    struct RebatchImagesIn {
        images: Vec<Arc<Image>> = socket(),
        batch_size: Vec<usize> = int(1).range(1, 4096),
    }
}

impl Node<Services> for RebatchImages {
    const CARD: Card = Card::new("RebatchImages", "Rebatch Images", "image/batch")
        .module("comfy_extras.nodes_rebatch")
        .schema();
    const TAKES_LISTS: bool = true;
    type In = RebatchImagesIn;
    type Out = (ListOf<Image>,);

    fn run(&self, input: RebatchImagesIn, _run: &mut Run<'_, Services>) -> Result<(ListOf<Image>,)> {
        let size = input.batch_size.first().copied().unwrap_or(1).max(1);
        let single: Vec<Image> = input
            .images
            .iter()
            .flat_map(|image| (0..image.batch()).map(|index| image.batch_range(index, 1)))
            .collect();
        let batches = single.chunks(size).map(|batch| Image::concatenated(&batch.iter().collect::<Vec<_>>()));
        Ok((ListOf(batches.collect::<Result<_, _>>().map_err(NodeError::from)?),))
    }
}

struct GetImageSize;

inputs! {
    struct GetImageSizeIn {
        image: Arc<Image> = socket(),
    }
}

impl Node<Services> for GetImageSize {
    const CARD: Card = Card::new("GetImageSize", "Get Image Size", "image")
        .about("Tells width, height and number of pictures; the picture itself is not changed.")
        .module("comfy_extras.nodes_images")
        .outputs(&["width", "height", "batch_size"])
        .hidden(&[("unique_id", "UNIQUE_ID")]);
    type In = GetImageSizeIn;
    type Out = (i64, i64, i64);

    fn run(&self, input: GetImageSizeIn, run: &mut Run<'_, Services>) -> Result<(i64, i64, i64)> {
        let [batch, height, width, _] = input.image.shape();
        run.text(format!("width: {width}, height: {height}\n batch size: {batch}"));
        Ok((width as i64, height as i64, batch as i64))
    }
}
