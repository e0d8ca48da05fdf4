//! Nodes that change how a model is sampled. None of them touches its weights.

use std::sync::Arc;

use super::{MAX_RESOLUTION, Services};
use crate::graph::{
    AnyNode, Card, Node, NodeError, Result, Run, Same, boolean, choice, float, int, socket, text,
};
use crate::model::{Compute, Flow};
use crate::sampling::{Model, Reuse, SkippedBlocks};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &ModelSamplingAuraFlow,
    &ModelSamplingSD3,
    &ModelSamplingFlux,
    &RescaleCFG,
    &ModelComputeDtype,
    &CFGZeroStar,
    &CFGNorm,
    &DifferentialDiffusion,
    &EasyCache,
    &LazyCache,
    &SkipLayerGuidanceDiT,
    &SkipLayerGuidanceDiTSimple,
    &SkipLayerGuidanceSD3,
    &PerturbedAttentionGuidance,
    &TorchCompileModel,
    &ModelAttentionBackend,
];

struct ModelSamplingAuraFlow;

inputs! {
    struct ModelSamplingAuraFlowIn {
        model: Arc<Model> = socket(),
        shift: f64 = float(1.73).range(0.0, 100.0).step(0.01),
    }
}

impl Node<Services> for ModelSamplingAuraFlow {
    const CARD: Card = Card::new("ModelSamplingAuraFlow", "ModelSamplingAuraFlow", "advanced/model")
        .module("comfy_extras.nodes_model_advanced");
    type In = ModelSamplingAuraFlowIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let flow = Flow::Discrete { shift: input.shift, multiplier: 1.0 };
        Ok((input.model.as_ref().clone().with_flow(flow),))
    }
}

struct ModelSamplingSD3;

inputs! {
    struct ModelSamplingSD3In {
        model: Arc<Model> = socket(),
        shift: f64 = float(3.0).range(0.0, 100.0).step(0.01),
    }
}

impl Node<Services> for ModelSamplingSD3 {
    const CARD: Card = Card::new("ModelSamplingSD3", "ModelSamplingSD3", "advanced/model")
        .module("comfy_extras.nodes_model_advanced");
    type In = ModelSamplingSD3In;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let flow = Flow::Discrete { shift: input.shift, multiplier: 1000.0 };
        Ok((input.model.as_ref().clone().with_flow(flow),))
    }
}

struct ModelSamplingFlux;

inputs! {
    struct ModelSamplingFluxIn {
        model: Arc<Model> = socket(),
        max_shift: f64 = float(1.15).range(0.0, 100.0).step(0.01),
        base_shift: f64 = float(0.5).range(0.0, 100.0).step(0.01),
        width: u32 = int(1024).range(16, MAX_RESOLUTION).step(8),
        height: u32 = int(1024).range(16, MAX_RESOLUTION).step(8),
    }
}

impl Node<Services> for ModelSamplingFlux {
    const CARD: Card = Card::new("ModelSamplingFlux", "ModelSamplingFlux", "advanced/model")
        .module("comfy_extras.nodes_model_advanced");
    type In = ModelSamplingFluxIn;
    type Out = (Model,);

    /// The shift grows with the number of tokens, on the line through the base shift at 256 and the
    /// largest at 4096.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let slope = (input.max_shift - input.base_shift) / (4096.0 - 256.0);
        let tokens = f64::from(input.width) * f64::from(input.height) / 256.0;
        let flow = Flow::Exponential { mu: tokens * slope + input.base_shift - slope * 256.0 };
        Ok((input.model.as_ref().clone().with_flow(flow),))
    }
}

struct CFGNorm;

inputs! {
    struct CFGNormIn {
        model: Arc<Model> = socket(),
        strength: f64 = float(1.0).range(0.0, 100.0).step(0.01),
    }
}

impl Node<Services> for CFGNorm {
    const CARD: Card = Card::new("CFGNorm", "", "advanced/guidance")
        .module("comfy_extras.nodes_cfg")
        .outputs(&["patched_model"])
        .experimental()
        .schema();
    type In = CFGNormIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.model.as_ref().clone().with_cfg_norm(input.strength),))
    }
}

struct CFGZeroStar;

inputs! {
    struct CFGZeroStarIn {
        model: Arc<Model> = socket(),
    }
}

impl Node<Services> for CFGZeroStar {
    const CARD: Card = Card::new("CFGZeroStar", "", "advanced/guidance")
        .module("comfy_extras.nodes_cfg")
        .outputs(&["patched_model"])
        .schema();
    type In = CFGZeroStarIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.model.as_ref().clone().with_cfg_zero_star(),))
    }
}

struct RescaleCFG;

inputs! {
    struct RescaleCFGIn {
        model: Arc<Model> = socket(),
        multiplier: f64 = float(0.7).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for RescaleCFG {
    const CARD: Card =
        Card::new("RescaleCFG", "RescaleCFG", "advanced/model").module("comfy_extras.nodes_model_advanced");
    type In = RescaleCFGIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.model.as_ref().clone().with_rescaled_cfg(input.multiplier),))
    }
}

choices! {
    enum ComputeDtype { Default = "default", Fp32 = "fp32", Fp16 = "fp16", Bf16 = "bf16" }
}

struct ModelComputeDtype;

inputs! {
    struct ModelComputeDtypeIn {
        model: Arc<Model> = socket(),
        dtype: ComputeDtype = choice(),
    }
}

impl Node<Services> for ModelComputeDtype {
    const CARD: Card = Card::new("ModelComputeDtype", "ModelComputeDtype", "advanced/debug/model")
        .module("comfy_extras.nodes_model_advanced");
    type In = ModelComputeDtypeIn;
    type Out = (Same<Model>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let compute = match input.dtype {
            ComputeDtype::Default => return Ok((Same(input.model),)),
            ComputeDtype::Fp32 => Compute::F32,
            ComputeDtype::Bf16 => Compute::Bf16,
            ComputeDtype::Fp16 => {
                return Err(NodeError::Refused(
                    "this model does not compute in fp16, whose range is too small for it; choose bf16 or \
                     fp32"
                        .to_owned(),
                ));
            }
        };
        let network = input.model.network().computing_in(compute)?;
        Ok((Same(Arc::new(input.model.as_ref().clone().with_network(network))),))
    }
}

struct DifferentialDiffusion;

inputs! {
    struct DifferentialDiffusionIn {
        model: Arc<Model> = socket(),
        strength: Option<f64> = float(1.0).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for DifferentialDiffusion {
    const CARD: Card = Card::new("DifferentialDiffusion", "Differential Diffusion", "_for_testing")
        .module("comfy_extras.nodes_differential_diffusion")
        .experimental()
        .schema();
    type In = DifferentialDiffusionIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.model.as_ref().clone().with_differential_masks(input.strength.unwrap_or(1.0)),))
    }
}

inputs! {
    struct ReuseIn {
        model: Arc<Model> = socket().tooltip("The model whose results are used again."),
        reuse_threshold: f64 = float(0.2).range(0.0, 3.0).step(0.01)
            .tooltip("How much a result may have changed to be used again."),
        start_percent: f64 = float(0.15).range(0.0, 1.0).step(0.01)
            .tooltip("The part of the run at which to begin."),
        end_percent: f64 = float(0.95).range(0.0, 1.0).step(0.01)
            .tooltip("The part of the run at which to end."),
        verbose: bool = boolean(false).tooltip("Asks for a line in the log for each decision."),
    }
}

impl ReuseIn {
    fn settings(&self) -> Reuse {
        if self.verbose {
            tracing::info!(
                "predictions are used again while they change by less than {}",
                self.reuse_threshold
            );
        }
        Reuse { threshold: self.reuse_threshold, start: self.start_percent, end: self.end_percent }
    }
}

struct EasyCache;

impl Node<Services> for EasyCache {
    const CARD: Card = Card::new("EasyCache", "EasyCache", "advanced/debug/model")
        .about("Spares calls of the network whose result would hardly differ from the last one.")
        .module("comfy_extras.nodes_easycache")
        .experimental()
        .schema();
    type In = ReuseIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.model.as_ref().clone().with_easy_cache(input.settings()),))
    }
}

struct LazyCache;

impl Node<Services> for LazyCache {
    const CARD: Card = Card::new("LazyCache", "LazyCache", "advanced/debug/model")
        .about("As EasyCache, but around the whole guided prediction.")
        .module("comfy_extras.nodes_easycache")
        .experimental()
        .schema();
    type In = ReuseIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((input.model.as_ref().clone().with_lazy_cache(input.settings()),))
    }
}

/// The numbers in a text, whatever stands between them.
fn numbers(text: &str) -> Vec<usize> {
    text.split(|letter: char| !letter.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The blocks to skip in a part of the run; `None` where neither text names any. Networks of one stream beside their
/// two would heed `single`; those here have none.
fn skipped(model: &Model, double: &str, single: &str, percents: [f64; 2]) -> Option<SkippedBlocks> {
    let blocks = numbers(double);
    // As in ComfyUI, a shift that comes later does not move them.
    let span = percents.map(|percent| model.flow().at_percent(percent));
    (!blocks.is_empty() || !numbers(single).is_empty()).then_some(SkippedBlocks { blocks, span })
}

struct SkipLayerGuidanceDiT;

inputs! {
    struct SkipLayerGuidanceDiTIn {
        model: Arc<Model> = socket(),
        double_layers: String = text().default("7, 8, 9").with("multiline", false),
        single_layers: String = text().default("7, 8, 9").with("multiline", false),
        scale: f64 = float(3.0).range(0.0, 10.0).step(0.1),
        start_percent: f64 = float(0.01).range(0.0, 1.0).step(0.001),
        end_percent: f64 = float(0.15).range(0.0, 1.0).step(0.001),
        rescaling_scale: f64 = float(0.0).range(0.0, 10.0).step(0.01),
    }
}

impl Node<Services> for SkipLayerGuidanceDiT {
    const CARD: Card = Card::new("SkipLayerGuidanceDiT", "", "advanced/guidance")
        .about("Guides away from what the model predicts without some of its blocks.")
        .module("comfy_extras.nodes_slg")
        .experimental()
        .schema();
    type In = SkipLayerGuidanceDiTIn;
    type Out = (Same<Model>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let percents = [input.start_percent, input.end_percent];
        let skipped = skipped(&input.model, &input.double_layers, &input.single_layers, percents);
        let Some(skipped) = skipped else { return Ok((Same(input.model),)) };
        let model = input.model.as_ref().clone();
        let guided = model.with_skipped_block_guidance(skipped, input.scale, input.rescaling_scale);
        Ok((Same(Arc::new(guided)),))
    }
}

struct SkipLayerGuidanceDiTSimple;

inputs! {
    struct SkipLayerGuidanceDiTSimpleIn {
        model: Arc<Model> = socket(),
        double_layers: String = text().default("7, 8, 9").with("multiline", false),
        single_layers: String = text().default("7, 8, 9").with("multiline", false),
        start_percent: f64 = float(0.0).range(0.0, 1.0).step(0.001),
        end_percent: f64 = float(1.0).range(0.0, 1.0).step(0.001),
    }
}

impl Node<Services> for SkipLayerGuidanceDiTSimple {
    const CARD: Card = Card::new("SkipLayerGuidanceDiTSimple", "", "advanced/guidance")
        .about("Predicts the negative side without some blocks of the model.")
        .module("comfy_extras.nodes_slg")
        .experimental()
        .schema();
    type In = SkipLayerGuidanceDiTSimpleIn;
    type Out = (Same<Model>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let percents = [input.start_percent, input.end_percent];
        let skipped = skipped(&input.model, &input.double_layers, &input.single_layers, percents);
        let Some(skipped) = skipped else { return Ok((Same(input.model),)) };
        Ok((Same(Arc::new(input.model.as_ref().clone().with_negative_skips(skipped))),))
    }
}

struct SkipLayerGuidanceSD3;

inputs! {
    struct SkipLayerGuidanceSD3In {
        model: Arc<Model> = socket(),
        layers: String = text().default("7, 8, 9").with("multiline", false),
        scale: f64 = float(3.0).range(0.0, 10.0).step(0.1),
        start_percent: f64 = float(0.01).range(0.0, 1.0).step(0.001),
        end_percent: f64 = float(0.15).range(0.0, 1.0).step(0.001),
    }
}

impl Node<Services> for SkipLayerGuidanceSD3 {
    const CARD: Card = Card::new("SkipLayerGuidanceSD3", "", "advanced/guidance")
        .about("Guides away from what the model predicts without some of its blocks.")
        .module("comfy_extras.nodes_sd3")
        .experimental()
        .schema();
    type In = SkipLayerGuidanceSD3In;
    type Out = (Same<Model>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let percents = [input.start_percent, input.end_percent];
        let Some(skipped) = skipped(&input.model, &input.layers, "", percents) else {
            return Ok((Same(input.model),));
        };
        let model = input.model.as_ref().clone();
        Ok((Same(Arc::new(model.with_skipped_block_guidance(skipped, input.scale, 0.0))),))
    }
}

struct PerturbedAttentionGuidance;

inputs! {
    #[expect(dead_code, reason = "the scale of a difference that is always 0")]
    struct PerturbedAttentionGuidanceIn {
        model: Arc<Model> = socket(),
        scale: f64 = float(3.0).range(0.0, 100.0).step(0.01).round(0.01),
    }
}

impl Node<Services> for PerturbedAttentionGuidance {
    const CARD: Card = Card::new("PerturbedAttentionGuidance", "", "model_patches/unet")
        .module("comfy_extras.nodes_pag")
        .schema();
    type In = PerturbedAttentionGuidanceIn;
    type Out = (Same<Model>,);

    /// What is perturbed is the middle block of a U-Net. Transformers have none: ComfyUI asks them a
    /// second time, gets the same prediction, and adds the difference, which is 0.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Same(input.model),))
    }
}

choices! {
    enum CompileBackend { Inductor = "inductor", CudaGraphs = "cudagraphs" }
}

struct TorchCompileModel;

inputs! {
    #[expect(dead_code, reason = "the network is compiled already")]
    struct TorchCompileModelIn {
        model: Arc<Model> = socket(),
        backend: CompileBackend = choice().with("multiselect", false),
    }
}

impl Node<Services> for TorchCompileModel {
    const CARD: Card = Card::new("TorchCompileModel", "", "_for_testing")
        .about("Compiling changes nothing in the pictures; here the model is compiled already.")
        .module("comfy_extras.nodes_torch_compile")
        .experimental()
        .schema();
    type In = TorchCompileModelIn;
    type Out = (Same<Model>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Same(input.model),))
    }
}

choices! {
    enum AttentionBackend { PyTorch = "pytorch attention", Kitchen = "comfy kitchen attention" }
}

/// It came after ComfyUI 0.3.64.
struct ModelAttentionBackend;

inputs! {
    #[expect(dead_code, reason = "there is one attention")]
    struct ModelAttentionBackendIn {
        model: Arc<Model> = socket(),
        attention: AttentionBackend = choice().default("pytorch attention").with("multiselect", false),
    }
}

impl Node<Services> for ModelAttentionBackend {
    const CARD: Card = Card::new("ModelAttentionBackend", "Model Attention Backend", "advanced/model")
        .about("Passes the model on: the server has one way to compute attention, whichever is chosen here.")
        .module("comfy_extras.nodes_attention")
        .schema();
    type In = ModelAttentionBackendIn;
    type Out = (Same<Model>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        Ok((Same(input.model),))
    }
}
