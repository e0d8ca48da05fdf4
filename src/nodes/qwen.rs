//! Nodes of the Qwen-Image-Edit family and of reference latents.

use std::sync::Arc;

use super::Services;
use super::values::{Clip, Conditioning, Latent, Vae};
use candle_core::Tensor;

use crate::graph::{AnyNode, Card, Choice, Node, NodeError, Result, Run, choice, socket, text};
use crate::image::{Crop, Filter, Image};
use crate::model::text::qwen2_5_vl::template;
use crate::model::{ReferenceMethod, TextPrompt};
use crate::stop::Stop;
use crate::{choice_input, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &TextEncodeQwenImageEdit,
    &TextEncodeQwenImageEditPlus,
    &ReferenceLatent,
    &FluxKontextMultiReferenceLatentMethod,
];

/// Pixels a picture is given for the vision tower of the newer node.
const VISION_PIXELS: f64 = 384.0 * 384.0;
/// Pixels a reference latent is made from, and of the older node's vision picture.
const REFERENCE_PIXELS: f64 = 1024.0 * 1024.0;

/// `image` averaged to about `pixels`, both sides rounded (ties to even) to multiples of `multiple`.
fn resized(image: &Image, pixels: f64, multiple: f64) -> Result<Image> {
    let scale = (pixels / (image.width() * image.height()) as f64).sqrt();
    let side = |side: usize| ((side as f64 * scale / multiple).round_ties_even() * multiple) as usize;
    let size = (side(image.width()), side(image.height()));
    image.resized(size, Filter::Area, Crop::Disabled).map_err(NodeError::other)
}

/// What the vision tower sees of a batch: the first picture, without alpha. (1, h, w, 3)
fn seen(image: &Image) -> Result<Tensor> {
    Ok(image.batch_range(0, 1).to_tensor()?.narrow(3, 0, 3)?)
}

struct TextEncodeQwenImageEdit;

inputs! {
    struct TextEncodeQwenImageEditIn {
        clip: Arc<Clip> = socket(),
        prompt: String = text().prompt(),
        vae: Option<Arc<Vae>> = socket(),
        image: Option<Arc<Image>> = socket(),
    }
}

impl Node<Services> for TextEncodeQwenImageEdit {
    const CARD: Card = Card::new("TextEncodeQwenImageEdit", "", "advanced/conditioning")
        .module("comfy_extras.nodes_qwen")
        .schema();
    type In = TextEncodeQwenImageEditIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let image = input.image.map(|image| resized(&image, REFERENCE_PIXELS, 1.0)).transpose()?;
        let images = image.iter().map(seen).collect::<Result<_, _>>()?;
        let prompt = TextPrompt { text: input.prompt, images, template: None };
        let references = image.iter().collect::<Vec<_>>();
        encode(&input.clip, &prompt, input.vae.as_deref(), &references, run.stop())
    }
}

struct TextEncodeQwenImageEditPlus;

inputs! {
    struct TextEncodeQwenImageEditPlusIn {
        clip: Arc<Clip> = socket(),
        prompt: String = text().prompt(),
        vae: Option<Arc<Vae>> = socket(),
        image1: Option<Arc<Image>> = socket(),
        image2: Option<Arc<Image>> = socket(),
        image3: Option<Arc<Image>> = socket(),
    }
}

impl Node<Services> for TextEncodeQwenImageEditPlus {
    const CARD: Card = Card::new("TextEncodeQwenImageEditPlus", "", "advanced/conditioning")
        .module("comfy_extras.nodes_qwen")
        .schema();
    type In = TextEncodeQwenImageEditPlusIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (mut text, mut images, mut references) = (String::new(), Vec::new(), Vec::new());
        // A picture keeps the number of its slot, also when an earlier slot is empty.
        for (number, image) in (1..).zip([input.image1, input.image2, input.image3]) {
            let Some(image) = image else { continue };
            text += &template::picture(number);
            images.push(seen(&resized(&image, VISION_PIXELS, 1.0)?)?);
            if input.vae.is_some() {
                references.push(resized(&image, REFERENCE_PIXELS, 8.0)?);
            }
        }
        let prompt = TextPrompt { text: text + &input.prompt, images, template: Some(template::EDIT_PLUS) };
        encode(&input.clip, &prompt, input.vae.as_deref(), &references.iter().collect::<Vec<_>>(), run.stop())
    }
}

/// The encoded prompt, with the latents of `references` attached when there is a VAE to make them.
fn encode(
    clip: &Clip,
    prompt: &TextPrompt,
    vae: Option<&Vae>,
    references: &[&Image],
    stop: &Stop,
) -> Result<(Conditioning,)> {
    let latents = match vae {
        Some(vae) => references.iter().map(|image| vae.encode(image, None, stop)).collect::<Result<_>>()?,
        None => Vec::new(),
    };
    let conditioning = Conditioning::encode(clip, prompt, stop)?;
    Ok((conditioning.map(|entry| entry.references.clone_from(&latents)),))
}

struct ReferenceLatent;

inputs! {
    struct ReferenceLatentIn {
        conditioning: Arc<Conditioning> = socket(),
        latent: Option<Arc<Latent>> = socket(),
    }
}

impl Node<Services> for ReferenceLatent {
    const CARD: Card = Card::new("ReferenceLatent", "", "advanced/conditioning/edit_models")
        .module("comfy_extras.nodes_edit_model")
        .about(
            "Attaches a latent an edit model may look at. Several of these in a row attach several pictures.",
        )
        .schema();
    type In = ReferenceLatentIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let latent = input.latent.map(|latent| latent.samples.clone());
        Ok((input.conditioning.map(|entry| entry.references.extend(latent.clone())),))
    }
}

/// [`ReferenceMethod`] as the node calls it. The last word is of newer versions than the list that is shown.
#[derive(Clone, Copy)]
struct Placement(ReferenceMethod);

impl Choice for Placement {
    fn words() -> Vec<&'static str> {
        vec!["offset", "index", "uxo/uno"]
    }

    fn from_word(word: &str) -> Option<Self> {
        method_named(word).map(Self)
    }
}

/// ComfyUI's words for the ways; the first one for a way is the usual.
const METHODS: [(&str, ReferenceMethod); 5] = [
    ("index", ReferenceMethod::Index),
    ("offset", ReferenceMethod::Offset),
    ("uxo/uno", ReferenceMethod::Offset),
    ("index_timestep_zero", ReferenceMethod::IndexTimestepZero),
    ("negative_index", ReferenceMethod::NegativeIndex),
];

pub(super) fn method_named(word: &str) -> Option<ReferenceMethod> {
    METHODS.iter().find(|(known, _)| *known == word).map(|(_, method)| *method)
}

pub(super) fn word_for(method: ReferenceMethod) -> Option<&'static str> {
    METHODS.iter().find(|(_, known)| *known == method).map(|(word, _)| *word)
}

choice_input!(Placement);

struct FluxKontextMultiReferenceLatentMethod;

inputs! {
    struct FluxKontextMultiReferenceLatentMethodIn {
        conditioning: Arc<Conditioning> = socket(),
        reference_latents_method: Placement = choice().with("multiselect", false),
    }
}

impl Node<Services> for FluxKontextMultiReferenceLatentMethod {
    const CARD: Card = Card::new("FluxKontextMultiReferenceLatentMethod", "", "advanced/conditioning/flux")
        .module("comfy_extras.nodes_flux")
        .experimental()
        .schema();
    type In = FluxKontextMultiReferenceLatentMethodIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let Placement(method) = input.reference_latents_method;
        Ok((input.conditioning.map(|entry| entry.reference_method = Some(method)),))
    }
}
