//! The autoencoder of Qwen-Image 2.1: the network of Wan 2.2 for pictures alone, of four colours.
//!
//! Its kernels see one frame, and what is left of time in its shortcuts is an empty frame before each picture. There
//! are files with the names of diffusers, whose kernels have no side for time, and ComfyUI's with those of Wan.

use std::sync::Arc;

use super::network::names::{DIFFUSERS, Direction, Form, Names, WAN};
use super::network::shortcut::Shortcut;
use super::network::stack::Stack;
use super::network::{Autoencoder, Design};
use crate::model::{Compute, Error, Result, Vae, latents};
use crate::weights::Weights;

pub struct Family;

static DESIGN: Design = Design { latent: &latents::QWEN_IMAGE_2_1, frames: 1, stages };

impl super::Family for Family {
    fn name(&self) -> &'static str {
        "Qwen-Image 2.1 VAE"
    }

    fn claims(&self, weights: &Weights) -> bool {
        form(weights).is_some()
    }

    fn load(&self, weights: Weights, compute: Compute) -> Result<Arc<dyn Vae>> {
        // What nobody claims is refused for the names that it lacks.
        let form = form(&weights).unwrap_or(Form { names: &DIFFUSERS, time: None });
        Ok(Arc::new(Autoencoder::load(&DESIGN, form, weights, compute)?))
    }
}

/// What a file of this network is like. Wan 2.2's has the same names; its kernels see more frames, and its latents have
/// other channels.
fn form(weights: &Weights) -> Option<Form> {
    [&WAN, &DIFFUSERS].into_iter().find_map(|names| {
        let decoder = weights.at("decoder");
        let block = decoder.at(names.stages[1]).at(0).at(names.blocks[1]).at(0);
        let is_staged = block.at(names.norms[0]).has("gamma");
        let latents = weights.at(names.points[1]);
        let fits =
            latents.shape("weight").is_some_and(|shape| shape.first() == Some(&DESIGN.latent.channels));
        let time = match decoder.at(names.head[1]).shape("weight")? {
            [_, _, 3, 3] => None,
            [_, _, 1, 3, 3] => Some(1),
            _ => return None,
        };
        (is_staged && fits).then_some(Form { names, time })
    })
}

fn stages(stack: &mut Stack, half: &Weights, direction: Direction) -> Result<()> {
    stack.end_stage(None);
    let all = half.at(direction.of(stack.form.names.stages));
    (0..all.count("")).try_for_each(|index| stage(stack, &all.at(index), direction))
}

/// Residual blocks, and for all stages but the last of a half what resizes; and the way around all of them.
fn stage(stack: &mut Stack, weights: &Weights, direction: Direction) -> Result<()> {
    let (inputs, mut resized) = (stack.channels, None);
    for place in places(stack.form.names, weights, direction) {
        if place.has("resample.1.weight") {
            stack.resize(&place, direction)?;
            // It sees nothing of a picture, and is kept for whoever saves the network.
            let time = ["weight", "bias"].map(|name| place.at("time_conv").is_marked(name));
            resized = Some(1 + usize::from(time[0]));
        } else {
            stack.residual(&place)?;
        }
    }
    let channels = [inputs, stack.channels];
    let shortcut = match (direction, resized) {
        (Direction::Up, None) => None,
        (_, resized) => {
            let (side, frames) = resized.map_or((1, 1), |frames| (2, frames));
            let shortcut = Shortcut::new(direction, channels, side, frames);
            let uneven = || {
                let (file, place) = (weights.file().name(), weights.full_name(""));
                Error::Uneven { file, place, channels }
            };
            Some(shortcut.ok_or_else(uneven)?)
        }
    };
    stack.end_stage(shortcut);
    Ok(())
}

/// Where the parts of a stage are.
fn places(names: &Names, weights: &Weights, direction: Direction) -> Vec<Weights> {
    let blocks = weights.at(direction.of(names.blocks));
    let numbered = (0..blocks.count("")).map(|index| blocks.at(index));
    let resizer = names.resizers.map(|resizers| weights.at(direction.of(resizers)));
    numbered.chain(resizer.filter(|place| place.has("resample.1.weight"))).collect()
}
