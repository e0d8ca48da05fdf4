//! One node that resizes pictures and masks in every way. It came after ComfyUI 0.3.64.

use std::sync::Arc;

use super::image_scale::{CropMethod, UpscaleMethod, round};
use super::{MAX_RESOLUTION, Services};
use crate::graph::{
    AnyNode, AnyValue, Anything, Arg, Card, Input, Kind, Node, NodeError, Result, Run, Value, choice, float,
    int, socket,
};
use crate::image::{Crop, Filter, Image, Mask};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&ResizeImageMaskNode];

choices! {
    enum ResizeType {
        Dimensions = "scale dimensions",
        Multiplier = "scale by multiplier",
        Longer = "scale longer dimension",
        Shorter = "scale shorter dimension",
        Width = "scale width",
        Height = "scale height",
        TotalPixels = "scale total pixels",
        Match = "match size",
        Multiple = "scale to multiple",
    }
}

/// Pictures or masks.
#[derive(Clone)]
enum Either {
    Image(Arc<Image>),
    Mask(Arc<Mask>),
}

impl Input for Either {
    fn kind() -> Kind {
        Kind::Link("IMAGE,MASK")
    }
    fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self> {
        let Anything(arg) = Anything::read(name, arg)?;
        let wrong = NodeError::WrongType { name, expected: "IMAGE,MASK" };
        let Arg::Value(value) = arg else { return Err(wrong) };
        let image = value.get::<Image>().map(Self::Image);
        image.or_else(|| value.get::<Mask>().map(Self::Mask)).ok_or(wrong)
    }
}

impl Either {
    /// (width, height)
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Image(image) => image.size(),
            Self::Mask(mask) => mask.size(),
        }
    }

    fn resized(&self, size: (usize, usize), filter: Filter, crop: Crop) -> Result<Self> {
        Ok(match self {
            Self::Image(image) => Self::Image(Arc::new(image.resized(size, filter, crop)?)),
            Self::Mask(mask) => Self::Mask(Arc::new(mask.resized(size, filter, crop)?)),
        })
    }

    fn rectangle(&self, corner: (usize, usize), size: (usize, usize)) -> Self {
        match self {
            Self::Image(image) => Self::Image(Arc::new(image.rectangle(corner, size))),
            Self::Mask(mask) => Self::Mask(Arc::new(mask.rectangle(corner, size))),
        }
    }

    fn value(self) -> Value {
        match self {
            Self::Image(image) => Value::shared(image),
            Self::Mask(mask) => Value::shared(mask),
        }
    }
}

struct ResizeImageMaskNode;

inputs! {
    struct ResizeImageMaskIn {
        input: Either = socket(),
        resize_type: ResizeType = choice(),
        width as "resize_type.width": Option<usize> =
            int(512).range(0, MAX_RESOLUTION).step(1).shown_by(&["scale dimensions", "scale width"]),
        height as "resize_type.height": Option<usize> =
            int(512).range(0, MAX_RESOLUTION).step(1).shown_by(&["scale dimensions", "scale height"]),
        multiplier as "resize_type.multiplier": Option<f64> =
            float(1.0).range(0.01, 8.0).step(0.01).shown_by(&["scale by multiplier"]),
        longer_size as "resize_type.longer_size": Option<usize> =
            int(512).range(0, MAX_RESOLUTION).step(1).shown_by(&["scale longer dimension"]),
        shorter_size as "resize_type.shorter_size": Option<usize> =
            int(512).range(0, MAX_RESOLUTION).step(1).shown_by(&["scale shorter dimension"]),
        megapixels as "resize_type.megapixels": Option<f64> =
            float(1.0).range(0.01, 16.0).step(0.01).shown_by(&["scale total pixels"]),
        multiple as "resize_type.multiple": Option<usize> =
            int(8).range(1, MAX_RESOLUTION).step(1).shown_by(&["scale total pixels", "scale to multiple"]),
        r#match as "resize_type.match": Option<Either> = socket().shown_by(&["match size"]),
        crop as "resize_type.crop": Option<CropMethod> =
            choice().default("center").shown_by(&["scale dimensions", "match size"]),
        scale_method: UpscaleMethod = choice().default("area").with("multiselect", false),
    }
}

impl Node<Services> for ResizeImageMaskNode {
    const CARD: Card = Card::new("ResizeImageMaskNode", "Resize Image/Mask", "image/transform")
        .about("Resizes pictures or masks to a size, by a factor, to another one's size, or to a multiple.")
        .module("comfy_extras.nodes_post_processing")
        .outputs(&["resized"])
        .schema();
    type In = ResizeImageMaskIn;
    type Out = (AnyValue,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let filter = input.scale_method.into();
        let resized = match (input.resize_type, input.multiple) {
            (ResizeType::Multiple, Some(multiple)) => to_multiple(&input.input, multiple, filter)?,
            _ => match target(&input)? {
                Some(size) => {
                    let crop = match input.resize_type {
                        ResizeType::Dimensions | ResizeType::Match => {
                            input.crop.map_or(Crop::Center, Into::into)
                        }
                        _ => Crop::Disabled,
                    };
                    input.input.resized(size, filter, crop)?
                }
                None => input.input,
            },
        };
        Ok((AnyValue(resized.value()),))
    }
}

/// The size asked for; `None` leaves everything as it is.
fn target(input: &ResizeImageMaskIn) -> Result<Option<(usize, usize)>> {
    let (width, height) = input.input.size();
    let missing = |name| NodeError::Missing { name };
    // As ComfyUI computes a side from the other one.
    let by_ratio =
        |side: usize, other: usize, wanted: usize| round(side as f64 / other.max(1) as f64 * wanted as f64);
    let exact = |wanted: (usize, usize)| match wanted {
        (0, 0) => None,
        (0, wanted) => Some((round((width * wanted) as f64 / height as f64).max(1), wanted)),
        (wanted, 0) => Some((wanted, round((height * wanted) as f64 / width as f64).max(1))),
        both => Some(both),
    };
    Ok(match input.resize_type {
        ResizeType::Dimensions => {
            let wanted = input.width.ok_or_else(|| missing("resize_type.width"))?;
            exact((wanted, input.height.ok_or_else(|| missing("resize_type.height"))?))
        }
        ResizeType::Width => exact((input.width.ok_or_else(|| missing("resize_type.width"))?, 0)),
        ResizeType::Height => exact((0, input.height.ok_or_else(|| missing("resize_type.height"))?)),
        ResizeType::Multiplier => {
            let factor = input.multiplier.ok_or_else(|| missing("resize_type.multiplier"))?;
            Some((round(width as f64 * factor), round(height as f64 * factor)))
        }
        ResizeType::Longer | ResizeType::Shorter => {
            let (longer, name) = match input.resize_type {
                ResizeType::Longer => (true, "resize_type.longer_size"),
                _ => (false, "resize_type.shorter_size"),
            };
            let wanted = if longer { input.longer_size } else { input.shorter_size };
            let wanted = wanted.ok_or_else(|| missing(name))?;
            let width_leads = if longer { width >= height } else { width <= height };
            Some(if width_leads {
                (wanted, by_ratio(height, width, wanted))
            } else {
                (by_ratio(width, height, wanted), wanted)
            })
        }
        ResizeType::TotalPixels => {
            let megapixels = input.megapixels.ok_or_else(|| missing("resize_type.megapixels"))?;
            let multiple = input.multiple.unwrap_or(1).max(1);
            let scale = ((megapixels * 1024.0 * 1024.0).trunc() / (width * height) as f64).sqrt();
            let side = |side: usize| round(side as f64 * scale / multiple as f64).max(1) * multiple;
            Some((side(width), side(height)))
        }
        ResizeType::Match => Some(input.r#match.as_ref().ok_or_else(|| missing("resize_type.match"))?.size()),
        ResizeType::Multiple => return Err(missing("resize_type.multiple")),
    })
}

/// Scaled to cover the next smaller size whose sides are multiples, and cut to it from the middle.
fn to_multiple(input: &Either, multiple: usize, filter: Filter) -> Result<Either> {
    let (width, height) = input.size();
    let (to_width, to_height) = (width / multiple * multiple, height / multiple * multiple);
    if multiple <= 1 || to_width == 0 || to_height == 0 || (to_width, to_height) == (width, height) {
        return Ok(input.clone());
    }
    let (by_width, by_height) = (to_width as f64 / width as f64, to_height as f64 / height as f64);
    let covering = if by_width >= by_height {
        (to_width, ((height as f64 * by_width).ceil() as usize).max(to_height))
    } else {
        (((width as f64 * by_height).ceil() as usize).max(to_width), to_height)
    };
    let scaled = input.resized(covering, filter, Crop::Disabled)?;
    let corner = ((covering.0 - to_width) / 2, (covering.1 - to_height) / 2);
    Ok(scaled.rectangle(corner, (to_width, to_height)))
}
