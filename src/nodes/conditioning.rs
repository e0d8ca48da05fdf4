//! Conditioning: text turned into what a sampler is steered by, and operations on the result.

use std::sync::Arc;

use candle_core::Tensor;

use super::values::{Clip, Conditioning};
use super::{MAX_RESOLUTION, Services};
use crate::graph::{AnyNode, Card, Node, NodeError, Result, Run, Same, choice, float, int, socket, text};
use crate::image::Mask;
use crate::model::TextPrompt;
use crate::sampling::{Area, Entry, Rectangle};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &CLIPTextEncode,
    &CLIPSetLastLayer,
    &ConditioningCombine,
    &ConditioningConcat,
    &ConditioningAverage,
    &ConditioningZeroOut,
    &ConditioningSetTimestepRange,
    &ConditioningSetArea,
    &ConditioningSetAreaPercentage,
    &ConditioningSetAreaStrength,
    &ConditioningSetMask,
    &FluxGuidance,
    &FluxDisableGuidance,
];

struct CLIPTextEncode;

inputs! {
    struct CLIPTextEncodeIn {
        text: String = text().prompt().tooltip("The text to be encoded."),
        clip: Arc<Clip> = socket().tooltip("The text encoder to read it with."),
    }
}

impl Node<Services> for CLIPTextEncode {
    const CARD: Card = Card::new("CLIPTextEncode", "CLIP Text Encode (Prompt)", "conditioning")
        .about("Encodes a text with a text encoder, to steer a diffusion model towards it.");
    type In = CLIPTextEncodeIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let prompt = TextPrompt { text: input.text, ..TextPrompt::default() };
        Ok((Conditioning::encode(&input.clip, &prompt, run.stop())?,))
    }
}

struct ConditioningZeroOut;

inputs! {
    struct ConditioningZeroOutIn {
        conditioning: Arc<Conditioning> = socket(),
    }
}

impl Node<Services> for ConditioningZeroOut {
    const CARD: Card = Card::new("ConditioningZeroOut", "ConditioningZeroOut", "advanced/conditioning");
    type In = ConditioningZeroOutIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let mut zeroed = input.conditioning.as_ref().clone();
        for entry in &mut zeroed.0 {
            entry.text = entry.text.zeros_like()?;
        }
        Ok((zeroed,))
    }
}

struct CLIPSetLastLayer;

inputs! {
    struct CLIPSetLastLayerIn {
        clip: Arc<Clip> = socket(),
        stop_at_clip_layer: i64 = int(-1).range(-24, -1).step(1),
    }
}

impl Node<Services> for CLIPSetLastLayer {
    const CARD: Card = Card::new("CLIPSetLastLayer", "CLIP Set Last Layer", "conditioning");
    type In = CLIPSetLastLayerIn;
    type Out = (Clip,);

    /// Even the last layer is not what comes without this node: the final norm is left out.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let layer = input.stop_at_clip_layer.unsigned_abs() as usize;
        Ok((input.clip.with_encoder(input.clip.0.ending_at(layer)?),))
    }
}

struct FluxGuidance;

inputs! {
    #[expect(dead_code, reason = "no network here is told a guidance")]
    struct FluxGuidanceIn {
        conditioning: Arc<Conditioning> = socket(),
        guidance: f64 = float(3.5).range(0.0, 100.0).step(0.1),
    }
}

impl Node<Services> for FluxGuidance {
    const CARD: Card = Card::new("FluxGuidance", "", "advanced/conditioning/flux")
        .module("comfy_extras.nodes_flux")
        .schema();
    type In = FluxGuidanceIn;
    type Out = (Same<Conditioning>,);

    /// Only networks that were distilled with a guidance are told one. Qwen-Image was not, and does not
    /// hear it in ComfyUI either.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Same(input.conditioning),))
    }
}

struct FluxDisableGuidance;

inputs! {
    struct FluxDisableGuidanceIn {
        conditioning: Arc<Conditioning> = socket(),
    }
}

impl Node<Services> for FluxDisableGuidance {
    const CARD: Card = Card::new("FluxDisableGuidance", "", "advanced/conditioning/flux")
        .about("Takes the guidance from networks that are told one.")
        .module("comfy_extras.nodes_flux")
        .schema();
    type In = FluxDisableGuidanceIn;
    type Out = (Same<Conditioning>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Same(input.conditioning),))
    }
}

/// The entry that is mixed into others: ComfyUI takes the first one alone.
fn only(conditioning: &Conditioning) -> Result<&Entry> {
    if conditioning.0.len() > 1 {
        tracing::warn!("of {} conditionings only the first one is mixed in", conditioning.0.len());
    }
    conditioning.0.first().ok_or_else(|| NodeError::Refused("there is no conditioning to mix in".to_owned()))
}

struct ConditioningCombine;

inputs! {
    struct ConditioningCombineIn {
        conditioning_1: Arc<Conditioning> = socket(),
        conditioning_2: Arc<Conditioning> = socket(),
    }
}

impl Node<Services> for ConditioningCombine {
    const CARD: Card = Card::new("ConditioningCombine", "Conditioning (Combine)", "conditioning");
    type In = ConditioningCombineIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Conditioning([&input.conditioning_1.0[..], &input.conditioning_2.0[..]].concat()),))
    }
}

struct ConditioningConcat;

inputs! {
    struct ConditioningConcatIn {
        conditioning_to: Arc<Conditioning> = socket(),
        conditioning_from: Arc<Conditioning> = socket(),
    }
}

impl Node<Services> for ConditioningConcat {
    const CARD: Card = Card::new("ConditioningConcat", "Conditioning (Concat)", "conditioning");
    type In = ConditioningConcatIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let from = &only(&input.conditioning_from)?.text;
        let longer =
            |entry: &Entry| Ok(Entry { text: Tensor::cat(&[&entry.text, from], 1)?, ..entry.clone() });
        Ok((Conditioning(input.conditioning_to.0.iter().map(longer).collect::<Result<_>>()?),))
    }
}

struct ConditioningAverage;

inputs! {
    #[expect(clippy::struct_field_names, reason = "ComfyUI's names")]
    struct ConditioningAverageIn {
        conditioning_to: Arc<Conditioning> = socket(),
        conditioning_from: Arc<Conditioning> = socket(),
        conditioning_to_strength: f64 = float(1.0).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for ConditioningAverage {
    const CARD: Card = Card::new("ConditioningAverage", "ConditioningAverage", "conditioning");
    type In = ConditioningAverageIn;
    type Out = (Conditioning,);

    /// The text mixed in is cut, or filled up with zeros, to the length of the other.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (from, share) = (only(&input.conditioning_from)?, input.conditioning_to_strength);
        let mixed =
            |to: &Tensor, from: &Tensor| -> Result<Tensor> { Ok(((to * share)? + (from * (1.0 - share))?)?) };
        let average = |entry: &Entry| {
            let tokens = entry.text.dim(1)?;
            let shared = from.text.narrow(1, 0, tokens.min(from.text.dim(1)?))?;
            let other = shared.pad_with_zeros(1, 0, tokens - shared.dim(1)?)?;
            let pooled = match (&entry.pooled, &from.pooled) {
                (Some(to), Some(from)) => Some(mixed(to, from)?),
                (None, Some(from)) => Some(from.clone()),
                (to, None) => to.clone(),
            };
            Ok(Entry { text: mixed(&entry.text, &other)?, pooled, ..entry.clone() })
        };
        Ok((Conditioning(input.conditioning_to.0.iter().map(average).collect::<Result<_>>()?),))
    }
}

struct ConditioningSetTimestepRange;

inputs! {
    struct ConditioningSetTimestepRangeIn {
        conditioning: Arc<Conditioning> = socket(),
        start: f64 = float(0.0).range(0.0, 1.0).step(0.001),
        end: f64 = float(1.0).range(0.0, 1.0).step(0.001),
    }
}

impl Node<Services> for ConditioningSetTimestepRange {
    const CARD: Card =
        Card::new("ConditioningSetTimestepRange", "ConditioningSetTimestepRange", "advanced/conditioning");
    type In = ConditioningSetTimestepRangeIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let set = |entry: &mut Entry| entry.span = Some([input.start, input.end]);
        Ok((input.conditioning.map(set),))
    }
}

struct ConditioningSetArea;

inputs! {
    struct ConditioningSetAreaIn {
        conditioning: Arc<Conditioning> = socket(),
        width: usize = int(64).range(64, MAX_RESOLUTION).step(8),
        height: usize = int(64).range(64, MAX_RESOLUTION).step(8),
        x: usize = int(0).range(0, MAX_RESOLUTION).step(8),
        y: usize = int(0).range(0, MAX_RESOLUTION).step(8),
        strength: f64 = float(1.0).range(0.0, 10.0).step(0.01),
    }
}

impl Node<Services> for ConditioningSetArea {
    const CARD: Card = Card::new("ConditioningSetArea", "Conditioning (Set Area)", "conditioning");
    type In = ConditioningSetAreaIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let area =
            Rectangle { y: input.y / 8, x: input.x / 8, height: input.height / 8, width: input.width / 8 };
        Ok((limited(&input.conditioning, Area::Cells(area), input.strength),))
    }
}

struct ConditioningSetAreaPercentage;

inputs! {
    struct ConditioningSetAreaPercentageIn {
        conditioning: Arc<Conditioning> = socket(),
        width: f64 = float(1.0).range(0.0, 1.0).step(0.01),
        height: f64 = float(1.0).range(0.0, 1.0).step(0.01),
        x: f64 = float(0.0).range(0.0, 1.0).step(0.01),
        y: f64 = float(0.0).range(0.0, 1.0).step(0.01),
        strength: f64 = float(1.0).range(0.0, 10.0).step(0.01),
    }
}

impl Node<Services> for ConditioningSetAreaPercentage {
    const CARD: Card =
        Card::new("ConditioningSetAreaPercentage", "Conditioning (Set Area with Percentage)", "conditioning");
    type In = ConditioningSetAreaPercentageIn;
    type Out = (Conditioning,);

    /// Shares of height and width. ComfyUI fails here for latents with a frame axis, which it would
    /// give a share too.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let area = Rectangle { y: input.y, x: input.x, height: input.height, width: input.width };
        Ok((limited(&input.conditioning, Area::Shares(area), input.strength),))
    }
}

/// The same entries, seeing only an area.
fn limited(conditioning: &Conditioning, area: Area, strength: f64) -> Conditioning {
    conditioning.map(|entry| {
        entry.area = Some(area);
        entry.strength = strength;
        entry.mask_bounds = false;
    })
}

struct ConditioningSetAreaStrength;

inputs! {
    struct ConditioningSetAreaStrengthIn {
        conditioning: Arc<Conditioning> = socket(),
        strength: f64 = float(1.0).range(0.0, 10.0).step(0.01),
    }
}

impl Node<Services> for ConditioningSetAreaStrength {
    const CARD: Card =
        Card::new("ConditioningSetAreaStrength", "ConditioningSetAreaStrength", "conditioning");
    type In = ConditioningSetAreaStrengthIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.conditioning.map(|entry| entry.strength = input.strength),))
    }
}

choices! {
    pub(super) enum MaskedArea { Default = "default", MaskBounds = "mask bounds" }
}

struct ConditioningSetMask;

inputs! {
    struct ConditioningSetMaskIn {
        conditioning: Arc<Conditioning> = socket(),
        mask: Arc<Mask> = socket(),
        strength: f64 = float(1.0).range(0.0, 10.0).step(0.01),
        set_cond_area: MaskedArea = choice(),
    }
}

impl Node<Services> for ConditioningSetMask {
    const CARD: Card = Card::new("ConditioningSetMask", "Conditioning (Set Mask)", "conditioning");
    type In = ConditioningSetMaskIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let mask = input.mask.to_tensor()?;
        let set = |entry: &mut Entry| {
            entry.mask = Some((mask.clone(), input.strength));
            entry.mask_bounds = input.set_cond_area == MaskedArea::MaskBounds;
        };
        Ok((input.conditioning.map(set),))
    }
}
