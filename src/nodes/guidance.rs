//! Nodes that change how the positive and the negative side become one estimate.

use std::sync::Arc;

use super::Services;
use super::values::Conditioning;
use crate::graph::{AnyNode, Card, Node, Result, Run, float, int, socket};
use crate::inputs;
use crate::sampling::{Frequencies, Model, Projection};

pub const NODES: &[&dyn AnyNode<Services>] =
    &[&TCFG, &APG, &FreSca, &RenormCFG, &Mahiro, &EpsilonScaling, &PerpNeg, &CFGOverride];

#[expect(clippy::upper_case_acronyms, reason = "its name in ComfyUI")]
struct TCFG;

inputs! {
    struct TCFGIn {
        model: Arc<Model> = socket(),
    }
}

impl Node<Services> for TCFG {
    const CARD: Card = Card::new("TCFG", "Tangential Damping CFG", "advanced/guidance")
        .about("Takes from the negative side what lies across the positive one (Kwon et al., 2025).")
        .module("comfy_extras.nodes_tcfg")
        .outputs(&["patched_model"])
        .schema();
    type In = TCFGIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.model.as_ref().clone().with_tangential_damping(),))
    }
}

#[expect(clippy::upper_case_acronyms, reason = "its name in ComfyUI")]
struct APG;

inputs! {
    struct APGIn {
        model: Arc<Model> = socket(),
        eta: f64 = float(1.0).range(-10.0, 10.0).step(0.01)
            .tooltip("How much counts of guidance along the positive estimate; 1 is plain guidance."),
        norm_threshold: f64 = float(5.0).range(0.0, 50.0).step(0.1)
            .tooltip("The longest that guidance may be; 0 is no limit."),
        momentum: f64 = float(0.0).range(-5.0, 1.0).step(0.01)
            .tooltip("How much counts of the guidance of former steps."),
    }
}

impl Node<Services> for APG {
    const CARD: Card = Card::new("APG", "Adaptive Projected Guidance", "sampling/custom_sampling")
        .about("Limits guidance and turns it (Sadat et al., 2024).")
        .module("comfy_extras.nodes_apg")
        .schema();
    type In = APGIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let projection =
            Projection { eta: input.eta, longest: input.norm_threshold, momentum: input.momentum };
        Ok((input.model.as_ref().clone().with_projected_guidance(projection),))
    }
}

struct FreSca;

inputs! {
    struct FreScaIn {
        model: Arc<Model> = socket(),
        scale_low: f64 = float(1.0).range(0.0, 10.0).step(0.01).tooltip("Factor of what is coarse."),
        scale_high: f64 = float(1.25).range(0.0, 10.0).step(0.01).tooltip("Factor of what is fine."),
        freq_cutoff: usize = int(20).range(1, 10000).step(1)
            .tooltip("Waves over the latent's side up to which something is coarse."),
    }
}

impl Node<Services> for FreSca {
    const CARD: Card = Card::new("FreSca", "FreSca", "_for_testing")
        .about("Guides differently in coarse and in fine (Huang et al., 2025).")
        .module("comfy_extras.nodes_fresca")
        .experimental()
        .schema();
    type In = FreScaIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let frequencies =
            Frequencies { low: input.scale_low, high: input.scale_high, cutoff: input.freq_cutoff };
        Ok((input.model.as_ref().clone().with_weighed_frequencies(frequencies),))
    }
}

struct RenormCFG;

inputs! {
    struct RenormCFGIn {
        model: Arc<Model> = socket(),
        cfg_trunc: f64 = float(100.0).range(0.0, 100.0).step(0.01),
        renorm_cfg: f64 = float(1.0).range(0.0, 100.0).step(0.01),
    }
}

impl Node<Services> for RenormCFG {
    const CARD: Card =
        Card::new("RenormCFG", "", "advanced/model").module("comfy_extras.nodes_lumina2").schema();
    type In = RenormCFGIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.model.as_ref().clone().with_renormed_cfg(input.cfg_trunc, input.renorm_cfg),))
    }
}

struct Mahiro;

inputs! {
    struct MahiroIn {
        model: Arc<Model> = socket(),
    }
}

impl Node<Services> for Mahiro {
    const CARD: Card = Card::new(
        "Mahiro",
        "Mahiro is so cute that she deserves a better guidance function!! (。・ω・。)",
        "_for_testing",
    )
    .about("Follows where the positive prompt points more than how far it is from the negative one.")
    .module("comfy_extras.nodes_mahiro")
    .outputs(&["patched_model"])
    .experimental()
    .schema();
    type In = MahiroIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.model.as_ref().clone().with_mahiro(),))
    }
}

struct EpsilonScaling;

inputs! {
    struct EpsilonScalingIn {
        model: Arc<Model> = socket(),
        scaling_factor: f64 = float(1.005).range(0.5, 1.5).step(0.001).with("display", "number"),
    }
}

impl Node<Services> for EpsilonScaling {
    const CARD: Card = Card::new("Epsilon Scaling", "", "model_patches/unet")
        .about("Scales the noise that the model sees, of which it sees too much (Ning et al., 2023).")
        .module("comfy_extras.nodes_eps")
        .schema();
    type In = EpsilonScalingIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.model.as_ref().clone().with_scaled_noise(input.scaling_factor),))
    }
}

struct PerpNeg;

inputs! {
    struct PerpNegIn {
        model: Arc<Model> = socket(),
        empty_conditioning: Arc<Conditioning> = socket(),
        neg_scale: f64 = float(1.0).range(0.0, 100.0).step(0.01),
    }
}

impl Node<Services> for PerpNeg {
    const CARD: Card = Card::new("PerpNeg", "Perp-Neg (DEPRECATED by PerpNegGuider)", "_for_testing")
        .about(
            "Away from what of the negative side is no part of the positive one (Armandpour et al., 2023).",
        )
        .module("comfy_extras.nodes_perpneg")
        .deprecated()
        .experimental()
        .schema();
    type In = PerpNegIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let empty = input.empty_conditioning.0.clone().into();
        Ok((input.model.as_ref().clone().with_perpendicular_negative(empty, input.neg_scale),))
    }
}

/// It came after ComfyUI 0.3.64.
struct CFGOverride;

inputs! {
    struct CFGOverrideIn {
        model: Arc<Model> = socket(),
        cfg: f64 = float(1.0).range(0.0, 100.0).step(0.1),
        start_percent: f64 = float(0.0).range(0.0, 1.0).step(0.001),
        end_percent: f64 = float(1.0).range(0.0, 1.0).step(0.001),
    }
}

impl Node<Services> for CFGOverride {
    const CARD: Card = Card::new("CFGOverride", "CFG Override", "sampling/guidance")
        .about("Sets the strength of guidance in a part of the run; of several, the one nearest the sampler counts.")
        .module("comfy_extras.nodes_cfg")
        .schema();
    type In = CFGOverrideIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let span = [input.start_percent, input.end_percent];
        Ok((input.model.as_ref().clone().with_cfg_in(input.cfg, span),))
    }
}
