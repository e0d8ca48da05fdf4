//! What travels along MODEL and CONDITIONING links, and how they answer a sampler: predictions of
//! several entries averaged, the sides combined, the result adjusted.

mod change;
mod easy_cache;
mod entry;
mod guidance;
mod guided;
mod hooked;
mod preparation;
mod windows;

use std::sync::Arc;

use crate::model::{Diffusion, Flow, LatentFormat};

pub use change::Reuse;
pub(super) use entry::Prompts;
pub use entry::{Area, Controlled, Entry, Rectangle};
pub use guidance::{Guidance, SkippedBlocks};
pub(super) use guided::Guided;
pub use preparation::{Frequencies, Operation, Projection};
pub use windows::{Blend, Order, Windows};

use guidance::{Adjustment, Combination};
use preparation::Preparation;

/// A diffusion network with the settings of model patches. Immutable: a patch makes a new value.
#[derive(Clone)]
pub struct Model {
    network: Arc<dyn Diffusion>,
    flow: Flow,
    /// Applied before guidance, in this order.
    preparations: Vec<Preparation>,
    combination: Combination,
    /// Applied to each guided estimate, in this order.
    adjustments: Vec<Adjustment>,
    /// The blocks that predictions of the negative side leave out.
    negative_skips: Option<SkippedBlocks>,
    /// DifferentialDiffusion's strength.
    differential: Option<f64>,
    easy_cache: Option<Reuse>,
    lazy_cache: Option<Reuse>,
    windows: Option<Windows>,
    /// Strengths of guidance in parts of the run, 0 to 1 from noise to picture; the last one that holds counts.
    cfgs: Vec<(f64, [f64; 2])>,
}

impl Model {
    /// With the schedule the network was trained with.
    pub fn new(network: Arc<dyn Diffusion>) -> Self {
        Self {
            flow: network.flow(),
            network,
            preparations: Vec::new(),
            combination: Combination::default(),
            adjustments: Vec::new(),
            negative_skips: None,
            differential: None,
            easy_cache: None,
            lazy_cache: None,
            windows: None,
            cfgs: Vec::new(),
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
    pub fn with_operation(self, operation: Operation) -> Self {
        self.prepared(Preparation::Difference(operation))
    }

    /// TCFG: the negative side loses what the positive one has no part in.
    #[must_use]
    pub fn with_tangential_damping(self) -> Self {
        self.prepared(Preparation::Tangential)
    }

    /// APG: guidance is limited and turned.
    #[must_use]
    pub fn with_projected_guidance(self, projection: Projection) -> Self {
        self.prepared(Preparation::Projected(projection))
    }

    /// FreSca: guidance counts differently in coarse and in fine.
    #[must_use]
    pub fn with_weighed_frequencies(self, frequencies: Frequencies) -> Self {
        self.prepared(Preparation::Frequencies(frequencies))
    }

    fn prepared(mut self, preparation: Preparation) -> Self {
        self.preparations.push(preparation);
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

    /// The guided estimate is turned towards the positive one.
    #[must_use]
    pub fn with_mahiro(self) -> Self {
        self.adjusted(Adjustment::Mahiro)
    }

    /// Epsilon Scaling: the noise that is seen is divided by `factor`.
    #[must_use]
    pub fn with_scaled_noise(self, factor: f64) -> Self {
        self.adjusted(Adjustment::Noise { factor })
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
        Self { combination: Combination::Rescaled(multiplier), ..self }
    }

    /// RenormCFG: guidance only below a sigma, and no longer than `limit` times the positive estimate; 0 is no limit.
    #[must_use]
    pub fn with_renormed_cfg(self, below: f64, limit: f64) -> Self {
        Self { combination: Combination::Renormed { below, limit }, ..self }
    }

    /// The old PerpNeg: as [`Guidance::Perpendicular`], with the negative side of the run.
    #[must_use]
    pub fn with_perpendicular_negative(self, empty: Arc<[Entry]>, scale: f64) -> Self {
        Self { combination: Combination::Perpendicular { empty, scale }, ..self }
    }

    /// CFGOverride: another strength of guidance in a part of the run.
    #[must_use]
    pub fn with_cfg_in(mut self, cfg: f64, span: [f64; 2]) -> Self {
        self.cfgs.push((cfg, span));
        self
    }

    /// The strength of guidance at a sigma, where patches say it.
    fn cfg_at(&self, sigma: f64) -> Option<f64> {
        let holds = |[start, end]: [f64; 2]| {
            self.flow.at_percent(end) <= sigma && sigma <= self.flow.at_percent(start)
        };
        self.cfgs.iter().rev().find(|(_, span)| holds(*span)).map(|(cfg, _)| *cfg)
    }

    /// Latents that are longer than a window are predicted in several.
    #[must_use]
    pub fn with_windows(self, windows: Windows) -> Self {
        Self { windows: Some(windows), ..self }
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
