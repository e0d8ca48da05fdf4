//! The gated feed-forward layer of language models, and of the vision tower of Qwen2.5-VL.

use candle_core::{Device, Tensor};

use crate::device::ops::{LaidOut, Numbers, vectorised, zeros};
use crate::model::Result;
use crate::model::estimate::Work;
use crate::model::parts::{Input, Linear, silu, with_slices};
use crate::weights::Weights;

/// `down(silu(gate(x)) * up(x))`.
pub struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
    numbers: Numbers,
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
            numbers: weights.numbers(),
        })
    }

    /// Gate, up and down.
    pub fn layers(&self) -> [&Linear; 3] {
        [&self.gate, &self.up, &self.down]
    }

    /// The width between the layers.
    pub fn inner(&self) -> usize {
        self.gate.outputs()
    }

    pub fn work(&self, rows: usize) -> Work {
        self.layers().into_iter().map(|layer| Work::product(layer, rows)).sum()
    }

    /// `x`: (.., width); the same shape comes out, with `added` on top.
    pub fn forward_onto(&self, added: &Tensor, x: &Tensor) -> Result<Tensor> {
        let (width, inner) = (self.gate.inputs(), self.gate.outputs());
        let rows = x.elem_count() / width;
        let [mut gate, mut middle] = [zeros(rows * inner), zeros(rows * inner)];
        let mut out = zeros(x.elem_count());
        let mut laid_out = LaidOut::default();
        with_slices([added, x], |[added, x]| {
            let x = Input::laid_out(x, width, (self.numbers, false), &mut laid_out);
            self.gate.apply(x, &mut gate, &|_, _, gate| activate(gate));
            self.up.apply(x, &mut middle, &|row, first, up| multiply(&gate[row * inner + first..], up));
            let middle = Input::laid_out(&middle, inner, (self.numbers, false), &mut laid_out);
            self.down.apply(middle, &mut out, &|row, first, down| add(&added[row * width + first..], down));
        })?;
        Ok(Tensor::from_vec(out, x.shape(), &Device::Cpu)?)
    }
}

vectorised! {
    fn activate(values: &mut [f32]) {
        for value in values {
            *value = silu(*value);
        }
    }
}

vectorised! {
    fn multiply(factors: &[f32], values: &mut [f32]) {
        values.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
    }
}

vectorised! {
    fn add(added: &[f32], values: &mut [f32]) {
        values.iter_mut().zip(added).for_each(|(value, added)| *value += added);
    }
}
