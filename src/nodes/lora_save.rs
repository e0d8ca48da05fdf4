//! The node that makes a LoRA file of what differs between two networks.

use std::sync::Arc;

use super::Services;
use super::model_save::{is_dry, of_clip, of_model, write};
use super::values::Clip;
use crate::graph::{AnyNode, Card, Node, Result, Run, boolean, choice, int, socket, text};
use crate::model::lora::extract::{Form, extract};
use crate::model::saving;
use crate::sampling::Model;
use crate::stop::Stopped;
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&LoraSave];

/// What stands before the names of a diffusion model's modules.
const DIFFUSION: &str = "diffusion_model.";

choices! {
    /// What becomes of a difference.
    enum LoraType {
        Standard = "standard",
        FullDiff = "full_diff",
    }
}

struct LoraSave;

inputs! {
    struct LoraSaveIn {
        filename_prefix: String = text().default("loras/ComfyUI_extracted_lora"),
        rank: usize = int(8).range(1, 4096).step(1),
        lora_type: LoraType = choice(),
        bias_diff: bool = boolean(true),
        model_diff: Option<Arc<Model>> = socket().tooltip("What ModelMergeSubtract gives of two diffusion models."),
        text_encoder_diff: Option<Arc<Clip>> = socket().tooltip("What CLIPMergeSubtract gives of two text encoders."),
    }
}

impl Node<Services> for LoraSave {
    const CARD: Card = Card::new("LoraSave", "Extract and Save Lora", "_for_testing")
        .module("comfy_extras.nodes_lora_extract")
        .output();
    type In = LoraSaveIn;
    type Out = ();

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let form = match input.lora_type {
            LoraType::Standard => Form::Rank(input.rank),
            LoraType::FullDiff => Form::Whole,
        };
        let mut parts = Vec::new();
        if let Some(model) = &input.model_diff {
            parts.push((DIFFUSION, of_model(model, run.host)?));
        }
        if let Some(clip) = &input.text_encoder_diff {
            parts.push((saving::TEXT, of_clip(clip)?));
        }
        if parts.is_empty() || is_dry(run) {
            return Ok(());
        }
        let total = parts.iter().map(|(_, differences)| differences.len() as u32).sum::<u32>();
        let (stop, mut done) = (run.stop(), 0);
        let mut told = || {
            done += 1;
            run.step(done, total).map_err(|_| Stopped)
        };
        let mut tensors = Vec::new();
        for (place, differences) in parts {
            tensors.extend(extract(differences, place, form, input.bias_diff, stop, &mut told)?);
        }
        write(tensors, &input.filename_prefix, None, run)
    }
}
