//! What travels along MODEL and CONDITIONING links, and how they answer a sampler: predictions of
//! several entries averaged, the sides combined, the result adjusted.

mod change;
mod easy_cache;
mod entry;
mod guidance;
mod guided;

use std::sync::Arc;

use candle_core::Tensor;

use super::Result;
use crate::model::{Diffusion, Flow, LatentFormat};

pub use change::Reuse;
pub(super) use entry::Prompts;
pub use entry::{Area, Controlled, Entry, Rectangle};
pub use guidance::{Guidance, SkippedBlocks};
pub(super) use guided::Guided;

use guidance::Adjustment;

/// A change of what guidance adds to the negative estimate; of the positive one, if there is no other.
pub type Operation = Arc<dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync>;

/// A diffusion network with the settings of model patches. Immutable: a patch makes a new value.
#[derive(Clone)]
pub struct Model {
    network: Arc<dyn Diffusion>,
    flow: Flow,
    /// Applied before guidance, in this order.
    operations: Vec<Operation>,
    /// RescaleCFG's multiplier.
    rescale: Option<f64>,
    /// Applied to each guided estimate, in this order.
    adjustments: Vec<Adjustment>,
    /// The blocks that predictions of the negative side leave out.
    negative_skips: Option<SkippedBlocks>,
    /// DifferentialDiffusion's strength.
    differential: Option<f64>,
    easy_cache: Option<Reuse>,
    lazy_cache: Option<Reuse>,
}

impl Model {
    /// With the schedule the network was trained with.
    pub fn new(network: Arc<dyn Diffusion>) -> Self {
        Self {
            flow: network.flow(),
            network,
            operations: Vec::new(),
            rescale: None,
            adjustments: Vec::new(),
            negative_skips: None,
            differential: None,
            easy_cache: None,
            lazy_cache: None,
        }
    }

    /// Another network, such as this one with a LoRA, under the same settings.
    #[must_use]
    pub fn with_network(self, network: Arc<dyn Diffusion>) -> Self {
        Self { network, ..self }
    }

    #[must_use]
    pub fn with_flow(self, flow: Flow) -> Self {
        Self { flow, ..self }
    }

    /// The positive estimate becomes the negative one and a changed difference to it.
    #[must_use]
    pub fn with_operation(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// CFGNorm: guidance may not lengthen the channel vector of a position.
    #[must_use]
    pub fn with_cfg_norm(self, strength: f64) -> Self {
        self.adjusted(Adjustment::Norm { strength })
    }

    /// CFGZeroStar (Fan et al., 2025): the negative estimate is scaled to its share in the positive one.
    #[must_use]
    pub fn with_cfg_zero_star(self) -> Self {
        self.adjusted(Adjustment::ZeroStar)
    }

    /// Guidance away from what the network predicts without some of its blocks: `scale` times the
    /// difference is added. `rescale` mixes with the deviation of the positive estimate.
    #[must_use]
    pub fn with_skipped_block_guidance(self, skipped: SkippedBlocks, scale: f64, rescale: f64) -> Self {
        self.adjusted(Adjustment::SkippedBlocks { skipped, scale, rescale })
    }

    /// The negative side is predicted without some blocks.
    #[must_use]
    pub fn with_negative_skips(self, skipped: SkippedBlocks) -> Self {
        Self { negative_skips: Some(skipped), ..self }
    }

    fn adjusted(mut self, adjustment: Adjustment) -> Self {
        self.adjustments.push(adjustment);
        self
    }

    /// RescaleCFG: guidance may not raise the contrast; `multiplier` mixes with plain guidance.
    #[must_use]
    pub fn with_rescaled_cfg(self, multiplier: f64) -> Self {
        Self { rescale: Some(multiplier), ..self }
    }

    /// DifferentialDiffusion: a soft mask opens step by step instead of being half open.
    #[must_use]
    pub fn with_differential_masks(self, strength: f64) -> Self {
        Self { differential: Some(strength), ..self }
    }

    /// EasyCache: predictions of the network that would hardly change are used again.
    #[must_use]
    pub fn with_easy_cache(self, settings: Reuse) -> Self {
        Self { easy_cache: Some(settings), ..self }
    }

    /// LazyCache: the same for guided estimates.
    #[must_use]
    pub fn with_lazy_cache(self, settings: Reuse) -> Self {
        Self { lazy_cache: Some(settings), ..self }
    }

    pub(super) fn differential(&self) -> Option<f64> {
        self.differential
    }

    pub fn network(&self) -> &Arc<dyn Diffusion> {
        &self.network
    }

    pub fn flow(&self) -> Flow {
        self.flow
    }

    pub fn latent(&self) -> &'static LatentFormat {
        self.network.latent()
    }
}
