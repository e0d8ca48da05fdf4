//! The Wan 2.1 autoencoder, which Qwen-Image uses for pictures: a causal video network over planes.
//!
//! Architecture: Wan Team, "Wan: open and advanced large-scale video generative models" (2025).

use std::sync::Arc;

use super::network::names::{Direction, Form, WAN};
use super::network::stack::Stack;
use super::network::{Autoencoder, Design};
use crate::model::{Compute, Result, Vae, latents};
use crate::weights::Weights;

pub struct Family;

static DESIGN: Design = Design { latent: &latents::WAN_2_1, frames: 4, stages };

impl super::Family for Family {
    fn name(&self) -> &'static str {
        "Wan 2.1 / Qwen-Image VAE"
    }

    fn claims(&self, weights: &Weights) -> bool {
        // Wan 2.2 has the first name too, and groups its layers differently.
        weights.has("decoder.middle.0.residual.0.gamma")
            && !weights.has("decoder.upsamples.0.upsamples.0.residual.2.weight")
    }

    fn load(&self, weights: Weights, compute: Compute) -> Result<Arc<dyn Vae>> {
        let form = Form { names: &WAN, time: Some(3) };
        Ok(Arc::new(Autoencoder::load(&DESIGN, form, weights, compute)?))
    }
}

/// All layers are in a row.
fn stages(stack: &mut Stack, half: &Weights, direction: Direction) -> Result<()> {
    let row = half.at(direction.of(WAN.stages));
    for index in 0..row.count("") {
        let place = row.at(index);
        if place.has("resample.1.weight") {
            stack.resize(&place, direction)?;
        } else {
            stack.residual(&place)?;
        }
    }
    Ok(())
}
