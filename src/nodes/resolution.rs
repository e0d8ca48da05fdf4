//! Sizes from a shape and a number of pixels. This node came after ComfyUI 0.3.64.

use super::Services;
use super::image_scale::round;
use crate::graph::{AnyNode, Card, Node, Result, Run, choice, float, int};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&ResolutionSelector];

choices! {
    enum AspectRatio {
        Square = "1:1 (Square)",
        PhotoPortrait = "2:3 (Portrait Photo)",
        Photo = "3:2 (Photo)",
        StandardPortrait = "3:4 (Portrait Standard)",
        Standard = "4:3 (Standard)",
        WidescreenPortrait = "9:16 (Portrait Widescreen)",
        Widescreen = "16:9 (Widescreen)",
        Ultrawide = "21:9 (Ultrawide)",
    }
}

impl AspectRatio {
    /// Width and height in parts.
    fn parts(self) -> (f64, f64) {
        match self {
            Self::Square => (1.0, 1.0),
            Self::PhotoPortrait => (2.0, 3.0),
            Self::Photo => (3.0, 2.0),
            Self::StandardPortrait => (3.0, 4.0),
            Self::Standard => (4.0, 3.0),
            Self::WidescreenPortrait => (9.0, 16.0),
            Self::Widescreen => (16.0, 9.0),
            Self::Ultrawide => (21.0, 9.0),
        }
    }
}

struct ResolutionSelector;

inputs! {
    struct ResolutionSelectorIn {
        aspect_ratio: AspectRatio = choice().default("1:1 (Square)").with("multiselect", false),
        megapixels: f64 = float(1.0).range(0.1, 16.0).step(0.1),
        multiple: Option<i64> = int(8).range(8, 128).step(4).with("advanced", true),
    }
}

impl Node<Services> for ResolutionSelector {
    const CARD: Card = Card::new("ResolutionSelector", "Resolution Selector", "utilities")
        .about("Width and height of a shape, for about that many pixels. One megapixel is 1024 by 1024.")
        .module("comfy_extras.nodes_resolution")
        .outputs(&["width", "height"])
        .schema();
    type In = ResolutionSelectorIn;
    type Out = (i64, i64);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (width, height) = input.aspect_ratio.parts();
        let multiple = input.multiple.unwrap_or(8).max(1);
        let scale = (input.megapixels * 1024.0 * 1024.0 / (width * height)).sqrt();
        let side = |parts: f64| round(parts * scale / multiple as f64) as i64 * multiple;
        Ok((side(width), side(height)))
    }
}
