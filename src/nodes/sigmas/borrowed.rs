//! Schedules that were made for other models, as far as their numbers are noise levels of a flow.

use std::sync::Arc;

use crate::graph::{AnyNode, Card, Node, Result, Run, boolean, choice, float, int, socket};
use crate::nodes::Services;
use crate::nodes::values::{Latent, Sigmas};
use crate::sampling::schedule;
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&OptimalStepsScheduler, &LTXVScheduler];

choices! {
    enum ModelType { Flux = "FLUX", Wan = "Wan", Chroma = "Chroma" }
}

impl ModelType {
    /// The levels that Pei et al. (2025) found to lose least, and those added for Chroma.
    fn levels(self) -> &'static [f64] {
        match self {
            Self::Flux => {
                &[0.9968, 0.9886, 0.9819, 0.975, 0.966, 0.9471, 0.9158, 0.8287, 0.5512, 0.2808, 0.001]
            }
            Self::Wan => &[
                1.0, 0.997, 0.995, 0.993, 0.991, 0.989, 0.987, 0.985, 0.98, 0.975, 0.973, 0.968, 0.96, 0.946,
                0.927, 0.902, 0.864, 0.776, 0.539, 0.208, 0.001,
            ],
            Self::Chroma => &[
                0.992, 0.99, 0.988, 0.985, 0.982, 0.978, 0.973, 0.968, 0.961, 0.953, 0.943, 0.931, 0.917,
                0.9, 0.881, 0.858, 0.832, 0.802, 0.769, 0.731, 0.69, 0.646, 0.599, 0.55, 0.501, 0.451, 0.402,
                0.355, 0.311, 0.27, 0.232, 0.199, 0.169, 0.143, 0.12, 0.101, 0.084, 0.07, 0.058, 0.048,
                0.001,
            ],
        }
    }
}

struct OptimalStepsScheduler;

inputs! {
    struct OptimalStepsIn {
        model_type: ModelType = choice().with("multiselect", false),
        steps: usize = int(20).range(3, 1000),
        denoise: f64 = float(1.0).range(0.0, 1.0).step(0.01),
    }
}

impl Node<Services> for OptimalStepsScheduler {
    const CARD: Card = Card::new("OptimalStepsScheduler", "", "sampling/custom_sampling/schedulers")
        .module("comfy_extras.nodes_optimalsteps")
        .schema();
    type In = OptimalStepsIn;
    type Out = (Sigmas,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let levels = input.model_type.levels();
        Ok((Sigmas(schedule::end_of(levels, input.steps, input.denoise)),))
    }
}

struct LTXVScheduler;

inputs! {
    struct LTXVSchedulerIn {
        steps: usize = int(20).range(1, 10000),
        max_shift: f64 = float(2.05).range(0.0, 100.0).step(0.01),
        base_shift: f64 = float(0.95).range(0.0, 100.0).step(0.01),
        stretch: bool = boolean(true).tooltip("Whether the levels reach from 1 down to `terminal`."),
        terminal: f64 = float(0.1).range(0.0, 0.99).step(0.01)
            .tooltip("The last level before 0, when they are stretched."),
        latent: Option<Arc<Latent>> = socket(),
    }
}

impl Node<Services> for LTXVScheduler {
    const CARD: Card = Card::new("LTXVScheduler", "", "sampling/custom_sampling/schedulers")
        .module("comfy_extras.nodes_lt")
        .schema();
    type In = LTXVSchedulerIn;
    type Out = (Sigmas,);

    /// The shift grows with the number of places in the latent, on the line through the base shift at 1024 and the
    /// largest at 4096.
    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let places = input.latent.map_or(4096, |latent| latent.samples.dims()[2..].iter().product::<usize>());
        let slope = (input.max_shift - input.base_shift) / (4096.0 - 1024.0);
        let shift = (places as f64 * slope + input.base_shift - slope * 1024.0).exp();
        let level = |step: usize| {
            let plain = 1.0 - step as f64 / input.steps as f64;
            shift / (shift + (1.0 / plain - 1.0))
        };
        let mut sigmas: Vec<f64> = (0..input.steps).map(level).collect();
        if let Some(last) = sigmas.last().copied().filter(|_| input.stretch) {
            let factor = (1.0 - last) / (1.0 - input.terminal);
            for sigma in &mut sigmas {
                *sigma = 1.0 - (1.0 - *sigma) / factor;
            }
        }
        sigmas.push(0.0);
        Ok((Sigmas(sigmas.into_iter().map(|sigma| sigma as f32).collect()),))
    }
}
