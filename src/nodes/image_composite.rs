//! One picture over another, and the transparency that takes.

use std::sync::Arc;

use super::{MAX_RESOLUTION, Services};
use crate::graph::{AnyNode, Card, Node, NodeError, Result, Run, boolean, choice, int, socket};
use crate::image::{Crop, Filter, Image, Mask};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] =
    &[&ImageCompositeMasked, &JoinImageWithAlpha, &SplitImageWithAlpha, &PorterDuffImageComposite];

struct ImageCompositeMasked;

inputs! {
    struct ImageCompositeMaskedIn {
        destination: Arc<Image> = socket(),
        source: Arc<Image> = socket(),
        x: usize = int(0).range(0, MAX_RESOLUTION).step(1),
        y: usize = int(0).range(0, MAX_RESOLUTION).step(1),
        resize_source: bool = boolean(false),
        mask: Option<Arc<Mask>> = socket(),
    }
}

impl Node<Services> for ImageCompositeMasked {
    const CARD: Card =
        Card::new("ImageCompositeMasked", "ImageCompositeMasked", "image").module("comfy_extras.nodes_mask");
    type In = ImageCompositeMaskedIn;
    type Out = (Image,);

    fn run(&self, input: ImageCompositeMaskedIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let mut destination = Image::clone(&input.destination);
        let mut source = input.source.with_channels(destination.channels());
        if input.resize_source {
            source = source.resized(destination.size(), Filter::Bilinear, Crop::Disabled)?;
        }
        let source = source.repeated_to(destination.batch())?;
        let mask = match &input.mask {
            Some(mask) => {
                mask.resized(source.size(), Filter::Bilinear, Crop::Disabled)?.repeated_to(source.batch())?
            }
            None => Mask::filled([source.batch(), source.height(), source.width()], 1.0)?,
        };
        // What lies beyond the destination is cut off.
        let (width, height) = destination.size();
        let corner = (input.x.min(width), input.y.min(height));
        let visible = (source.width().min(width - corner.0), source.height().min(height - corner.1));
        let source = source.rectangle((0, 0), visible);
        let mask = mask.rectangle((0, 0), visible);
        let mut mixed = destination.rectangle(corner, visible);
        let channels = mixed.channels();
        let pixels = mixed.data_mut().chunks_mut(channels).zip(source.data().chunks(channels));
        for ((below, above), share) in pixels.zip(mask.data()) {
            for (below, above) in below.iter_mut().zip(above) {
                *below = share * above + (1.0 - share) * *below;
            }
        }
        destination.paste(&mixed, corner);
        Ok((destination,))
    }
}

struct JoinImageWithAlpha;

inputs! {
    struct JoinImageWithAlphaIn {
        image: Arc<Image> = socket(),
        alpha: Arc<Mask> = socket(),
    }
}

impl Node<Services> for JoinImageWithAlpha {
    const CARD: Card = Card::new("JoinImageWithAlpha", "Join Image with Alpha", "mask/compositing")
        .module("comfy_extras.nodes_compositing")
        .schema();
    type In = JoinImageWithAlphaIn;
    type Out = (Image,);

    fn run(&self, input: JoinImageWithAlphaIn, _run: &mut Run<'_, Services>) -> Result<(Image,)> {
        let batch = input.image.batch().min(input.alpha.batch());
        let mask = input.alpha.resized(input.image.size(), Filter::Bilinear, Crop::Disabled)?;
        let mut image = input.image.batch_range(0, batch).with_channels(3).with_channels(4);
        let alphas = image.data_mut().iter_mut().skip(3).step_by(4);
        alphas.zip(mask.data()).for_each(|(alpha, masked)| *alpha = 1.0 - masked);
        Ok((image,))
    }
}

struct SplitImageWithAlpha;

inputs! {
    struct SplitImageWithAlphaIn {
        image: Arc<Image> = socket(),
    }
}

impl Node<Services> for SplitImageWithAlpha {
    const CARD: Card = Card::new("SplitImageWithAlpha", "Split Image with Alpha", "mask/compositing")
        .module("comfy_extras.nodes_compositing")
        .schema();
    type In = SplitImageWithAlphaIn;
    type Out = (Image, Mask);

    fn run(&self, input: SplitImageWithAlphaIn, _run: &mut Run<'_, Services>) -> Result<(Image, Mask)> {
        let [batch, height, width, _] = input.image.shape();
        let mask = match input.image.channel(3) {
            Some(alpha) => alpha.map(|alpha| 1.0 - alpha),
            None => Mask::filled([batch, height, width], 0.0)?,
        };
        Ok((input.image.with_channels(3), mask))
    }
}

choices! {
    #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "the names of the operators")]
    enum PorterDuff {
        ADD = "ADD",
        CLEAR = "CLEAR",
        DARKEN = "DARKEN",
        DST = "DST",
        DST_ATOP = "DST_ATOP",
        DST_IN = "DST_IN",
        DST_OUT = "DST_OUT",
        DST_OVER = "DST_OVER",
        LIGHTEN = "LIGHTEN",
        MULTIPLY = "MULTIPLY",
        OVERLAY = "OVERLAY",
        SCREEN = "SCREEN",
        SRC = "SRC",
        SRC_ATOP = "SRC_ATOP",
        SRC_IN = "SRC_IN",
        SRC_OUT = "SRC_OUT",
        SRC_OVER = "SRC_OVER",
        XOR = "XOR",
    }
}

impl PorterDuff {
    /// The opacity of the result, from those of source and destination.
    fn alpha(self, src: f32, dst: f32) -> f32 {
        match self {
            Self::ADD => (src + dst).clamp(0.0, 1.0),
            Self::CLEAR => 0.0,
            Self::DARKEN | Self::LIGHTEN | Self::OVERLAY | Self::SCREEN => src + dst - src * dst,
            Self::DST | Self::SRC_ATOP => dst,
            Self::SRC | Self::DST_ATOP => src,
            Self::DST_IN | Self::SRC_IN | Self::MULTIPLY => src * dst,
            Self::DST_OUT => (1.0 - src) * dst,
            Self::SRC_OUT => (1.0 - dst) * src,
            Self::DST_OVER => dst + (1.0 - dst) * src,
            Self::SRC_OVER => src + (1.0 - src) * dst,
            Self::XOR => (1.0 - dst) * src + (1.0 - src) * dst,
        }
    }

    /// A colour of the result, premultiplied like both colours given.
    fn color(self, src: f32, src_alpha: f32, dst: f32, dst_alpha: f32) -> f32 {
        let src_outside = (1.0 - dst_alpha) * src;
        let dst_outside = (1.0 - src_alpha) * dst;
        match self {
            Self::ADD => (src + dst).clamp(0.0, 1.0),
            Self::CLEAR => 0.0,
            Self::DARKEN => src_outside + dst_outside + src.min(dst),
            Self::LIGHTEN => src_outside + dst_outside + src.max(dst),
            Self::DST => dst,
            Self::DST_ATOP => src_alpha * dst + src_outside,
            Self::DST_IN => dst * src_alpha,
            Self::DST_OUT => dst_outside,
            Self::DST_OVER => dst + src_outside,
            Self::MULTIPLY => src * dst,
            Self::OVERLAY if 2.0 * dst < dst_alpha => 2.0 * src * dst,
            Self::OVERLAY => src_alpha * dst_alpha - 2.0 * (dst_alpha - src) * (src_alpha - dst),
            Self::SCREEN => src + dst - src * dst,
            Self::SRC => src,
            Self::SRC_ATOP => dst_alpha * src + dst_outside,
            Self::SRC_IN => src * dst_alpha,
            Self::SRC_OUT => src_outside,
            Self::SRC_OVER => src + dst_outside,
            Self::XOR => src_outside + dst_outside,
        }
    }
}

struct PorterDuffImageComposite;

inputs! {
    struct PorterDuffImageCompositeIn {
        source: Arc<Image> = socket(),
        source_alpha: Arc<Mask> = socket(),
        destination: Arc<Image> = socket(),
        destination_alpha: Arc<Mask> = socket(),
        mode: PorterDuff = choice().with("multiselect", false).default("DST"),
    }
}

impl Node<Services> for PorterDuffImageComposite {
    const CARD: Card =
        Card::new("PorterDuffImageComposite", "Porter-Duff Image Composite", "mask/compositing")
            .module("comfy_extras.nodes_compositing")
            .schema();
    type In = PorterDuffImageCompositeIn;
    type Out = (Image, Mask);

    fn run(&self, input: PorterDuffImageCompositeIn, _run: &mut Run<'_, Services>) -> Result<(Image, Mask)> {
        let sources = input.source.batch().min(input.source_alpha.batch());
        let batch = sources.min(input.destination.batch()).min(input.destination_alpha.batch());
        let mut result = input.destination.batch_range(0, batch);
        let channels = result.channels();
        if input.source.channels() != channels {
            return Err(NodeError::Refused(format!(
                "source and destination need as many channels; found {} and {channels}",
                input.source.channels()
            )));
        }
        // Everything takes the size of the destination.
        let size = result.size();
        let source = input.source.batch_range(0, batch).resized(size, Filter::Bicubic, Crop::Center)?;
        let source_mask = input.source_alpha.resized(size, Filter::Bicubic, Crop::Center)?;
        let mask = input.destination_alpha.resized(size, Filter::Bicubic, Crop::Center)?;
        let mut mask = mask.repeated_to(batch)?;
        let pixels = result.data_mut().chunks_mut(channels).zip(source.data().chunks(channels));
        let masks = mask.data_mut().iter_mut().zip(source_mask.data());
        for ((to, from), (to_mask, from_mask)) in pixels.zip(masks) {
            let (src_alpha, dst_alpha) = (1.0 - from_mask, 1.0 - *to_mask);
            let alpha = input.mode.alpha(src_alpha, dst_alpha);
            for (to, from) in to.iter_mut().zip(from) {
                let color = input.mode.color(from * src_alpha, src_alpha, *to * dst_alpha, dst_alpha);
                *to = if alpha > 1e-5 { (color / alpha).clamp(0.0, 1.0) } else { 0.0 };
            }
            *to_mask = 1.0 - alpha;
        }
        Ok((result, mask))
    }
}
