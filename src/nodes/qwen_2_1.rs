//! Qwen-Image 2.1's own nodes. They came after ComfyUI 0.3.64.

use std::sync::Arc;

use super::Services;
use crate::graph::{AnyNode, Card, Node, Result, Run, Same, choice, socket};
use crate::model::{Precision, Prefix};
use crate::sampling::Model;
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&QwenImage21Cache];

choices! {
    enum CacheDevice { Auto = "auto", Gpu = "gpu", Cpu = "cpu", Off = "off" }
}

choices! {
    enum CacheDtype { Default = "default", Int8 = "int8", Int4 = "int4" }
}

impl From<CacheDtype> for Precision {
    fn from(dtype: CacheDtype) -> Self {
        match dtype {
            CacheDtype::Default => Self::Whole,
            CacheDtype::Int8 => Self::Int8,
            CacheDtype::Int4 => Self::Int4,
        }
    }
}

struct QwenImage21Cache;

inputs! {
    struct QwenImage21CacheIn {
        model: Arc<Model> = socket(),
        device: CacheDevice = choice().with("multiselect", false)
            .tooltip("`off` computes text and references anew in each step. All others keep them in main memory, \
                      since the processor computes this model."),
        dtype: CacheDtype = choice().with("multiselect", false)
            .tooltip("What is kept takes half as much memory in int8 as in bf16, a quarter in int4, and is less exact."),
    }
}

impl Node<Services> for QwenImage21Cache {
    const CARD: Card = Card::new("QwenImage21Cache", "", "advanced/model")
        .about("How Qwen-Image 2.1 keeps what it computes of text and references from one step to the next. Other models \
                pass unchanged.")
        .module("comfy_extras.nodes_qwen")
        .experimental()
        .schema();
    type In = QwenImage21CacheIn;
    type Out = (Same<Model>,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let prefix = match input.device {
            CacheDevice::Off => Prefix::Recomputed,
            CacheDevice::Auto | CacheDevice::Gpu | CacheDevice::Cpu => Prefix::Kept(input.dtype.into()),
        };
        let changed = input.model.network().keeping(prefix)?;
        Ok((Same(changed.map_or_else(
            || input.model.clone(),
            |network| Arc::new(input.model.as_ref().clone().with_network(network)),
        )),))
    }
}
