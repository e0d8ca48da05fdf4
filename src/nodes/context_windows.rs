//! Models that see long latents in windows.

use std::sync::Arc;

use super::Services;
use crate::graph::{AnyNode, Card, Node, NodeError, Result, Run, boolean, choice, int, socket};
use crate::sampling::{Blend, Model, Order, Windows};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&ContextWindowsManual];

choices! {
    enum Schedule {
        Static = "standard_static",
        Uniform = "standard_uniform",
        Looped = "looped_uniform",
        Batched = "batched",
    }
}
choices! {
    enum Fuse { Pyramid = "pyramid", Relative = "relative", Flat = "flat", Linear = "overlap-linear" }
}

struct ContextWindowsManual;

inputs! {
    struct ContextWindowsManualIn {
        model: Arc<Model> = socket(),
        context_length: usize = int(16).with("min", 1).tooltip("How long a window is, in cells of the latent."),
        context_overlap: usize = int(4).with("min", 0).tooltip("How much of it the next window shares."),
        context_schedule: Schedule = choice().with("multiselect", false).tooltip("Where windows lie."),
        context_stride: usize = int(1).with("min", 1)
            .tooltip("How often the places of a window may be twice as far apart, in uniform schedules."),
        closed_loop: bool = boolean(false).tooltip("Whether windows go on across the end, in looped schedules."),
        fuse_method: Fuse = choice().default("pyramid").with("multiselect", false)
            .tooltip("How much each place of a window counts."),
        dim: usize = int(0).range(0, 5)
            .tooltip("What is cut: 0 the batch, 2 frames or layers, 3 rows, 4 columns."),
    }
}

impl Node<Services> for ContextWindowsManual {
    const CARD: Card = Card::new("ContextWindowsManual", "Context Windows (Manual)", "context")
        .about("Predicts long latents in overlapping windows, of which each needs as much memory as a short one.")
        .module("comfy_extras.nodes_context_windows")
        .experimental()
        .schema();
    type In = ContextWindowsManualIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (length, overlap) = (input.context_length, input.context_overlap);
        let order = match input.context_schedule {
            Schedule::Static => Order::Static,
            Schedule::Uniform => Order::Uniform,
            Schedule::Looped => Order::Looped,
            Schedule::Batched => Order::Batched,
        };
        if order != Order::Batched && overlap >= length {
            return Err(NodeError::Refused(format!(
                "`context_overlap` {overlap} has to be smaller than `context_length` {length}"
            )));
        }
        if !matches!(input.dim, 0 | 2 | 3 | 4) {
            return Err(NodeError::Refused(format!(
                "`dim` {} cannot be cut: 0 is the batch, 2 frames or layers, 3 rows, 4 columns",
                input.dim
            )));
        }
        let blend = match input.fuse_method {
            Fuse::Pyramid => Blend::Pyramid,
            Fuse::Relative => Blend::Relative,
            Fuse::Flat => Blend::Flat,
            Fuse::Linear => Blend::Linear,
        };
        let (stride, closed, axis) = (input.context_stride, input.closed_loop, input.dim);
        let windows = Windows { axis, length, overlap, stride, closed, order, blend };
        Ok((input.model.as_ref().clone().with_windows(windows),))
    }
}
