//! The gated feed-forward layer of both halves of the encoder.

use candle_core::Tensor;

use crate::model::Result;
use crate::model::estimate::Work;
use crate::model::parts::{Linear, silu};
use crate::weights::Weights;

/// `down(silu(gate(x)) * up(x))`.
pub struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Mlp {
    /// Reads `gate_proj`, `up_proj` and `down_proj` at `weights`, with biases or without.
    pub fn load(weights: &Weights, width: usize, biased: bool) -> Result<Self> {
        let inner = weights.side("gate_proj.weight", 0)?;
        let linear = |name: &str, inputs, outputs| {
            let load = if biased { Linear::load } else { Linear::without_bias };
            load(&weights.at(name), inputs, outputs)
        };
        Ok(Self {
            gate: linear("gate_proj", width, inner)?,
            up: linear("up_proj", width, inner)?,
            down: linear("down_proj", inner, width)?,
        })
    }

    /// The width between the layers.
    pub fn inner(&self) -> usize {
        self.gate.outputs()
    }

    pub fn work(&self, rows: usize) -> Work {
        [&self.gate, &self.up, &self.down].into_iter().map(|layer| Work::product(layer, rows)).sum()
    }

    /// `x`: (.., width); the same shape comes out.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&(silu(&self.gate.forward(x)?)? * self.up.forward(x)?)?)
    }
}
