//! Saving with a choice of format, and two pictures side by side. These nodes came after ComfyUI 0.3.64.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::Services;
use super::image::{save, save_with, temporary_prefix};
use crate::graph::{
    AnyNode, Card, Node, NodeError, PROMPT_AND_PNGINFO, Result, Run, Same, WithUi, choice, socket, text,
};
use crate::image::{Image, PREVIEW_LEVEL, SAVE_LEVEL};
use crate::paths::Kind;
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&SaveImageAdvanced, &ImageCompare];

choices! {
    enum Format { Png = "png", Exr = "exr", Avif = "avif" }
}
choices! {
    enum BitDepth { Eight = "8-bit", Sixteen = "16-bit" }
}
choices! {
    enum ColorSpace { Srgb = "sRGB" }
}

struct SaveImageAdvanced;

inputs! {
    #[expect(dead_code, reason = "PNG knows one colour space")]
    struct SaveImageAdvancedIn {
        images: Arc<Image> = socket(),
        filename_prefix: String = text().default("ComfyUI"),
        format: Format = choice(),
        bit_depth as "format.bit_depth": Option<BitDepth> =
            choice().default("8-bit").with("advanced", true).shown_by(&["png"]),
        color_space as "format.input_color_space": Option<ColorSpace> =
            choice().default("sRGB").with("advanced", true).shown_by(&["png"]),
    }
}

impl Node<Services> for SaveImageAdvanced {
    const CARD: Card = Card::new("SaveImageAdvanced", "Save Image (Advanced)", "image")
        .about("Writes pictures to the output folder as PNG of 8 or 16 bits.")
        .module("comfy_extras.nodes_images")
        .outputs(&["images"])
        .output()
        .hidden(PROMPT_AND_PNGINFO)
        .schema();
    type In = SaveImageAdvancedIn;
    type Out = WithUi<(Same<Image>,)>;

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let sentence = "only PNG can be written yet; choose the format png";
        let Format::Png = input.format else { return Err(NodeError::Refused(sentence.to_owned())) };
        let (images, prefix) = (&input.images, &input.filename_prefix);
        let ui = match input.bit_depth {
            None | Some(BitDepth::Eight) => save(images, Kind::Output, prefix, SAVE_LEVEL, run)?,
            Some(BitDepth::Sixteen) => save_with(images, Kind::Output, prefix, run, |index, texts| {
                images.to_png_16(index, SAVE_LEVEL, texts)
            })?,
        };
        Ok(WithUi { ui, outputs: (Same(input.images),) })
    }
}

struct ImageCompare;

inputs! {
    struct ImageCompareIn {
        image_a: Option<Arc<Image>> = socket(),
        image_b: Option<Arc<Image>> = socket(),
    }
}

impl Node<Services> for ImageCompare {
    const CARD: Card = Card::new("ImageCompare", "Image Compare", "image")
        .about("Shows two pictures side by side, with a slider between them.")
        .module("comfy_extras.nodes_image_compare")
        .output()
        .experimental()
        .hidden(PROMPT_AND_PNGINFO)
        .schema();
    type In = ImageCompareIn;
    type Out = WithUi<()>;

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let prefix = temporary_prefix(run);
        let mut ui = Map::new();
        for (key, image) in [("a_images", input.image_a), ("b_images", input.image_b)] {
            let shown = match image {
                Some(image) => save(&image, Kind::Temp, &prefix, PREVIEW_LEVEL, run)?
                    .swap_remove("images")
                    .unwrap_or_default(),
                None => Json::Array(Vec::new()),
            };
            ui.insert(key.to_owned(), shown);
        }
        Ok(WithUi { ui, outputs: () })
    }
}
