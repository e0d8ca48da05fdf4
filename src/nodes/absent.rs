//! Nodes of networks that this server does not run yet: their loaders, and what applies them.
//!
//! ComfyUI's editor builds its model library from some of these classes and cannot place any loader where one of them
//! is missing, and people's graphs hold them. They are declared like any other node, and refuse to run.

use std::sync::Arc;

use super::Services;
use super::values::{Conditioning, Vae};
use crate::graph::{
    AnyNode, Card, FileName, Node, NodeError, Result, Run, Socket, choice, files, float, socket,
};
use crate::image::Image;
use crate::sampling::Model;
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &StyleModelLoader,
    &StyleModelApply,
    &CLIPVisionLoader,
    &CLIPVisionEncode,
    &GLIGENLoader,
    &ImageOnlyCheckpointLoader,
    &LotusConditioning,
];

/// Types of links that nothing here can make.
macro_rules! absent_sockets {
    ($($name:ident = $word:literal),* $(,)?) => {$(
        enum $name {}
        impl Socket for $name {
            const NAME: &'static str = $word;
        }
    )*};
}
absent_sockets! {
    StyleModel = "STYLE_MODEL",
    Gligen = "GLIGEN",
    ClipVision = "CLIP_VISION",
    ClipVisionOutput = "CLIP_VISION_OUTPUT",
}

choices! {
    enum StrengthType { Multiply = "multiply", AttnBias = "attn_bias" }
}

choices! {
    enum ClipCrop { Center = "center", None = "none" }
}

fn refusal<T>(what: &str) -> Result<T> {
    Err(NodeError::Refused(format!(
        "{what} cannot be run by this server yet; take the node out of the graph"
    )))
}

/// Declares nodes by their inputs, what they would give, and what it is that cannot be run.
macro_rules! absent {
    ($($node:ident, $inputs:ident { $($field:ident: $type:ty = $widget:expr),* } => $out:ty, $what:literal, $card:expr;)*) => {$(
        struct $node;

        inputs! {
            #[expect(dead_code, reason = "nothing is done with them")]
            struct $inputs { $($field: $type = $widget),* }
        }

        impl Node<Services> for $node {
            const CARD: Card = $card;
            type In = $inputs;
            type Out = $out;

            fn run(&self, _input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
                refusal($what)
            }
        }
    )*};
}
absent! {
    StyleModelLoader, StyleModelLoaderIn { style_model_name: FileName = files("style_models") }
        => (StyleModel,), "a style model", Card::new("StyleModelLoader", "Load Style Model", "loaders");
    StyleModelApply, StyleModelApplyIn {
        conditioning: Arc<Conditioning> = socket(),
        style_model: Arc<StyleModel> = socket(),
        clip_vision_output: Arc<ClipVisionOutput> = socket(),
        strength: f64 = float(1.0).range(0.0, 10.0).step(0.001),
        strength_type: StrengthType = choice()
    } => (Conditioning,), "a style model",
        Card::new("StyleModelApply", "Apply Style Model", "conditioning/style_model");
    CLIPVisionLoader, CLIPVisionLoaderIn { clip_name: FileName = files("clip_vision") }
        => (ClipVision,), "a CLIP vision encoder", Card::new("CLIPVisionLoader", "Load CLIP Vision", "loaders");
    CLIPVisionEncode, CLIPVisionEncodeIn {
        clip_vision: Arc<ClipVision> = socket(),
        image: Arc<Image> = socket(),
        crop: ClipCrop = choice()
    } => (ClipVisionOutput,), "a CLIP vision encoder",
        Card::new("CLIPVisionEncode", "CLIP Vision Encode", "conditioning");
    GLIGENLoader, GLIGENLoaderIn { gligen_name: FileName = files("gligen") }
        => (Gligen,), "GLIGEN", Card::new("GLIGENLoader", "GLIGENLoader", "loaders");
    ImageOnlyCheckpointLoader, ImageOnlyCheckpointLoaderIn { ckpt_name: FileName = files("checkpoints") }
        => (Model, ClipVision, Vae), "a checkpoint with a vision encoder",
        Card::new(
            "ImageOnlyCheckpointLoader",
            "Image Only Checkpoint Loader (img2vid model)",
            "loaders/video_models",
        )
        .module("comfy_extras.nodes_video_model");
}

/// What Lotus, a network for depth, is told.
struct LotusConditioning;

impl Node<Services> for LotusConditioning {
    const CARD: Card = Card::new("LotusConditioning", "", "conditioning/lotus")
        .module("comfy_extras.nodes_lotus")
        .outputs(&["conditioning"])
        .schema();
    type In = ();
    type Out = (Conditioning,);

    fn run(&self, _input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        refusal("a network for depth")
    }
}
