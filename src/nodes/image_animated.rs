//! Batches of pictures saved as animations.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::Services;
use super::image::text_chunks;
use crate::graph::{
    AnyNode, Card, Node, PROMPT_AND_PNGINFO, Result, Run, WithUi, boolean, choice, float, int, socket, text,
};
use crate::image::{Image, WebpSettings, to_animated_webp, to_apng, write_file};
use crate::paths::Kind;
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&SaveAnimatedWEBP, &SaveAnimatedPNG];

/// A card of this family.
const fn card(class: &'static str) -> Card {
    Card::new(class, class, "image/animation")
        .module("comfy_extras.nodes_images")
        .output()
        .hidden(PROMPT_AND_PNGINFO)
}

/// Writes an animation to the output folder and tells clients where.
fn save(
    image: &Image,
    prefix: &str,
    suffix: &str,
    bytes: &[u8],
    run: &Run<'_, Services>,
) -> Result<Map<String, Json>> {
    let name = run.host.folders.next_output(Kind::Output, prefix, image.width(), image.height())?;
    let file = name.file(&format!("_.{suffix}"));
    write_file(&name.folder.join(&file), bytes)?;
    let saved = json!([{"filename": file, "subfolder": name.subfolder, "type": "output"}]);
    let animated = json!([suffix == "png" || image.batch() != 1]);
    Ok(Map::from_iter([("images".to_owned(), saved), ("animated".to_owned(), animated)]))
}

choices! {
    enum Effort { Default = "default", Fastest = "fastest", Slowest = "slowest" }
}

struct SaveAnimatedWEBP;

inputs! {
    struct SaveAnimatedWEBPIn {
        images: Arc<Image> = socket(),
        filename_prefix: String = text().default("ComfyUI"),
        fps: f64 = float(6.0).range(0.01, 1000.0).step(0.01),
        lossless: bool = boolean(true),
        quality: u32 = int(80).range(0, 100),
        method: Effort = choice(),
    }
}

impl Node<Services> for SaveAnimatedWEBP {
    const CARD: Card = card("SaveAnimatedWEBP");
    type In = SaveAnimatedWEBPIn;
    type Out = WithUi<()>;

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        /// The camera's model holds the prompt; its maker and the tags below, the rest.
        const MODEL: u16 = 0x0110;
        let frames: Vec<_> = (0..input.images.batch()).map(|index| input.images.picture(index)).collect();
        let effort = match input.method {
            Effort::Default => 4,
            Effort::Fastest => 0,
            Effort::Slowest => 6,
        };
        let settings = WebpSettings { lossless: input.lossless, quality: input.quality as u8, effort };
        let texts = text_chunks(run).into_iter().map(|(key, text)| format!("{key}:{text}"));
        let tags: Vec<(u16, String)> = (0..=MODEL).rev().zip(texts).collect();
        let bytes = to_animated_webp(&frames, (1000.0 / input.fps) as i32, settings, &tags)?;
        let ui = save(&input.images, &input.filename_prefix, "webp", &bytes, run)?;
        Ok(WithUi { ui, outputs: () })
    }
}

struct SaveAnimatedPNG;

inputs! {
    struct SaveAnimatedPNGIn {
        images: Arc<Image> = socket(),
        filename_prefix: String = text().default("ComfyUI"),
        fps: f64 = float(6.0).range(0.01, 1000.0).step(0.01),
        compress_level: u32 = int(4).range(0, 9),
    }
}

impl Node<Services> for SaveAnimatedPNG {
    const CARD: Card = card("SaveAnimatedPNG");
    type In = SaveAnimatedPNGIn;
    type Out = WithUi<()>;

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let frames: Vec<_> = (0..input.images.batch()).map(|index| input.images.picture(index)).collect();
        let milliseconds = (1000.0 / input.fps).min(f64::from(u16::MAX)) as u16;
        let bytes = to_apng(&frames, milliseconds, input.compress_level as u8, &text_chunks(run))?;
        let ui = save(&input.images, &input.filename_prefix, "png", &bytes, run)?;
        Ok(WithUi { ui, outputs: () })
    }
}
