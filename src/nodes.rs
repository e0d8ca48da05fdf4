//! What users can put in a graph: the node families, and [`Services`], what nodes may use.
//!
//! Deliberately knows neither HTTP nor the queue. Each family file lists its own nodes in a `NODES`
//! table near its top; adding a node touches that file only.

use crate::graph::{AnyNode, Library, Registry};
use crate::paths::Folders;

/// What the server lends its nodes. `cli` builds it once.
pub struct Services {
    pub folders: Folders,
}

impl Library for Services {
    fn names(&self, folder: &str) -> Vec<String> {
        self.folders.model_names(folder)
    }
}

/// Every node this server can run.
pub fn registry() -> Registry<Services> {
    let families: &[&[&'static dyn AnyNode<Services>]] = &[];
    Registry::new(families.iter().copied().flatten().copied())
}
