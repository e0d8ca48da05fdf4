//! Graphs as people have them: a prompt in API format, a file of ComfyUI's editor, or a picture that carries either.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use crate::graph::{Registry, workflow};
use crate::image;
use crate::nodes::Services;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot read the graph {}", .path.display())]
    Unreadable { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{} carries no graph: it has neither a `prompt` nor a `workflow` text chunk", .path.display())]
    NoGraph { path: PathBuf },
    #[error("{} is no graph: expected a JSON object of nodes", .path.display())]
    NoObject { path: PathBuf },
}

/// A graph in API format, and the classes in it that this server lacks.
pub(super) struct GraphFile {
    pub(super) prompt: Map<String, Json>,
    pub(super) unknown: Vec<String>,
    /// Whether it was a file of the editor.
    pub(super) converted: bool,
}

const PNG: &[u8] = b"\x89PNG";

/// Reads a graph from whatever kind of file it is in; a byte-order mark is ignored.
pub(super) fn read(
    path: &Path,
    registry: &Registry<Services>,
    services: &Services,
) -> Result<GraphFile, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(|source| unreadable(source.into()))?;
    let document = if bytes.starts_with(PNG) {
        let chunks = image::text_chunks(&bytes);
        let chunk = |key: &str| chunks.iter().find(|(name, _)| name == key).map(|(_, text)| text.clone());
        let text = chunk("prompt").or_else(|| chunk("workflow"));
        text.ok_or_else(|| Error::NoGraph { path: path.to_owned() })?.into_bytes()
    } else {
        bytes
    };
    let text = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&document);
    let document: Json = serde_json::from_slice(text).map_err(|source| unreadable(source.into()))?;
    if workflow::is_workflow(&document) {
        let converted = workflow::to_prompt(document, registry, services);
        let converted = converted.map_err(|source| unreadable(source.into()))?;
        let unknown = converted.unknown.into_iter().collect();
        return Ok(GraphFile { prompt: converted.prompt, unknown, converted: true });
    }
    let Json::Object(mut body) = document else { return Err(Error::NoObject { path: path.to_owned() }) };
    // The body of a `POST /prompt` is as good as the graph inside it.
    let prompt = match body.get_mut("prompt") {
        Some(Json::Object(prompt)) => std::mem::take(prompt),
        _ => body,
    };
    let mut unknown: Vec<_> = prompt
        .values()
        .filter_map(|node| node.get("class_type")?.as_str())
        .filter(|class| registry.get(class).is_none())
        .map(str::to_owned)
        .collect();
    unknown.sort();
    unknown.dedup();
    Ok(GraphFile { prompt, unknown, converted: false })
}
