//! Real-ESRGAN's small networks: convolutions at the size of the picture, and squares of channels at the end
//! (SRVGGNetCompact).

use rayon::prelude::*;

use super::Upscaler;
use crate::model::Result;
use crate::model::planes::{Conv, Planes};
use crate::stop::Stop;
use crate::weights::Weights;

pub fn claims(weights: &Weights) -> bool {
    let is = |name: &str, axes: usize| weights.shape(name).is_some_and(|shape| shape.len() == axes);
    is("body.0.weight", 4) && is("body.1.weight", 1)
}

pub struct Compact {
    /// Each with the slopes of its channels below zero.
    convs: Vec<(Conv, Vec<f32>)>,
    last: Conv,
    factor: usize,
}

impl Compact {
    pub fn load(weights: Weights) -> Result<Self> {
        weights.build(|weights| {
            let body = weights.at("body");
            let (count, width) = (weights.count("body") / 2, weights.side("body.0.weight", 0)?);
            let conv = |number: usize| {
                let conv = Conv::load(&body.at(2 * number), [if number == 0 { 3 } else { width }, width], 3)?;
                Ok((conv, body.at(2 * number + 1).stored("weight", &[width])?.to_vec()))
            };
            let outputs = weights.side(&format!("body.{}.weight", 2 * count), 0)?;
            Ok(Self {
                convs: (0..count).map(conv).collect::<Result<_>>()?,
                last: Conv::load(&body.at(2 * count), [width, outputs], 3)?,
                factor: (outputs / 3).isqrt().max(1),
            })
        })
    }
}

impl Upscaler for Compact {
    fn factor(&self) -> usize {
        self.factor
    }

    fn enlarge(&self, picture: &Planes, stop: &Stop) -> Result<Planes> {
        let mut x = picture.clone();
        for (conv, slopes) in &self.convs {
            stop.check()?;
            x = conv.forward(&x);
            let cells = x.cells();
            x.values.par_chunks_mut(cells).zip(slopes).for_each(|(plane, slope)| {
                for value in plane {
                    *value = value.max(0.0) + slope * value.min(0.0);
                }
            });
        }
        let mut larger = self.last.forward(&x).shuffled(self.factor);
        larger.add(&picture.repeated(self.factor).values, 1.0);
        Ok(larger)
    }
}
