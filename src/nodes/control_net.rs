//! ControlNets: networks that steer a conditioning by a picture.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Services;
use super::latent_scale::{LatentMethod, scaled};
use super::values::{Conditioning, Vae};
use crate::graph::{
    AnyNode, Card, FileName, Node, NodeError, Result, Run, Same, Socket, choice, files, float, socket,
};
use crate::image::{Crop, Filter, Image, Mask};
use crate::model::control::{self, Control};
use crate::model::{self, Hint};
use crate::sampling::{Controlled, Model};
use crate::stop::Stop;
use crate::weights::File;
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &ControlNetLoader,
    &DiffControlNetLoader,
    &SetUnionControlNetType,
    &ControlNetApply,
    &ControlNetApplySD3,
    &ControlNetApplyAdvanced,
    &ControlNetInpaintingAliMamaApply,
];

/// A network that steers another one.
struct ControlNet(Arc<dyn control::ControlNet>);

impl Socket for ControlNet {
    const NAME: &'static str = "CONTROL_NET";
}

fn load(services: &Services, name: &FileName) -> Result<ControlNet> {
    let path = services.model_file("controlnet", &name.0)?;
    let file = File::open_in(&services.memory, path).map_err(NodeError::other)?;
    Ok(ControlNet(control::load(file, services.arithmetic.diffusion)?))
}

struct ControlNetLoader;

inputs! {
    struct ControlNetLoaderIn {
        control_net_name: FileName = files("controlnet"),
    }
}

impl Node<Services> for ControlNetLoader {
    const CARD: Card = Card::new("ControlNetLoader", "Load ControlNet Model", "loaders");
    type In = ControlNetLoaderIn;
    type Out = (ControlNet,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((load(run.host, &input.control_net_name)?,))
    }
}

struct DiffControlNetLoader;

inputs! {
    #[expect(dead_code, reason = "no family here keeps a ControlNet as a difference to its model")]
    struct DiffControlNetLoaderIn {
        model: Arc<Model> = socket(),
        control_net_name: FileName = files("controlnet"),
    }
}

impl Node<Services> for DiffControlNetLoader {
    const CARD: Card = Card::new("DiffControlNetLoader", "Load ControlNet Model (diff)", "loaders");
    type In = DiffControlNetLoaderIn;
    type Out = (ControlNet,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((load(run.host, &input.control_net_name)?,))
    }
}

choices! {
    enum ControlType {
        Auto = "auto",
        Openpose = "openpose",
        Depth = "depth",
        Scribble = "hed/pidi/scribble/ted",
        Lineart = "canny/lineart/anime_lineart/mlsd",
        Normal = "normal",
        Segment = "segment",
        Tile = "tile",
        Repaint = "repaint",
    }
}

struct SetUnionControlNetType;

inputs! {
    #[expect(dead_code, reason = "Qwen-Image's union networks see from the hint what it is")]
    struct SetUnionControlNetTypeIn {
        control_net: Arc<ControlNet> = socket(),
        r#type: ControlType = choice(),
    }
}

impl Node<Services> for SetUnionControlNetType {
    const CARD: Card =
        Card::new("SetUnionControlNetType", "SetUnionControlNetType", "conditioning/controlnet")
            .module("comfy_extras.nodes_controlnet");
    type In = SetUnionControlNetTypeIn;
    type Out = (Same<ControlNet>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Same(input.control_net),))
    }
}

struct ControlNetApply;

inputs! {
    struct ControlNetApplyIn {
        conditioning: Arc<Conditioning> = socket(),
        control_net: Arc<ControlNet> = socket(),
        image: Arc<Image> = socket(),
        strength: f64 = float(1.0).range(0.0, 10.0).step(0.01),
    }
}

impl Node<Services> for ControlNetApply {
    const CARD: Card =
        Card::new("ControlNetApply", "Apply ControlNet (OLD)", "conditioning/controlnet").deprecated();
    type In = ControlNetApplyIn;
    type Out = (Same<Conditioning>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        if input.strength == 0.0 {
            return Ok((Same(input.conditioning),));
        }
        let hint = Picture { vae: None, image: input.image.with_channels(3), counts: None };
        let steering = Steering::new(&input.control_net, hint, input.strength, [0.0, 1.0], true);
        Ok((Same(Arc::new(steering.added_to(&input.conditioning))),))
    }
}

struct ControlNetApplySD3;

inputs! {
    struct ControlNetApplySD3In {
        positive: Arc<Conditioning> = socket(),
        negative: Arc<Conditioning> = socket(),
        control_net: Arc<ControlNet> = socket(),
        vae: Arc<Vae> = socket(),
        image: Arc<Image> = socket(),
        strength: f64 = float(1.0).range(0.0, 10.0).step(0.01),
        start_percent: f64 = float(0.0).range(0.0, 1.0).step(0.001),
        end_percent: f64 = float(1.0).range(0.0, 1.0).step(0.001),
    }
}

impl Node<Services> for ControlNetApplySD3 {
    const CARD: Card =
        Card::new("ControlNetApplySD3", "Apply Controlnet with VAE", "conditioning/controlnet")
            .module("comfy_extras.nodes_sd3")
            .outputs(&["positive", "negative"])
            .deprecated()
            .schema();
    type In = ControlNetApplySD3In;
    type Out = (Same<Conditioning>, Same<Conditioning>);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let hint = Picture { vae: Some(input.vae), image: input.image.with_channels(3), counts: None };
        let part = [input.start_percent, input.end_percent];
        let steering = Steering::new(&input.control_net, hint, input.strength, part, false);
        Ok(steering.added_to_both(input.positive, input.negative))
    }
}

struct ControlNetApplyAdvanced;

inputs! {
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
    type Out = (Same<Conditioning>, Same<Conditioning>);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let hint = Picture { vae: input.vae, image: input.image.with_channels(3), counts: None };
        let part = [input.start_percent, input.end_percent];
        let steering = Steering::new(&input.control_net, hint, input.strength, part, false);
        Ok(steering.added_to_both(input.positive, input.negative))
    }
}

struct ControlNetInpaintingAliMamaApply;

inputs! {
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
    type Out = (Same<Conditioning>, Same<Conditioning>);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let mut image = input.image.with_channels(3);
        let mut counts = None;
        if input.control_net.0.mask_channels() > 0 {
            let kept = input.mask.map(|value| 1.0 - value);
            blacken(&mut image, &kept)?;
            counts = Some(kept);
        }
        let hint = Picture { vae: Some(input.vae), image, counts };
        let part = [input.start_percent, input.end_percent];
        let steering = Steering::new(&input.control_net, hint, input.strength, part, false);
        Ok(steering.added_to_both(input.positive, input.negative))
    }
}

/// Makes everything black that a mask does not keep.
fn blacken(image: &mut Image, kept: &Mask) -> Result<()> {
    let kept = kept.resized(image.size(), Filter::Bilinear, Crop::Center)?;
    let kept = kept.repeated_to(image.batch()).map_err(NodeError::other)?;
    let channels = image.channels();
    for (pixels, kept) in image.frames_mut().zip(kept.frames()) {
        for (pixel, kept) in pixels.chunks_mut(channels).zip(kept) {
            for value in pixel {
                *value *= kept.round_ties_even();
            }
        }
    }
    Ok(())
}

/// A control on its way into conditionings; none where it would say nothing.
struct Steering(Option<Controlled>);

impl Steering {
    fn new(
        network: &ControlNet,
        hint: Picture,
        strength: f64,
        [start, end]: [f64; 2],
        all_sides: bool,
    ) -> Self {
        let control = || Arc::new(Control::new(network.0.clone(), Arc::new(hint), strength));
        Self((strength != 0.0).then(|| Controlled { control: control(), start, end, all_sides }))
    }

    fn added_to(&self, conditioning: &Conditioning) -> Conditioning {
        conditioning.map(|entry| entry.controls.extend(self.0.clone()))
    }

    fn added_to_both(
        &self,
        positive: Arc<Conditioning>,
        negative: Arc<Conditioning>,
    ) -> (Same<Conditioning>, Same<Conditioning>) {
        if self.0.is_none() {
            return (Same(positive), Same(negative));
        }
        (Same(Arc::new(self.added_to(&positive))), Same(Arc::new(self.added_to(&negative))))
    }
}

/// A picture to steer by, and where it counts (everywhere, if nothing is said). Encoded when the size of the run is
/// known.
struct Picture {
    vae: Option<Arc<Vae>>,
    image: Image,
    counts: Option<Mask>,
}

impl Picture {
    fn encoded(&self, [h, w]: [usize; 2], mask_channels: usize, stop: &Stop) -> Result<Tensor> {
        let vae = self.vae.as_ref().ok_or_else(|| {
            NodeError::Refused(
                "this ControlNet needs a VAE and none is linked: use a node that applies it with a `vae` input"
                    .to_owned(),
            )
        })?;
        let scale = vae.0.latent().scale;
        let image = self.image.resized((w * scale, h * scale), Filter::NearestExact, Crop::Center)?;
        let latent = vae.encode(&image, None, stop)?;
        if mask_channels == 0 {
            return Ok(latent);
        }
        let counts = match &self.counts {
            Some(mask) => {
                let planes = mask.to_tensor()?.narrow(0, 0, 1)?.unsqueeze(1)?;
                scaled(&planes, (w, h), LatentMethod::NearestExact, Crop::Center)?
            }
            None => Tensor::ones((1, 1, h, w), DType::F32, &Device::Cpu)?,
        };
        let counts = counts.unsqueeze(2)?.repeat((1, mask_channels, latent.dim(2)?, 1, 1))?;
        Ok(Tensor::cat(&[&latent, &counts], 1)?)
    }
}

impl Hint for Picture {
    fn latent(&self, size: [usize; 2], mask_channels: usize, stop: &Stop) -> model::Result<Tensor> {
        self.encoded(size, mask_channels, stop).map_err(NodeError::into_model_error)
    }
}
