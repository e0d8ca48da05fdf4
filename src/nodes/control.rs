//! Pictures that steer a diffusion model from beside.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Services;
use super::latent_scale::{LatentMethod, scaled};
use super::values::Vae;
use crate::graph::{AnyNode, Card, FileName, Node, NodeError, Result, Run, Socket, files, float, socket};
use crate::image::{Crop, Filter, Image, Mask};
use crate::inputs;
use crate::model::{self, Hint};
use crate::sampling::Model;
use crate::stop::Stop;
use crate::weights::File;

pub const NODES: &[&dyn AnyNode<Services>] = &[&ModelPatchLoader, &QwenImageDiffsynthControlnet];

/// A file of networks that change another one.
struct ModelPatch(Arc<File>);

impl Socket for ModelPatch {
    const NAME: &'static str = "MODEL_PATCH";
}

struct ModelPatchLoader;

inputs! {
    struct ModelPatchLoaderIn {
        name: FileName = files("model_patches"),
    }
}

impl Node<Services> for ModelPatchLoader {
    const CARD: Card = Card::new("ModelPatchLoader", "ModelPatchLoader", "advanced/loaders")
        .module("comfy_extras.nodes_model_patch")
        .experimental();
    type In = ModelPatchLoaderIn;
    type Out = (ModelPatch,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let path = run.host.model_file("model_patches", &input.name.0)?;
        Ok((ModelPatch(File::open(path).map_err(NodeError::other)?),))
    }
}

struct QwenImageDiffsynthControlnet;

inputs! {
    struct QwenImageDiffsynthControlnetIn {
        model: Arc<Model> = socket(),
        model_patch: Arc<ModelPatch> = socket(),
        vae: Arc<Vae> = socket(),
        image: Arc<Image> = socket(),
        strength: f64 = float(1.0).range(-10.0, 10.0).step(0.01),
        mask: Option<Arc<Mask>> = socket(),
    }
}

impl Node<Services> for QwenImageDiffsynthControlnet {
    const CARD: Card =
        Card::new("QwenImageDiffsynthControlnet", "QwenImageDiffsynthControlnet", "advanced/loaders/qwen")
            .module("comfy_extras.nodes_model_patch")
            .experimental();
    type In = QwenImageDiffsynthControlnetIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let image = input.image.with_channels(3);
        let hint = Arc::new(Encoded { vae: input.vae, image, mask: input.mask });
        let patch = input.model_patch.0.clone();
        let network = input.model.network().with_control(patch, hint, input.strength)?;
        Ok((input.model.as_ref().clone().with_network(network),))
    }
}

/// A picture and where it counts, encoded when the size of the run is known.
struct Encoded {
    vae: Arc<Vae>,
    image: Image,
    /// 1 where the picture is to be made anew.
    mask: Option<Arc<Mask>>,
}

impl Encoded {
    fn encoded(&self, [h, w]: [usize; 2], mask_channels: usize, stop: &Stop) -> Result<Tensor> {
        let scale = self.vae.0.latent().scale;
        let image = self.image.resized((w * scale, h * scale), Filter::Area, Crop::Center)?;
        let latent = self.vae.encode(&image, None, stop)?;
        if mask_channels == 0 {
            return Ok(latent);
        }
        let kept = match &self.mask {
            Some(mask) => {
                let planes = mask.to_tensor()?.unsqueeze(1)?.narrow(0, 0, 1)?;
                scaled(&planes.affine(-1.0, 1.0)?, (w, h), LatentMethod::Bilinear, Crop::Disabled)?
            }
            None => Tensor::ones((1, 1, h, w), DType::F32, &Device::Cpu)?,
        };
        let kept = kept.repeat((1, mask_channels, 1, 1))?.unsqueeze(2)?;
        Ok(Tensor::cat(&[&latent, &kept], 1)?)
    }
}

impl Hint for Encoded {
    fn latent(&self, size: [usize; 2], mask_channels: usize, stop: &Stop) -> model::Result<Tensor> {
        self.encoded(size, mask_channels, stop).map_err(NodeError::into_model_error)
    }
}
