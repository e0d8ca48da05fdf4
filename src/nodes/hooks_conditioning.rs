//! Conditionings with hooks, masks and parts of the run, one at a time or positive and negative together.

use std::sync::Arc;

use candle_core::Tensor;

use super::Services;
use super::conditioning::MaskedArea;
use super::hooks::card;
use super::values::Conditioning;
use crate::graph::{AnyNode, Card, Node, Result, Run, Socket, choice, float, socket};
use crate::image::Mask;
use crate::inputs;
use crate::sampling::{Entry, Hooks};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &ConditioningSetProperties,
    &ConditioningSetPropertiesAndCombine,
    &PairConditioningSetProperties,
    &PairConditioningSetPropertiesAndCombine,
    &ConditioningSetDefaultCombine,
    &PairConditioningSetDefaultCombine,
    &PairConditioningCombine,
    &ConditioningTimestepsRange,
];

/// For a conditioning alone.
const fn single(class: &'static str, title: &'static str) -> Card {
    card(class, title, "advanced/hooks/cond single")
}

/// For a positive and a negative one.
const fn pair(class: &'static str, title: &'static str) -> Card {
    card(class, title, "advanced/hooks/cond pair").outputs(&["positive", "negative"])
}

/// A part of a run, 0 to 1 from noise to picture.
struct TimestepsRange([f64; 2]);

impl Socket for TimestepsRange {
    const NAME: &'static str = "TIMESTEPS_RANGE";
}

/// What entries are given; what is not there stays.
struct Properties {
    mask: Option<(Tensor, f64)>,
    bounds: bool,
    hooks: Option<Arc<Hooks>>,
    span: Option<[f64; 2]>,
}

impl Properties {
    fn on(&self, conditioning: &Conditioning) -> Conditioning {
        conditioning.map(|entry| {
            if let Some(hooks) = &self.hooks {
                entry.hooks = entry.hooks.and(hooks);
            }
            if let Some(mask) = &self.mask {
                entry.mask = Some(mask.clone());
                entry.mask_bounds = self.bounds;
            }
            entry.span = self.span.or(entry.span);
        })
    }
}

/// Declares nodes that give properties to conditionings.
macro_rules! with_properties {
    ($($node:ident, $inputs:ident { $($field:ident as $word:literal),+ }, $card:expr => $out:ty, $run:expr;)*) => {$(
        struct $node;

        inputs! {
            struct $inputs {
                $($field as $word: Arc<Conditioning> = socket(),)+
                strength: f64 = float(1.0).range(0.0, 10.0).step(0.01),
                set_cond_area: MaskedArea = choice(),
                mask: Option<Arc<Mask>> = socket(),
                hooks: Option<Arc<Hooks>> = socket(),
                timesteps: Option<Arc<TimestepsRange>> = socket(),
            }
        }

        impl Node<Services> for $node {
            const CARD: Card = $card;
            type In = $inputs;
            type Out = $out;

            fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
                let mask = input.mask.as_ref().map(|mask| mask.to_tensor()).transpose()?;
                let properties = Properties {
                    mask: mask.map(|mask| (mask, input.strength)),
                    bounds: input.set_cond_area == MaskedArea::MaskBounds,
                    hooks: input.hooks.clone(),
                    span: input.timesteps.as_ref().map(|range| range.0),
                };
                let run: fn(&Self::In, &Properties) -> Self::Out = $run;
                Ok(run(&input, &properties))
            }
        }
    )*};
}
with_properties! {
    ConditioningSetProperties, ConditioningSetPropertiesIn { new as "cond_NEW" },
        single("ConditioningSetProperties", "Cond Set Props")
        => (Conditioning,), |input, properties| (properties.on(&input.new),);
    ConditioningSetPropertiesAndCombine, ConditioningSetPropertiesAndCombineIn { old as "cond", new as "cond_NEW" },
        single("ConditioningSetPropertiesAndCombine", "Cond Set Props Combine")
        => (Conditioning,), |input, properties| (both(&input.old, &properties.on(&input.new)),);
    PairConditioningSetProperties,
        PairConditioningSetPropertiesIn { positive as "positive_NEW", negative as "negative_NEW" },
        pair("PairConditioningSetProperties", "Cond Pair Set Props")
        => (Conditioning, Conditioning),
        |input, properties| (properties.on(&input.positive), properties.on(&input.negative));
    PairConditioningSetPropertiesAndCombine, PairConditioningSetPropertiesAndCombineIn {
            positive as "positive", negative as "negative",
            new_positive as "positive_NEW", new_negative as "negative_NEW"
        }, pair("PairConditioningSetPropertiesAndCombine", "Cond Pair Set Props Combine")
        => (Conditioning, Conditioning), |input, properties| (
            both(&input.positive, &properties.on(&input.new_positive)),
            both(&input.negative, &properties.on(&input.new_negative)),
        );
}

/// The entries of one conditioning and then those of another one.
fn both(one: &Conditioning, other: &Conditioning) -> Conditioning {
    Conditioning([&one.0[..], &other.0[..]].concat())
}

/// A conditioning, and another one that counts where it does not.
fn with_default(conditioning: &Conditioning, default: &Conditioning, hooks: Option<&Hooks>) -> Conditioning {
    let fill = |entry: &mut Entry| {
        entry.fills = true;
        if let Some(hooks) = hooks {
            entry.hooks = entry.hooks.and(hooks);
        }
    };
    both(conditioning, &default.map(fill))
}

struct ConditioningSetDefaultCombine;

inputs! {
    struct ConditioningSetDefaultCombineIn {
        cond: Arc<Conditioning> = socket(),
        default as "cond_DEFAULT": Arc<Conditioning> = socket(),
        hooks: Option<Arc<Hooks>> = socket(),
    }
}

impl Node<Services> for ConditioningSetDefaultCombine {
    const CARD: Card = single("ConditioningSetDefaultCombine", "Cond Set Default Combine")
        .about("Adds a conditioning that counts where the others do not.");
    type In = ConditioningSetDefaultCombineIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((with_default(&input.cond, &input.default, input.hooks.as_deref()),))
    }
}

struct PairConditioningSetDefaultCombine;

inputs! {
    struct PairConditioningSetDefaultCombineIn {
        positive: Arc<Conditioning> = socket(),
        negative: Arc<Conditioning> = socket(),
        default_positive as "positive_DEFAULT": Arc<Conditioning> = socket(),
        default_negative as "negative_DEFAULT": Arc<Conditioning> = socket(),
        hooks: Option<Arc<Hooks>> = socket(),
    }
}

impl Node<Services> for PairConditioningSetDefaultCombine {
    const CARD: Card = pair("PairConditioningSetDefaultCombine", "Cond Pair Set Default Combine")
        .about("Adds conditionings that count where the others do not.");
    type In = PairConditioningSetDefaultCombineIn;
    type Out = (Conditioning, Conditioning);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let hooks = input.hooks.as_deref();
        Ok((
            with_default(&input.positive, &input.default_positive, hooks),
            with_default(&input.negative, &input.default_negative, hooks),
        ))
    }
}

struct PairConditioningCombine;

inputs! {
    struct PairConditioningCombineIn {
        positive_a as "positive_A": Arc<Conditioning> = socket(),
        negative_a as "negative_A": Arc<Conditioning> = socket(),
        positive_b as "positive_B": Arc<Conditioning> = socket(),
        negative_b as "negative_B": Arc<Conditioning> = socket(),
    }
}

impl Node<Services> for PairConditioningCombine {
    const CARD: Card = pair("PairConditioningCombine", "Cond Pair Combine");
    type In = PairConditioningCombineIn;
    type Out = (Conditioning, Conditioning);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((both(&input.positive_a, &input.positive_b), both(&input.negative_a, &input.negative_b)))
    }
}

struct ConditioningTimestepsRange;

inputs! {
    struct ConditioningTimestepsRangeIn {
        start_percent: f64 = float(0.0).range(0.0, 1.0).step(0.001),
        end_percent: f64 = float(1.0).range(0.0, 1.0).step(0.001),
    }
}

impl Node<Services> for ConditioningTimestepsRange {
    const CARD: Card = card("ConditioningTimestepsRange", "Timesteps Range", "advanced/hooks")
        .about("A part of a run, and what lies before and after it.")
        .outputs(&["TIMESTEPS_RANGE", "BEFORE_RANGE", "AFTER_RANGE"]);
    type In = ConditioningTimestepsRangeIn;
    type Out = (TimestepsRange, TimestepsRange, TimestepsRange);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (start, end) = (input.start_percent, input.end_percent);
        Ok((TimestepsRange([start, end]), TimestepsRange([0.0, start]), TimestepsRange([end, 1.0])))
    }
}
