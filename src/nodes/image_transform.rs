//! Pictures cut, turned, mirrored, padded and put side by side.

use std::sync::Arc;

use super::{MAX_RESOLUTION, Services};
use crate::graph::{AnyNode, Card, Node, Result, Run, Same, boolean, choice, int, socket};
use crate::image::{Crop, Filter, Image, Mask};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] =
    &[&ImageCrop, &ImageFlip, &ImageRotate, &ImagePadForOutpaint, &ImageStitch];

struct ImageCrop;

inputs! {
    struct ImageCropIn {
        image: Arc<Image> = socket(),
        width: usize = int(512).range(1, MAX_RESOLUTION).step(1),
        height: usize = int(512).range(1, MAX_RESOLUTION).step(1),
        x: usize = int(0).range(0, MAX_RESOLUTION).step(1),
        y: usize = int(0).range(0, MAX_RESOLUTION).step(1),
    }
}

impl Node<Services> for ImageCrop {
    const CARD: Card =
        Card::new("ImageCrop", "Image Crop", "image/transform").module("comfy_extras.nodes_images");
    type In = ImageCropIn;
    type Out = (Image,);

    fn run(&self, input: ImageCropIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let (width, height) = input.image.size();
        let (x, y) = (input.x.min(width - 1), input.y.min(height - 1));
        let size = (input.width.min(width - x), input.height.min(height - y));
        Ok((input.image.rectangle((x, y), size),))
    }
}

choices! {
    enum FlipMethod {
        Vertically = "x-axis: vertically",
        Horizontally = "y-axis: horizontally",
    }
}

struct ImageFlip;

inputs! {
    struct ImageFlipIn {
        image: Arc<Image> = socket(),
        flip_method: FlipMethod = choice(),
    }
}

impl Node<Services> for ImageFlip {
    const CARD: Card =
        Card::new("ImageFlip", "ImageFlip", "image/transform").module("comfy_extras.nodes_images");
    type In = ImageFlipIn;
    type Out = (Image,);

    fn run(&self, input: ImageFlipIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let (width, height) = input.image.size();
        let flipped = input.image.rearranged((width, height), |x, y| match input.flip_method {
            FlipMethod::Vertically => (x, height - 1 - y),
            FlipMethod::Horizontally => (width - 1 - x, y),
        })?;
        Ok((flipped,))
    }
}

choices! {
    /// Clockwise.
    enum Rotation {
        None = "none",
        Quarter = "90 degrees",
        Half = "180 degrees",
        ThreeQuarters = "270 degrees",
    }
}

struct ImageRotate;

inputs! {
    struct ImageRotateIn {
        image: Arc<Image> = socket(),
        rotation: Rotation = choice(),
    }
}

impl Node<Services> for ImageRotate {
    const CARD: Card =
        Card::new("ImageRotate", "ImageRotate", "image/transform").module("comfy_extras.nodes_images");
    type In = ImageRotateIn;
    type Out = (Image,);

    fn run(&self, input: ImageRotateIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let (width, height) = input.image.size();
        let image = &input.image;
        let turned = match input.rotation {
            Rotation::None => Image::clone(image),
            Rotation::Quarter => image.rearranged((height, width), |x, y| (y, height - 1 - x))?,
            Rotation::Half => image.rearranged((width, height), |x, y| (width - 1 - x, height - 1 - y))?,
            Rotation::ThreeQuarters => image.rearranged((height, width), |x, y| (width - 1 - y, x))?,
        };
        Ok((turned,))
    }
}

struct ImagePadForOutpaint;

inputs! {
    struct ImagePadForOutpaintIn {
        image: Arc<Image> = socket(),
        left: usize = int(0).range(0, MAX_RESOLUTION).step(8),
        top: usize = int(0).range(0, MAX_RESOLUTION).step(8),
        right: usize = int(0).range(0, MAX_RESOLUTION).step(8),
        bottom: usize = int(0).range(0, MAX_RESOLUTION).step(8),
        feathering: usize = int(40).range(0, MAX_RESOLUTION).step(1),
    }
}

impl Node<Services> for ImagePadForOutpaint {
    const CARD: Card = Card::new("ImagePadForOutpaint", "Pad Image for Outpainting", "image");
    type In = ImagePadForOutpaintIn;
    type Out = (Image, Mask);

    fn run(&self, input: ImagePadForOutpaintIn, _run: &mut Run<'_, Services>) -> Result<(Image, Mask)> {
        let (width, height) = input.image.size();
        let size = (input.left + width + input.right, input.top + height + input.bottom);
        let gray = vec![0.5; input.image.channels()];
        let mut padded = Image::filled([input.image.batch(), size.1, size.0], &gray)?;
        padded.paste(&input.image, (input.left, input.top));
        let mut mask = Mask::filled([1, size.1, size.0], 1.0)?;
        for y in 0..height {
            let start = (input.top + y) * size.0 + input.left;
            for (x, value) in mask.data_mut()[start..start + width].iter_mut().enumerate() {
                *value = feather(&input, (width, height), (x, y));
            }
        }
        Ok((padded, mask))
    }
}

/// The mask at a pixel of the original picture: it falls off with the square of the distance to the
/// nearest padded edge. Feathering wider than half the picture is ignored.
fn feather(padding: &ImagePadForOutpaintIn, (width, height): (usize, usize), (x, y): (usize, usize)) -> f32 {
    let reach = padding.feathering;
    if 2 * reach >= width || 2 * reach >= height {
        return 0.0;
    }
    let distance =
        [(padding.top, y), (padding.bottom, height - y), (padding.left, x), (padding.right, width - x)];
    let distance = distance.into_iter().filter(|(padded, _)| *padded > 0).map(|(_, distance)| distance).min();
    match distance {
        Some(distance) if distance < reach => {
            let share = (reach - distance) as f64 / reach as f64;
            (share * share) as f32
        }
        _ => 0.0,
    }
}

choices! {
    enum Direction {
        Right = "right",
        Down = "down",
        Left = "left",
        Up = "up",
    }
}

choices! {
    enum SpacingColor {
        White = "white",
        Black = "black",
        Red = "red",
        Green = "green",
        Blue = "blue",
    }
}

impl SpacingColor {
    fn rgb(self) -> [f32; 3] {
        match self {
            Self::White => [1.0; 3],
            Self::Black => [0.0; 3],
            Self::Red => [1.0, 0.0, 0.0],
            Self::Green => [0.0, 1.0, 0.0],
            Self::Blue => [0.0, 0.0, 1.0],
        }
    }
}

struct ImageStitch;

inputs! {
    struct ImageStitchIn {
        image1: Arc<Image> = socket(),
        direction: Direction = choice().default("right"),
        match_image_size: bool = boolean(true),
        spacing_width: usize = int(0).range(0, 1024).step(2),
        spacing_color: SpacingColor = choice().default("white"),
        image2: Option<Arc<Image>> = socket(),
    }
}

impl Node<Services> for ImageStitch {
    const CARD: Card = Card::new("ImageStitch", "Image Stitch", "image/transform")
        .about("Puts the second picture beside the first, with an optional gap. Without a second picture the first passes unchanged.")
        .module("comfy_extras.nodes_images");
    type In = ImageStitchIn;
    type Out = (Same<Image>,);

    fn run(&self, input: ImageStitchIn, _run: &mut Run<'_, Services>) -> Result<(Same<Image>,)> {
        let Some(second) = &input.image2 else { return Ok((Same(input.image1),)) };
        let sideways = matches!(input.direction, Direction::Left | Direction::Right);
        let channels = input.image1.channels().max(second.channels());
        let batch = input.image1.batch().max(second.batch());
        let mut first = input.image1.repeating_last(batch)?;
        let mut second = second.repeating_last(batch)?;
        if input.match_image_size {
            second =
                second.resized(matched_size(&first, &second, sideways), Filter::Lanczos, Crop::Disabled)?;
        }
        let rest = if input.spacing_color == SpacingColor::White { 1.0 } else { 0.0 };
        let across = |image: &Image| if sideways { image.height() } else { image.width() };
        let breadth = across(&first).max(across(&second));
        for image in [&mut first, &mut second] {
            *image = padded(image, sideways, breadth, rest)?.with_channels(channels);
        }
        // An odd gap becomes the next even one.
        let gap = input.spacing_width + input.spacing_width % 2;
        let stitched = match input.direction {
            Direction::Right | Direction::Down => {
                stitch([&first, &second], sideways, gap, input.spacing_color)?
            }
            Direction::Left | Direction::Up => stitch([&second, &first], sideways, gap, input.spacing_color)?,
        };
        Ok((Same(Arc::new(stitched)),))
    }
}

/// The second picture's size once its touching side is as long as the first's.
fn matched_size(first: &Image, second: &Image, sideways: bool) -> (usize, usize) {
    let aspect = second.width() as f64 / second.height() as f64;
    if sideways {
        ((first.height() as f64 * aspect) as usize, first.height())
    } else {
        (first.width(), (first.width() as f64 / aspect) as usize)
    }
}

/// A picture in the middle of one that is `breadth` across the direction. Whatever its channels, even that of
/// opacity, what is left over is `rest`: white if the gap is, black if not, as in ComfyUI.
fn padded(image: &Image, sideways: bool, breadth: usize, rest: f32) -> Result<Image> {
    let (width, height) = if sideways { (image.width(), breadth) } else { (breadth, image.height()) };
    let mut wide = Image::filled([image.batch(), height, width], &vec![rest; image.channels()])?;
    wide.paste(image, ((width - image.width()) / 2, (height - image.height()) / 2));
    Ok(wide)
}

/// One picture after the other; both are as long across the direction.
fn stitch([first, second]: [&Image; 2], sideways: bool, gap: usize, color: SpacingColor) -> Result<Image> {
    let mut gap_color = color.rgb().to_vec();
    gap_color.resize(first.channels(), 1.0);
    let (width, height) = first.size();
    let (gap_size, size) = if sideways {
        ([height, gap], [height, width + gap + second.width()])
    } else {
        ([gap, width], [height + gap + second.height(), width])
    };
    let of_batch = |[height, width]: [usize; 2]| [first.batch(), height, width];
    let mut stitched = Image::filled(of_batch(size), &vec![0.0; first.channels()])?;
    let spacing = Image::filled(of_batch(gap_size), &gap_color)?;
    let place = |start: usize| if sideways { (start, 0) } else { (0, start) };
    let length = if sideways { width } else { height };
    stitched.paste(first, place(0));
    stitched.paste(&spacing, place(length));
    stitched.paste(second, place(length + gap));
    Ok(stitched)
}
