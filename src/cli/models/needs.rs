//! Which model files a graph names, and which of them are not there.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::cli::{Result, graph_file};
use crate::fetch::Set;
use crate::graph::{AnyNode, Kind, Library as _, Registry};
use crate::nodes::Services;
use crate::paths::MODEL_FOLDERS;

/// A model file that a graph names.
#[derive(PartialEq)]
pub(in crate::cli) struct Need {
    pub(in crate::cli) folder: &'static str,
    pub(in crate::cli) name: String,
    /// What to do where it is not there.
    pub(in crate::cli) mend: Option<String>,
}

/// What a graph needs.
pub(in crate::cli) struct Needs {
    pub(in crate::cli) files: Vec<Need>,
    /// Classes of nodes that this server lacks.
    pub(super) unknown: Vec<String>,
}

impl Needs {
    pub(super) fn read(graph: &Path, registry: &Registry<Services>, services: &Services) -> Result<Self> {
        let graph = graph_file::read(graph, registry, services)?;
        Ok(Self { unknown: graph.unknown, ..Self::of(&graph.prompt, registry, services) })
    }

    /// What a graph in API format needs.
    pub(in crate::cli) fn of(
        graph: &Map<String, Json>,
        registry: &Registry<Services>,
        services: &Services,
    ) -> Self {
        let mut files = Vec::new();
        for node in graph.values() {
            let class = node.get("class_type").and_then(Json::as_str).and_then(|class| registry.get(class));
            for spec in class.map(AnyNode::inputs).unwrap_or_default() {
                let Kind::Files(folder) = spec.kind else { continue };
                let name = node.get("inputs").and_then(|inputs| inputs.get(spec.name)).and_then(Json::as_str);
                let is_model = MODEL_FOLDERS.iter().any(|(key, _)| *key == folder);
                if let Some(name) = name.filter(|_| is_model) {
                    let need = Need { folder, name: name.to_owned(), mend: mend(services, folder, name) };
                    if !files.contains(&need) {
                        files.push(need);
                    }
                }
            }
        }
        Self { files, unknown: Vec::new() }
    }

    /// Whether the graph can run here, as far as files and nodes go.
    pub(super) fn are_met(&self) -> bool {
        self.unknown.is_empty() && self.files.iter().all(|need| need.mend.is_none())
    }

    pub(super) fn document(&self) -> Json {
        let file = |need: &Need| {
            json!({
                "folder": need.folder, "name": need.name, "present": need.mend.is_none(), "mend": need.mend,
            })
        };
        let files: Vec<_> = self.files.iter().map(file).collect();
        json!({"files": files, "unknown_nodes": self.unknown, "ok": self.are_met()})
    }
}

/// How to get a file that is not there.
fn mend(services: &Services, folder: &str, name: &str) -> Option<String> {
    let there = services.names(folder);
    if there.iter().any(|known| known == name) {
        return None;
    }
    let lies_in = |key: &&str| services.names(key).iter().any(|known| known == name);
    if let Some(other) = MODEL_FOLDERS.iter().map(|(key, _)| *key).find(lies_in) {
        return Some(format!("it lies in models/{other}: move it into models/{folder}"));
    }
    let base = name.rsplit(['/', '\\']).next().unwrap_or(name);
    if let Some(known) = there.iter().find(|known| known.rsplit('/').next() == Some(base)) {
        return Some(format!("it is there as {known}: name that in the graph"));
    }
    Some(match Set::for_file(name) {
        Some(set) if set.files.iter().any(|file| file.name() == name) => {
            format!("`comfyd fetch-models {}` gets it", set.name)
        }
        Some(set) => {
            let file = set.files.iter().find(|file| file.folder == folder).or(set.files.first());
            let file = file.map_or("", |file| file.name());
            format!(
                "no file of that name is published: `comfyd fetch-models {}`, and name {file} in the graph",
                set.name
            )
        }
        None => format!("put it into models/{folder}; there are: {}", there.join(", ")),
    })
}
