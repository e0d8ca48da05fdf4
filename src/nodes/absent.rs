//! Nodes of networks that this server does not run yet: their loaders, and what applies them.
//!
//! ComfyUI's editor builds its model library from some of these classes and cannot place any loader where one of them
//! is missing, and people's graphs hold them. They are declared like any other node, and refuse to run.

use std::sync::Arc;

use super::Services;
use super::values::{Conditioning, Vae};
use crate::graph::{AnyNode, Card, FileName, Node, NodeError, Result, Run, Socket, files, float, socket};
use crate::image::{Image, Mask};
use crate::inputs;
use crate::sampling::Model;

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &ControlNetLoader,
    &StyleModelLoader,
    &GLIGENLoader,
    &ControlNetApplyAdvanced,
    &ControlNetInpaintingAliMamaApply,
    &ImageOnlyCheckpointLoader,
    &UpscaleModelLoader,
];

fn absent<T>(what: &str) -> Result<T> {
    Err(NodeError::Refused(format!(
        "{what} cannot be run by this server yet; take the node out of the graph"
    )))
}

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
    ControlNet = "CONTROL_NET",
    StyleModel = "STYLE_MODEL",
    Gligen = "GLIGEN",
    ClipVision = "CLIP_VISION",
    UpscaleModel = "UPSCALE_MODEL",
}

struct ControlNetLoader;

inputs! {
    #[expect(dead_code, reason = "no file of this kind is opened")]
    struct ControlNetLoaderIn {
        control_net_name: FileName = files("controlnet"),
    }
}

impl Node<Services> for ControlNetLoader {
    const CARD: Card = Card::new("ControlNetLoader", "Load ControlNet Model", "loaders");
    type In = ControlNetLoaderIn;
    type Out = (ControlNet,);

    fn run(&self, _input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        absent("a ControlNet")
    }
}

struct StyleModelLoader;

inputs! {
    #[expect(dead_code, reason = "no file of this kind is opened")]
    struct StyleModelLoaderIn {
        style_model_name: FileName = files("style_models"),
    }
}

impl Node<Services> for StyleModelLoader {
    const CARD: Card = Card::new("StyleModelLoader", "Load Style Model", "loaders");
    type In = StyleModelLoaderIn;
    type Out = (StyleModel,);

    fn run(&self, _input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        absent("a style model")
    }
}

struct GLIGENLoader;

inputs! {
    #[expect(dead_code, reason = "no file of this kind is opened")]
    struct GLIGENLoaderIn {
        gligen_name: FileName = files("gligen"),
    }
}

impl Node<Services> for GLIGENLoader {
    const CARD: Card = Card::new("GLIGENLoader", "GLIGENLoader", "loaders");
    type In = GLIGENLoaderIn;
    type Out = (Gligen,);

    fn run(&self, _input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        absent("GLIGEN")
    }
}

struct ImageOnlyCheckpointLoader;

inputs! {
    #[expect(dead_code, reason = "no file of this kind is opened")]
    struct ImageOnlyCheckpointLoaderIn {
        ckpt_name: FileName = files("checkpoints"),
    }
}

impl Node<Services> for ImageOnlyCheckpointLoader {
    const CARD: Card = Card::new(
        "ImageOnlyCheckpointLoader",
        "Image Only Checkpoint Loader (img2vid model)",
        "loaders/video_models",
    )
    .module("comfy_extras.nodes_video_model");
    type In = ImageOnlyCheckpointLoaderIn;
    type Out = (Model, ClipVision, Vae);

    fn run(&self, _input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        absent("a checkpoint with a vision encoder")
    }
}

struct UpscaleModelLoader;

inputs! {
    #[expect(dead_code, reason = "no file of this kind is opened")]
    struct UpscaleModelLoaderIn {
        model_name: FileName = files("upscale_models").with("multiselect", false),
    }
}

impl Node<Services> for UpscaleModelLoader {
    const CARD: Card = Card::new("UpscaleModelLoader", "Load Upscale Model", "loaders")
        .module("comfy_extras.nodes_upscale_model")
        .schema();
    type In = UpscaleModelLoaderIn;
    type Out = (UpscaleModel,);

    fn run(&self, _input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        absent("an upscale model")
    }
}

struct ControlNetApplyAdvanced;

inputs! {
    #[expect(dead_code, reason = "there is no ControlNet to apply")]
    struct ControlNetApplyAdvancedIn {
        positive: Arc<Conditioning> = socket(),
        negative: Arc<Conditioning> = socket(),
        control_net: Arc<ControlNet> = socket(),
        image: Arc<Image> = socket(),
        strength: f64 = float(1.0).range(0.0, 10.0).step(0.01),
        start_percent: f64 = float(0.0).range(0.0, 1.0).step(0.001),
        end_percent: f64 = float(1.0).range(0.0, 1.0).step(0.001),
        vae: Option<Arc<Vae>> = socket(),
    }
}

impl Node<Services> for ControlNetApplyAdvanced {
    const CARD: Card = Card::new("ControlNetApplyAdvanced", "Apply ControlNet", "conditioning/controlnet")
        .outputs(&["positive", "negative"]);
    type In = ControlNetApplyAdvancedIn;
    type Out = (Conditioning, Conditioning);

    fn run(&self, _input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        absent("a ControlNet")
    }
}

struct ControlNetInpaintingAliMamaApply;

inputs! {
    #[expect(dead_code, reason = "there is no ControlNet to apply")]
    struct ControlNetInpaintingIn {
        positive: Arc<Conditioning> = socket(),
        negative: Arc<Conditioning> = socket(),
        control_net: Arc<ControlNet> = socket(),
        vae: Arc<Vae> = socket(),
        image: Arc<Image> = socket(),
        mask: Arc<Mask> = socket(),
        strength: f64 = float(1.0).range(0.0, 10.0).step(0.01),
        start_percent: f64 = float(0.0).range(0.0, 1.0).step(0.001),
        end_percent: f64 = float(1.0).range(0.0, 1.0).step(0.001),
    }
}

impl Node<Services> for ControlNetInpaintingAliMamaApply {
    const CARD: Card = Card::new(
        "ControlNetInpaintingAliMamaApply",
        "ControlNetInpaintingAliMamaApply",
        "conditioning/controlnet",
    )
    .module("comfy_extras.nodes_controlnet")
    .outputs(&["positive", "negative"]);
    type In = ControlNetInpaintingIn;
    type Out = (Conditioning, Conditioning);

    fn run(&self, _input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        absent("a ControlNet")
    }
}
