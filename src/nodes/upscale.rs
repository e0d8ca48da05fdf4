//! Networks that make pictures larger.

use std::sync::Arc;

use candle_core::Tensor;

use super::Services;
use crate::graph::{AnyNode, Card, FileName, Node, NodeError, Result, Run, Socket, files, socket};
use crate::image::Image;
use crate::inputs;
use crate::model::upscale::{self, Upscaler};
use crate::weights::File;

pub const NODES: &[&dyn AnyNode<Services>] = &[&UpscaleModelLoader, &ImageUpscaleWithModel];

const MODULE: &str = "comfy_extras.nodes_upscale_model";

struct UpscaleModel(Arc<dyn Upscaler>);

impl Socket for UpscaleModel {
    const NAME: &'static str = "UPSCALE_MODEL";
}

struct UpscaleModelLoader;

inputs! {
    struct UpscaleModelLoaderIn {
        model_name: FileName = files("upscale_models").with("multiselect", false),
    }
}

impl Node<Services> for UpscaleModelLoader {
    const CARD: Card =
        Card::new("UpscaleModelLoader", "Load Upscale Model", "loaders").module(MODULE).schema();
    type In = UpscaleModelLoaderIn;
    type Out = (UpscaleModel,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let path = run.host.model_file("upscale_models", &input.model_name.0)?;
        let file = File::open(path).map_err(NodeError::other)?;
        Ok((UpscaleModel(upscale::load(file)?),))
    }
}

struct ImageUpscaleWithModel;

inputs! {
    struct ImageUpscaleWithModelIn {
        upscale_model: Arc<UpscaleModel> = socket(),
        image: Arc<Image> = socket(),
    }
}

impl Node<Services> for ImageUpscaleWithModel {
    const CARD: Card = Card::new("ImageUpscaleWithModel", "Upscale Image (using Model)", "image/upscaling")
        .module(MODULE)
        .schema();
    type In = ImageUpscaleWithModelIn;
    type Out = (Image,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let pictures = input.image.with_channels(3).to_tensor().map_err(NodeError::other)?;
        let count = pictures.dim(0)?;
        let (stop, network) = (run.stop(), input.upscale_model.0.as_ref());
        let mut larger = Vec::with_capacity(count);
        for index in 0..count {
            let mut told = Ok(());
            let mut done = |tile: usize, tiles: usize| {
                if told.is_ok() {
                    told = run.step((index * tiles + tile) as u32, (count * tiles) as u32);
                }
            };
            larger.push(upscale::enlarge(network, &pictures.get(index)?, stop, &mut done)?);
            told?;
        }
        Image::from_tensor(&Tensor::stack(&larger, 0)?).map_err(NodeError::other).map(|image| (image,))
    }
}
