//! What users can put in a graph: the node families, and [`Services`], what nodes may use.
//!
//! Deliberately knows neither HTTP nor the queue. Each family file lists its own nodes in a `NODES`
//! table near its top; adding a node touches that file only.

mod image;
mod image_batch;
mod image_composite;
mod image_filter;
mod image_scale;
mod image_transform;
mod mask;
mod primitive;
mod text;
mod text_regex;

use crate::graph::{AnyNode, Library, Registry};
use crate::paths::Folders;

/// The longest side of a picture that nodes accept.
const MAX_RESOLUTION: u32 = 16_384;

/// What the server lends its nodes. `cli` builds it once.
pub struct Services {
    pub folders: Folders,
    /// Longest side in pixels of the previews samplers send; none are sent without it.
    pub preview_size: Option<usize>,
}

impl Library for Services {
    fn names(&self, folder: &str) -> Vec<String> {
        match folder {
            "input" => image::pictures_in(&self.folders.input),
            "output" => image::pictures_in(&self.folders.output),
            _ => self.folders.model_names(folder),
        }
    }
}

/// Every node this server can run.
pub fn registry() -> Registry<Services> {
    let families: &[&[&'static dyn AnyNode<Services>]] = &[
        image::NODES,
        image_batch::NODES,
        image_composite::NODES,
        image_filter::NODES,
        image_scale::NODES,
        image_transform::NODES,
        mask::NODES,
        primitive::NODES,
        text::NODES,
        text_regex::NODES,
    ];
    Registry::new(families.iter().copied().flatten().copied())
}
