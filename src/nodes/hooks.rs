//! Hooks: LoRAs for some conditionings alone, keyframes for their strengths, and text encoders that they change.

use std::sync::Arc;

use super::Services;
use super::loaders::open;
use super::values::{Clip, ClipHooks};
use crate::graph::{
    AnyNode, Arg, Card, FileName, Input, Kind, Node, NodeError, Result, Run, Same, boolean, choice, files,
    float, int, socket,
};
use crate::model::lora::{Lora, Source};
use crate::model::{self, diffusion, text};
use crate::sampling::{Hooks, Keyframe, Keyframes};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &CreateHookLora,
    &CreateHookLoraModelOnly,
    &CreateHookModelAsLora,
    &CreateHookModelAsLoraModelOnly,
    &SetHookKeyframes,
    &CreateHookKeyframe,
    &CreateHookKeyframesInterpolated,
    &CreateHookKeyframesFromFloats,
    &CombineHooks2,
    &CombineHooks4,
    &CombineHooks8,
    &SetClipHooks,
];

/// A node of this family.
pub(super) const fn card(class: &'static str, title: &'static str, category: &'static str) -> Card {
    Card::new(class, title, category).module("comfy_extras.nodes_hooks").experimental()
}

/// One that makes keyframes.
const fn keyframes_card(class: &'static str, title: &'static str) -> Card {
    card(class, title, "advanced/hooks/scheduling").outputs(&["HOOK_KF"])
}

/// What there may be before, and one hook more.
fn with_lora(
    services: &Services,
    before: Option<Arc<Hooks>>,
    name: &FileName,
    [model, clip]: [f64; 2],
) -> Result<Same<Hooks>> {
    let before = before.unwrap_or_default();
    if model == 0.0 && clip == 0.0 {
        return Ok(Same(before));
    }
    let file = open(services, "loras", name)?;
    Ok(Same(Arc::new(before.and(&Hooks::of_file(&file, [model, clip])))))
}

/// What there may be before, and the networks of a checkpoint as one hook more.
fn with_checkpoint(
    services: &Services,
    before: Option<Arc<Hooks>>,
    name: &FileName,
    [model, clip]: [f64; 2],
) -> Result<Hooks> {
    let file = open(services, "checkpoints", name)?;
    let lora = |weights, strength| Lora { source: Source::Network(Arc::new(weights)), strength };
    let (_, diffusion) = diffusion::detect(&file)?;
    let text = match text::detect(&file) {
        Ok((_, encoder)) => Some(lora(encoder, clip)),
        // The diffusion model is changed all the same.
        Err(model::Error::OtherKind { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(before.unwrap_or_default().and(&Hooks::new(Some(lora(diffusion, model)), text)))
}

struct CreateHookLora;

inputs! {
    struct CreateHookLoraIn {
        lora_name: FileName = files("loras"),
        strength_model: f64 = float(1.0).range(-20.0, 20.0).step(0.01),
        strength_clip: f64 = float(1.0).range(-20.0, 20.0).step(0.01),
        prev_hooks: Option<Arc<Hooks>> = socket(),
    }
}

impl Node<Services> for CreateHookLora {
    const CARD: Card = card("CreateHookLora", "Create Hook LoRA", "advanced/hooks/create")
        .about("A LoRA for the conditionings that this is put on, and for text encoders.");
    type In = CreateHookLoraIn;
    type Out = (Same<Hooks>,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let strengths = [input.strength_model, input.strength_clip];
        Ok((with_lora(run.host, input.prev_hooks, &input.lora_name, strengths)?,))
    }
}

struct CreateHookLoraModelOnly;

inputs! {
    struct CreateHookLoraModelOnlyIn {
        lora_name: FileName = files("loras"),
        strength_model: f64 = float(1.0).range(-20.0, 20.0).step(0.01),
        prev_hooks: Option<Arc<Hooks>> = socket(),
    }
}

impl Node<Services> for CreateHookLoraModelOnly {
    const CARD: Card = card("CreateHookLoraModelOnly", "Create Hook LoRA (MO)", "advanced/hooks/create")
        .about("A LoRA for the conditionings that this is put on.");
    type In = CreateHookLoraModelOnlyIn;
    type Out = (Same<Hooks>,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((with_lora(run.host, input.prev_hooks, &input.lora_name, [input.strength_model, 0.0])?,))
    }
}

struct CreateHookModelAsLora;

inputs! {
    struct CreateHookModelAsLoraIn {
        ckpt_name: FileName = files("checkpoints"),
        strength_model: f64 = float(1.0).range(-20.0, 20.0).step(0.01),
        strength_clip: f64 = float(1.0).range(-20.0, 20.0).step(0.01),
        prev_hooks: Option<Arc<Hooks>> = socket(),
    }
}

impl Node<Services> for CreateHookModelAsLora {
    const CARD: Card = card("CreateHookModelAsLora", "Create Hook Model as LoRA", "advanced/hooks/create")
        .about(
            "The difference of a checkpoint to a model, as a LoRA for the conditionings that this is put on.",
        );
    type In = CreateHookModelAsLoraIn;
    type Out = (Hooks,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let strengths = [input.strength_model, input.strength_clip];
        Ok((with_checkpoint(run.host, input.prev_hooks, &input.ckpt_name, strengths)?,))
    }
}

struct CreateHookModelAsLoraModelOnly;

inputs! {
    struct CreateHookModelAsLoraModelOnlyIn {
        ckpt_name: FileName = files("checkpoints"),
        strength_model: f64 = float(1.0).range(-20.0, 20.0).step(0.01),
        prev_hooks: Option<Arc<Hooks>> = socket(),
    }
}

impl Node<Services> for CreateHookModelAsLoraModelOnly {
    const CARD: Card =
        card("CreateHookModelAsLoraModelOnly", "Create Hook Model as LoRA (MO)", "advanced/hooks/create")
            .about("The same, for diffusion models alone.");
    type In = CreateHookModelAsLoraModelOnlyIn;
    type Out = (Hooks,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((with_checkpoint(run.host, input.prev_hooks, &input.ckpt_name, [input.strength_model, 0.0])?,))
    }
}

struct SetHookKeyframes;

inputs! {
    struct SetHookKeyframesIn {
        hooks: Arc<Hooks> = socket(),
        hook_kf: Option<Arc<Keyframes>> = socket(),
    }
}

impl Node<Services> for SetHookKeyframes {
    const CARD: Card = card("SetHookKeyframes", "Set Hook Keyframes", "advanced/hooks/scheduling")
        .about("Lets the strength of hooks change over the run.");
    type In = SetHookKeyframesIn;
    type Out = (Same<Hooks>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let Some(keyframes) = input.hook_kf else { return Ok((Same(input.hooks),)) };
        Ok((Same(Arc::new(input.hooks.following(&keyframes))),))
    }
}

/// Further keyframes, at starts from `from` to `until` in equal steps. The run takes one step at the first at least.
fn with_strengths(
    before: Option<&Arc<Keyframes>>,
    strengths: &[f64],
    [from, until]: [f64; 2],
    tell: bool,
) -> Keyframes {
    let mut keyframes = before.map(|before| before.as_ref().clone()).unwrap_or_default();
    for (index, (strength, start)) in
        strengths.iter().zip(line(from as f32, until as f32, strengths.len())).enumerate()
    {
        let start = f64::from(start);
        if tell {
            tracing::info!("Hook Keyframe - start_percent:{start} = {strength}");
        }
        keyframes = keyframes.with(Keyframe { strength: *strength, start, steps: usize::from(index == 0) });
    }
    keyframes
}

/// Numbers in equal steps; the second half is counted from the end, as torch has it.
fn line(from: f32, until: f32, count: usize) -> impl Iterator<Item = f32> {
    let step = (until - from) / count.saturating_sub(1).max(1) as f32;
    let half = if count == 1 { 1 } else { count / 2 };
    (0..count).map(move |index| {
        if index < half { from + step * index as f32 } else { until - step * (count - index - 1) as f32 }
    })
}

struct CreateHookKeyframe;

inputs! {
    struct CreateHookKeyframeIn {
        strength_mult: f64 = float(1.0).range(-20.0, 20.0).step(0.01),
        start_percent: f64 = float(0.0).range(0.0, 1.0).step(0.001),
        prev_hook_kf: Option<Arc<Keyframes>> = socket(),
    }
}

impl Node<Services> for CreateHookKeyframe {
    const CARD: Card = keyframes_card("CreateHookKeyframe", "Create Hook Keyframe")
        .about("From where on in a run hooks count so many times their strength.");
    type In = CreateHookKeyframeIn;
    type Out = (Keyframes,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let before = input.prev_hook_kf.map(|before| before.as_ref().clone()).unwrap_or_default();
        let keyframe = Keyframe { strength: input.strength_mult, start: input.start_percent, steps: 1 };
        Ok((before.with(keyframe),))
    }
}

choices! {
    enum Easing { Linear = "linear", In = "ease_in", Out = "ease_out", InOut = "ease_in_out" }
}

impl Easing {
    /// So many strengths on the way, in single precision as in ComfyUI.
    fn between(self, from: f64, until: f64, count: usize) -> Vec<f64> {
        let (start, way) = (from as f32, (until - from) as f32);
        let eased = |share: f32| match self {
            Self::Linear => share,
            Self::In => share * share,
            Self::Out => 1.0 - (1.0 - share) * (1.0 - share),
            Self::InOut => (1.0 - (share * std::f32::consts::PI).cos()) / 2.0,
        };
        match self {
            Self::Linear => line(start, until as f32, count).map(f64::from).collect(),
            _ => line(0.0, 1.0, count).map(|share| f64::from(way * eased(share) + start)).collect(),
        }
    }
}

struct CreateHookKeyframesInterpolated;

inputs! {
    struct CreateHookKeyframesInterpolatedIn {
        strength_start: f64 = float(1.0).range(0.0, 10.0).step(0.001),
        strength_end: f64 = float(1.0).range(0.0, 10.0).step(0.001),
        interpolation: Easing = choice(),
        start_percent: f64 = float(0.0).range(0.0, 1.0).step(0.001),
        end_percent: f64 = float(1.0).range(0.0, 1.0).step(0.001),
        keyframes_count: usize = int(5).range(2, 100).step(1),
        print_keyframes: bool = boolean(false),
        prev_hook_kf: Option<Arc<Keyframes>> = socket(),
    }
}

impl Node<Services> for CreateHookKeyframesInterpolated {
    const CARD: Card = keyframes_card("CreateHookKeyframesInterpolated", "Create Hook Keyframes Interp.")
        .about("Keyframes that lead from one strength to another.");
    type In = CreateHookKeyframesInterpolatedIn;
    type Out = (Keyframes,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let strengths =
            input.interpolation.between(input.strength_start, input.strength_end, input.keyframes_count);
        let span = [input.start_percent, input.end_percent];
        Ok((with_strengths(input.prev_hook_kf.as_ref(), &strengths, span, input.print_keyframes),))
    }
}

/// One number, or a list of them.
struct Floats(Vec<f64>);

impl Input for Floats {
    fn kind() -> Kind {
        Kind::Link("FLOATS")
    }

    fn read(name: &'static str, arg: Option<&Arg>) -> Result<Self> {
        let numbers = match arg.ok_or(NodeError::Missing { name })? {
            Arg::Literal(serde_json::Value::Array(items)) => {
                items.iter().map(serde_json::Value::as_f64).collect()
            }
            one => f64::read(name, Some(one)).ok().map(|number| vec![number]),
        };
        numbers.map(Self).ok_or(NodeError::WrongType { name, expected: "FLOATS" })
    }
}

struct CreateHookKeyframesFromFloats;

inputs! {
    struct CreateHookKeyframesFromFloatsIn {
        floats_strength: Floats =
            socket().default(-1).with("min", -1).with("step", 0.001).with("forceInput", true),
        start_percent: f64 = float(0.0).range(0.0, 1.0).step(0.001),
        end_percent: f64 = float(1.0).range(0.0, 1.0).step(0.001),
        print_keyframes: bool = boolean(false),
        prev_hook_kf: Option<Arc<Keyframes>> = socket(),
    }
}

impl Node<Services> for CreateHookKeyframesFromFloats {
    const CARD: Card = keyframes_card("CreateHookKeyframesFromFloats", "Create Hook Keyframes From Floats")
        .about("Keyframes of the strengths in a list.");
    type In = CreateHookKeyframesFromFloatsIn;
    type Out = (Keyframes,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (Floats(strengths), span) = (input.floats_strength, [input.start_percent, input.end_percent]);
        Ok((with_strengths(input.prev_hook_kf.as_ref(), &strengths, span, input.print_keyframes),))
    }
}

/// Declares nodes that put hooks together.
macro_rules! combinations {
    ($($node:ident, $inputs:ident, $title:literal: $($field:ident as $word:literal)+;)*) => {$(
        struct $node;

        inputs! {
            struct $inputs {
                $($field as $word: Option<Arc<Hooks>> = socket(),)+
            }
        }

        impl Node<Services> for $node {
            const CARD: Card = card(stringify!($node), $title, "advanced/hooks/combine");
            type In = $inputs;
            type Out = (Hooks,);

            fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
                let given = [$(input.$field),+];
                Ok((given.iter().flatten().fold(Hooks::default(), |all, hooks| all.and(hooks)),))
            }
        }
    )*};
}
combinations! {
    CombineHooks2, CombineHooks2In, "Combine Hooks [2]": a as "hooks_A" b as "hooks_B";
    CombineHooks4, CombineHooks4In, "Combine Hooks [4]":
        a as "hooks_A" b as "hooks_B" c as "hooks_C" d as "hooks_D";
    CombineHooks8, CombineHooks8In, "Combine Hooks [8]":
        a as "hooks_A" b as "hooks_B" c as "hooks_C" d as "hooks_D"
        e as "hooks_E" f as "hooks_F" g as "hooks_G" h as "hooks_H";
}

struct SetClipHooks;

inputs! {
    struct SetClipHooksIn {
        clip: Arc<Clip> = socket(),
        apply_to_conds: bool = boolean(true),
        schedule_clip: bool = boolean(false),
        hooks: Option<Arc<Hooks>> = socket(),
    }
}

impl Node<Services> for SetClipHooks {
    const CARD: Card = card("SetClipHooks", "Set CLIP Hooks", "advanced/hooks/clip")
        .about("Lets hooks change a text encoder, and the diffusion model for the texts that it reads.");
    type In = SetClipHooksIn;
    type Out = (Same<Clip>,);

    /// Hooks that were set before no longer change the encoder.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let Some(hooks) = input.hooks else { return Ok((Same(input.clip),)) };
        let hooks = hooks.as_ref().clone();
        let Clip(encoder, before) = input.clip.as_ref().clone();
        let entries = if input.apply_to_conds { hooks.clone() } else { before.entries };
        let hooks = ClipHooks { encoder: hooks, scheduled: input.schedule_clip, entries };
        Ok((Same(Arc::new(Clip(encoder, hooks))),))
    }
}
