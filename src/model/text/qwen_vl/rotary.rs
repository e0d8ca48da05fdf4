//! The rotary embedding both halves of the encoders use: pairs are the first and second half of a head.

use candle_core::{Device, Tensor};

use crate::model::Result;

/// `theta^(-2j / width)` for each pair j of `width`; `f32` all the way, as the networks were trained.
pub fn frequencies(theta: f32, width: usize) -> Vec<f32> {
    (0..width / 2).map(|pair| 1.0 / theta.powf((2 * pair) as f32 / width as f32)).collect()
}

/// One rotation per row and pair.
pub struct Rotary {
    /// (rows, pairs)
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// `angles`: row by row, `pairs` to a row.
    pub fn new(angles: &[f32], pairs: usize, device: &Device) -> Result<Self> {
        let table = |value: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|angle| value(*angle)).collect();
            Tensor::from_vec(values, (angles.len() / pairs, pairs), device)
        };
        Ok(Self { cos: table(f32::cos)?, sin: table(f32::sin)? })
    }

    /// Cosines and sines, row by row.
    pub fn tables(&self) -> Result<[Vec<f32>; 2]> {
        let values = |table: &Tensor| table.flatten_all()?.to_vec1::<f32>();
        Ok([values(&self.cos)?, values(&self.sin)?])
    }

    /// Rotates `x`, (1, rows, heads, 2 * pairs).
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(candle_nn::rotary_emb::rope_thd(&x.contiguous()?, &self.cos, &self.sin)?)
    }
}
