//! Nodes that mix two diffusion models, or two text encoders, into one. Nothing is computed or copied before the
//! mixture is used.

use std::sync::Arc;

use super::Services;
use super::values::Clip;
use crate::graph::{AnyNode, Args, Card, Input, InputSpec, Inputs, Node, Result, Run, Widget, float, socket};
use crate::inputs;
use crate::model::merge::Shares;
use crate::sampling::Model;

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &ModelMergeSimple,
    &ModelMergeSubtract,
    &ModelMergeAdd,
    &ModelMergeBlocks,
    &ModelMergeQwenImage,
    &CLIPMergeSimple,
    &CLIPMergeSubtract,
    &CLIPMergeAdd,
];

fn merged(one: &Model, other: &Model, shares: &dyn Fn(&str) -> Shares) -> Result<Model> {
    let network = one.network().merged_with(other.network().as_ref(), shares)?;
    Ok(one.clone().with_network(network))
}

fn merged_clip(one: &Clip, other: &Clip, shares: Shares) -> Result<Clip> {
    Ok(one.with_encoder(one.0.merged_with(other.0.as_ref(), &|_| shares)?))
}

/// A ratio counts for the first model.
fn by_ratio(ratio: f64) -> Shares {
    [ratio, 1.0 - ratio]
}

fn ratio() -> Widget<f64> {
    float(1.0).range(0.0, 1.0).step(0.01)
}

const MODULE: &str = "comfy_extras.nodes_model_merging";
const CATEGORY: &str = "advanced/model_merging";

fn input<T: Input>(name: &'static str, args: &Args) -> Result<T> {
    T::read(name, args.get(name))
}

/// Declares the three ways to mix all tensors alike, for models and for text encoders.
macro_rules! mixtures {
    ($($node:ident, $inputs:ident { $one:ident, $other:ident: $type:ty $(, $number:ident = $widget:expr)? }
        => $merge:expr;)*) => {$(
        struct $node;

        inputs! {
            struct $inputs {
                $one: Arc<$type> = socket(),
                $other: Arc<$type> = socket(),
                $($number: f64 = $widget,)?
            }
        }

        impl Node<Services> for $node {
            const CARD: Card = Card::new(stringify!($node), stringify!($node), CATEGORY).module(MODULE);
            type In = $inputs;
            type Out = ($type,);

            fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
                let merge: fn(Self::In) -> Result<$type> = $merge;
                Ok((merge(input)?,))
            }
        }
    )*};
}
mixtures! {
    ModelMergeSimple, ModelMergeSimpleIn { model1, model2: Model, ratio = ratio() }
        => |input| merged(&input.model1, &input.model2, &|_| by_ratio(input.ratio));
    ModelMergeSubtract, ModelMergeSubtractIn {
        model1, model2: Model, multiplier = float(1.0).range(-10.0, 10.0).step(0.01)
    } => |input| merged(&input.model1, &input.model2, &|_| [input.multiplier, -input.multiplier]);
    ModelMergeAdd, ModelMergeAddIn { model1, model2: Model }
        => |input| merged(&input.model1, &input.model2, &|_| [1.0, 1.0]);
    CLIPMergeSimple, CLIPMergeSimpleIn { clip1, clip2: Clip, ratio = ratio() }
        => |input| merged_clip(&input.clip1, &input.clip2, by_ratio(input.ratio));
    CLIPMergeSubtract, CLIPMergeSubtractIn {
        clip1, clip2: Clip, multiplier = float(1.0).range(-10.0, 10.0).step(0.01)
    } => |input| merged_clip(&input.clip1, &input.clip2, [input.multiplier, -input.multiplier]);
    CLIPMergeAdd, CLIPMergeAddIn { clip1, clip2: Clip }
        => |input| merged_clip(&input.clip1, &input.clip2, [1.0, 1.0]);
}

/// Which tensors have a ratio of their own: those whose names begin with these words.
trait Parts: 'static {
    const PARTS: &'static [&'static str];
}

/// Two models, and a ratio for each part of them.
struct ByParts<T> {
    models: [Arc<Model>; 2],
    ratios: Vec<f64>,
    of: std::marker::PhantomData<T>,
}

impl<T: Parts> Inputs for ByParts<T> {
    fn specs() -> Vec<InputSpec> {
        let models = ["model1", "model2"].into_iter().map(|name| socket::<Arc<Model>>().spec(name));
        models.chain(T::PARTS.iter().map(|part| ratio().spec(part))).collect()
    }

    fn read(args: &Args) -> Result<Self> {
        let ratios = T::PARTS.iter().map(|part| input(part, args)).collect::<Result<_>>()?;
        Ok(Self {
            models: [input("model1", args)?, input("model2", args)?],
            ratios,
            of: std::marker::PhantomData,
        })
    }
}

impl<T: Parts> ByParts<T> {
    /// The longest word that a name begins with counts; for names that begin with none, the first word's ratio.
    fn merged(&self) -> Result<Model> {
        let [one, other] = &self.models;
        let first = self.ratios.first().copied().unwrap_or(1.0);
        merged(one, other, &|name| {
            let parts = T::PARTS.iter().zip(&self.ratios).filter(|(part, _)| name.starts_with(**part));
            by_ratio(parts.max_by_key(|(part, _)| part.len()).map_or(first, |(_, ratio)| *ratio))
        })
    }
}

struct Thirds;

impl Parts for Thirds {
    const PARTS: &'static [&'static str] = &["input", "middle", "out"];
}

struct ModelMergeBlocks;

impl Node<Services> for ModelMergeBlocks {
    const CARD: Card = Card::new("ModelMergeBlocks", "ModelMergeBlocks", CATEGORY).module(MODULE);
    type In = ByParts<Thirds>;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.merged()?,))
    }
}

/// Qwen-Image's parts: what comes before its blocks, each block, and what comes after.
struct QwenImage;

macro_rules! qwen_parts {
    ($($block:literal)*) => {
        &[
            "pos_embeds.", "img_in.", "txt_norm.", "txt_in.", "time_text_embed.",
            $(concat!("transformer_blocks.", $block, "."),)*
            "proj_out.",
        ]
    };
}

impl Parts for QwenImage {
    const PARTS: &'static [&'static str] = qwen_parts!(
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29
        30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59
    );
}

struct ModelMergeQwenImage;

impl Node<Services> for ModelMergeQwenImage {
    const CARD: Card =
        Card::new("ModelMergeQwenImage", "ModelMergeQwenImage", "advanced/model_merging/model_specific")
            .module("comfy_extras.nodes_model_merging_model_specific");
    type In = ByParts<QwenImage>;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.merged()?,))
    }
}
