//! Workflows as people keep them: the files of ComfyUI's editor (nodes, links, subgraphs), turned into prompts.
//!
//! The editor does this in the browser before it queues a prompt; here it is done the same way, so that a file on
//! disk or in a picture runs without a browser. Owns the file's shape (`file`), which value belongs to which widget
//! (`widgets`), and where a link really comes from once subgraphs, reroutes, bypassed and muted nodes are taken away
//! (`resolve`). Deliberately does not judge the prompt it makes: [`check`](super::check) does.
//!
//! Texts in which the editor draws one of several alternatives (`{a|b}`) take the first one here, so that one file
//! always makes one prompt.

mod file;
mod resolve;
mod scope;
mod text;
mod widgets;

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

use super::inputs::Library;
use super::registry::Registry;
use file::{File, Node};
use resolve::{Resolver, Source};
use scope::Scopes;

/// Why a file is no workflow that can become a prompt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this is no workflow: {0}")]
    Shape(#[from] serde_json::Error),
    #[error(
        "the subgraphs contain each other: {}; no prompt can be made of that", .path.join(" > ")
    )]
    Endless { path: Vec<String> },
}

/// What a workflow became.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The prompt, in API format.
    pub prompt: Map<String, Json>,
    /// Classes in the prompt that this server does not have.
    pub unknown: BTreeSet<String>,
}

/// Whether a document looks like a file of the editor rather than a prompt.
pub fn is_workflow(document: &Json) -> bool {
    document.get("nodes").is_some_and(Json::is_array)
}

/// Makes the prompt that ComfyUI's editor would queue for this file.
pub fn to_prompt<H: Library>(
    document: Json,
    registry: &Registry<H>,
    library: &H,
) -> Result<Converted, Error> {
    let file: File = serde_json::from_value(document)?;
    let scopes = Scopes::of(&file)?;
    let resolver = Resolver::new(&scopes);
    let mut converted = Converted { prompt: Map::new(), unknown: BTreeSet::new() };
    for (scope, node) in scopes.in_order() {
        if !node.is_active() || node.is_virtual() || scopes.subgraph(node).is_some() {
            continue;
        }
        let class = registry.class(&node.class);
        if class.is_none() {
            converted.unknown.insert(node.class.clone());
        }
        let mut inputs = widgets::values(node, class, library);
        for (slot, input) in node.inputs.iter().enumerate() {
            match resolver.input(scope, node, slot) {
                Source::Nothing => {}
                Source::Value(value) => {
                    inputs.insert(input.name.clone(), widgets::wrapped(value));
                }
                Source::Slot { node, slot } => {
                    inputs.insert(input.name.clone(), json!([node, slot]));
                }
                Source::Removed => {
                    inputs.shift_remove(&input.name);
                }
            }
        }
        let title = node.title.clone().unwrap_or_else(|| {
            class.map_or(node.class.as_str(), |class| class.card.shown_title()).to_owned()
        });
        let body = json!({"inputs": inputs, "class_type": node.class, "_meta": {"title": title}});
        converted.prompt.insert(scopes.id(scope, node), body);
    }
    converted.prompt = in_browser_order(converted.prompt);
    Ok(converted)
}

/// A browser lists keys that are numbers first, ascending, and the others as they came.
fn in_browser_order(prompt: Map<String, Json>) -> Map<String, Json> {
    let mut entries: Vec<_> = prompt.into_iter().collect();
    entries.sort_by_key(|(id, _)| id.parse::<u32>().map_or(u64::MAX, u64::from));
    entries.into_iter().collect()
}

impl Node {
    /// Nodes of the editor that no server ever sees.
    fn is_virtual(&self) -> bool {
        matches!(self.class.as_str(), "Reroute" | "PrimitiveNode" | "Note" | "MarkdownNote")
    }
}
