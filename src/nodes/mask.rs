//! Masks: made, taken from pictures, shown as pictures, changed and combined.

use std::sync::Arc;

use rayon::prelude::*;

use super::{MAX_RESOLUTION, Services};
use crate::graph::{AnyNode, Card, Node, NodeError, Result, Run, boolean, choice, float, int, socket};
use crate::image::{Image, Mask};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &MaskToImage,
    &ImageToMask,
    &ImageColorToMask,
    &SolidMask,
    &InvertMask,
    &CropMask,
    &MaskComposite,
    &FeatherMask,
    &GrowMask,
    &ThresholdMask,
];

/// A card of this family.
const fn card(class: &'static str, title: &'static str) -> Card {
    Card::new(class, title, "mask").module("comfy_extras.nodes_mask")
}

struct MaskToImage;

inputs! {
    struct MaskToImageIn {
        mask: Arc<Mask> = socket(),
    }
}

impl Node<Services> for MaskToImage {
    const CARD: Card = card("MaskToImage", "Convert Mask to Image");
    type In = MaskToImageIn;
    type Out = (Image,);

    fn run(&self, input: MaskToImageIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        Ok((input.mask.to_image(),))
    }
}

choices! {
    enum ImageChannel {
        Red = "red",
        Green = "green",
        Blue = "blue",
        Alpha = "alpha",
    }
}

struct ImageToMask;

inputs! {
    struct ImageToMaskIn {
        image: Arc<Image> = socket(),
        channel: ImageChannel = choice(),
    }
}

impl Node<Services> for ImageToMask {
    const CARD: Card = card("ImageToMask", "Convert Image to Mask");
    type In = ImageToMaskIn;
    type Out = (Mask,);

    fn run(&self, input: ImageToMaskIn, _run: &mut Run<'_, Services>) -> Result<(Mask,)> {
        let mask = input.image.channel(input.channel as usize);
        Ok((mask.ok_or_else(|| {
            let found = input.image.channels();
            NodeError::Refused(format!(
                "the picture has {found} channels and no {:?}; choose another channel",
                input.channel
            ))
        })?,))
    }
}

struct ImageColorToMask;

inputs! {
    struct ImageColorToMaskIn {
        image: Arc<Image> = socket(),
        color: i64 = int(0).range(0, 0xFF_FF_FF).step(1).with("display", "color"),
    }
}

impl Node<Services> for ImageColorToMask {
    const CARD: Card = card("ImageColorToMask", "ImageColorToMask");
    type In = ImageColorToMaskIn;
    type Out = (Mask,);

    fn run(&self, input: ImageColorToMaskIn, _run: &mut Run<'_, Services>) -> Result<(Mask,)> {
        let [batch, height, width, channels] = input.image.shape();
        let byte = |value: &f32| (value.clamp(0.0, 1.0) * 255.0).round_ties_even() as i64;
        let color = |pixel: &[f32]| pixel.iter().take(3).fold(0, |color, value| (color << 8) + byte(value));
        let pixels = input.image.data().par_chunks(channels);
        let values = pixels.map(|pixel| if color(pixel) == input.color { 1.0 } else { 0.0 }).collect();
        Ok((Mask::new([batch, height, width], values),))
    }
}

struct SolidMask;

inputs! {
    struct SolidMaskIn {
        value: f64 = float(1.0).range(0.0, 1.0).step(0.01),
        width: usize = int(512).range(1, MAX_RESOLUTION).step(1),
        height: usize = int(512).range(1, MAX_RESOLUTION).step(1),
    }
}

impl Node<Services> for SolidMask {
    const CARD: Card = card("SolidMask", "SolidMask");
    type In = SolidMaskIn;
    type Out = (Mask,);

    fn run(&self, input: SolidMaskIn, _run: &mut Run<'_, Services>) -> Result<(Mask,)> {
        Ok((Mask::filled([1, input.height, input.width], input.value as f32)?,))
    }
}

struct InvertMask;

inputs! {
    struct InvertMaskIn {
        mask: Arc<Mask> = socket(),
    }
}

impl Node<Services> for InvertMask {
    const CARD: Card = card("InvertMask", "InvertMask");
    type In = InvertMaskIn;
    type Out = (Mask,);

    fn run(&self, input: InvertMaskIn, _run: &mut Run<'_, Services>) -> Result<(Mask,)> {
        Ok((input.mask.map(|value| 1.0 - value),))
    }
}

struct CropMask;

inputs! {
    struct CropMaskIn {
        mask: Arc<Mask> = socket(),
        x: usize = int(0).range(0, MAX_RESOLUTION).step(1),
        y: usize = int(0).range(0, MAX_RESOLUTION).step(1),
        width: usize = int(512).range(1, MAX_RESOLUTION).step(1),
        height: usize = int(512).range(1, MAX_RESOLUTION).step(1),
    }
}

impl Node<Services> for CropMask {
    const CARD: Card = card("CropMask", "CropMask");
    type In = CropMaskIn;
    type Out = (Mask,);

    fn run(&self, input: CropMaskIn, _run: &mut Run<'_, Services>) -> Result<(Mask,)> {
        let (width, height) = input.mask.size();
        if input.x >= width || input.y >= height {
            return Err(NodeError::Refused(format!(
                "nothing is left of a {width}x{height} mask cut at ({}, {})",
                input.x, input.y
            )));
        }
        let size = (input.width.min(width - input.x), input.height.min(height - input.y));
        Ok((input.mask.rectangle((input.x, input.y), size),))
    }
}

choices! {
    enum Operation {
        Multiply = "multiply",
        Add = "add",
        Subtract = "subtract",
        And = "and",
        Or = "or",
        Xor = "xor",
    }
}

impl Operation {
    fn combine(self, below: f32, above: f32) -> f32 {
        let set = |value: f32| value.round_ties_even() != 0.0;
        let bit = |set: bool| if set { 1.0 } else { 0.0 };
        match self {
            Self::Multiply => below * above,
            Self::Add => below + above,
            Self::Subtract => below - above,
            Self::And => bit(set(below) && set(above)),
            Self::Or => bit(set(below) || set(above)),
            Self::Xor => bit(set(below) != set(above)),
        }
    }
}

struct MaskComposite;

inputs! {
    struct MaskCompositeIn {
        destination: Arc<Mask> = socket(),
        source: Arc<Mask> = socket(),
        x: usize = int(0).range(0, MAX_RESOLUTION).step(1),
        y: usize = int(0).range(0, MAX_RESOLUTION).step(1),
        operation: Operation = choice(),
    }
}

impl Node<Services> for MaskComposite {
    const CARD: Card = card("MaskComposite", "MaskComposite");
    type In = MaskCompositeIn;
    type Out = (Mask,);

    fn run(&self, input: MaskCompositeIn, _run: &mut Run<'_, Services>) -> Result<(Mask,)> {
        let batch = input.destination.batch().max(input.source.batch());
        let mut combined = input.destination.repeated_to(batch)?;
        let source = input.source.repeated_to(batch)?;
        let (width, height) = combined.size();
        let (x, y) = (input.x.min(width), input.y.min(height));
        let visible = (source.width().min(width - x), source.height().min(height - y));
        for frame in 0..batch {
            for row in 0..visible.1 {
                let from = (frame * source.height() + row) * source.width();
                let to = (frame * height + y + row) * width + x;
                let above = &source.data()[from..from + visible.0];
                for (below, above) in combined.data_mut()[to..to + visible.0].iter_mut().zip(above) {
                    *below = input.operation.combine(*below, *above);
                }
            }
        }
        Ok((combined.map(|value| value.clamp(0.0, 1.0)),))
    }
}

struct FeatherMask;

inputs! {
    struct FeatherMaskIn {
        mask: Arc<Mask> = socket(),
        left: usize = int(0).range(0, MAX_RESOLUTION).step(1),
        top: usize = int(0).range(0, MAX_RESOLUTION).step(1),
        right: usize = int(0).range(0, MAX_RESOLUTION).step(1),
        bottom: usize = int(0).range(0, MAX_RESOLUTION).step(1),
    }
}

impl Node<Services> for FeatherMask {
    const CARD: Card = card("FeatherMask", "FeatherMask");
    type In = FeatherMaskIn;
    type Out = (Mask,);

    fn run(&self, input: FeatherMaskIn, _run: &mut Run<'_, Services>) -> Result<(Mask,)> {
        let mut mask = Mask::clone(&input.mask);
        let (width, height) = mask.size();
        let ramp = |distance: usize, reach: usize| match reach {
            reach if distance < reach => (distance + 1) as f32 / reach as f32,
            _ => 1.0,
        };
        // ComfyUI counts from the far sides with negative places, of which the first is 0: the near side.
        let (left, right) = (input.left.min(width), input.right.min(width));
        let (top, bottom) = (input.top.min(height), input.bottom.min(height));
        for (index, value) in mask.data_mut().iter_mut().enumerate() {
            let (x, y) = (index % width, index / width % height);
            *value *= ramp(x, left) * ramp((width - x) % width, right);
            *value *= ramp(y, top) * ramp((height - y) % height, bottom);
        }
        Ok((mask,))
    }
}

struct GrowMask;

inputs! {
    struct GrowMaskIn {
        mask: Arc<Mask> = socket(),
        expand: i64 = int(0).range(-i64::from(MAX_RESOLUTION), MAX_RESOLUTION).step(1),
        tapered_corners: bool = boolean(true),
    }
}

impl Node<Services> for GrowMask {
    const CARD: Card = card("GrowMask", "GrowMask");
    type In = GrowMaskIn;
    type Out = (Mask,);

    fn run(&self, input: GrowMaskIn, run: &mut Run<'_, Services>) -> Result<(Mask,)> {
        let pick: fn(f32, f32) -> f32 = if input.expand < 0 { f32::min } else { f32::max };
        let mut mask = Mask::clone(&input.mask);
        for _ in 0..input.expand.unsigned_abs() {
            run.checkpoint()?;
            let next = spread(&mask, !input.tapered_corners, pick);
            // Once nothing moves, nothing ever will.
            if next == mask {
                break;
            }
            mask = next;
        }
        Ok((mask,))
    }
}

/// Every value becomes the pick of itself and its neighbours, diagonal ones only if `corners`.
fn spread(mask: &Mask, corners: bool, pick: fn(f32, f32) -> f32) -> Mask {
    let (width, height) = mask.size();
    let from = mask.data();
    let value = |index: usize| {
        let (x, y) = (index % width, index / width % height);
        // Above, on and below the value's own row, as far as there are rows.
        let rows = (0..3).filter(|row| (1..=height).contains(&(y + row)));
        rows.fold(from[index], |picked, row| {
            let row_at = index + row * width - width;
            let beside = row == 1 || corners;
            let left = if beside && x > 0 { from[row_at - 1] } else { from[row_at] };
            let right = if beside && x + 1 < width { from[row_at + 1] } else { from[row_at] };
            pick(pick(picked, from[row_at]), pick(left, right))
        })
    };
    Mask::new(mask.shape(), (0..from.len()).into_par_iter().map(value).collect())
}

struct ThresholdMask;

inputs! {
    struct ThresholdMaskIn {
        mask: Arc<Mask> = socket(),
        value: f64 = float(0.5).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for ThresholdMask {
    const CARD: Card = card("ThresholdMask", "ThresholdMask");
    type In = ThresholdMaskIn;
    type Out = (Mask,);

    fn run(&self, input: ThresholdMaskIn, _run: &mut Run<'_, Services>) -> Result<(Mask,)> {
        let threshold = input.value as f32;
        Ok((input.mask.map(|value| if value > threshold { 1.0 } else { 0.0 }),))
    }
}
