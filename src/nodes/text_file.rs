//! Texts on disk. This node came after ComfyUI 0.3.64.

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value as Json, json};

use super::Services;
use crate::graph::{AnyNode, Card, Node, Result, Run, WithUi, choice, text};
use crate::image::write_file;
use crate::paths::Kind;
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&SaveText];

choices! {
    enum Format { Txt = "txt", Csv = "csv", Md = "md", Json = "json" }
}

struct SaveText;

inputs! {
    struct SaveTextIn {
        text: String = text().with("forceInput", true).tooltip("The text to keep."),
        filename_prefix: Option<String> = text().default("ComfyUI").tooltip("What the file's name begins with."),
        format: Option<Format> = choice().default("txt").with("multiselect", false)
            .tooltip("As json, a document is written over several lines; what is none is written as it is."),
    }
}

impl Node<Services> for SaveText {
    const CARD: Card = Card::new("SaveText", "Save Text", "utilities/string")
        .about("Writes a text to a file in the output folder.")
        .module("comfy_extras.nodes_text")
        .outputs(&["text"])
        .output()
        .schema();
    type In = SaveTextIn;
    type Out = WithUi<(String,)>;

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let prefix = input.filename_prefix.as_deref().unwrap_or("ComfyUI");
        let name = run.host.folders.next_output(Kind::Output, prefix, 0, 0)?;
        let ending = match input.format.unwrap_or(Format::Txt) {
            Format::Txt => ".txt",
            Format::Csv => ".csv",
            Format::Md => ".md",
            Format::Json => ".json",
        };
        let indented = (input.format == Some(Format::Json)).then(|| indented(&input.text)).flatten();
        let file = name.file(ending);
        write_file(&name.folder.join(&file), indented.as_deref().unwrap_or(input.text.as_bytes()))?;
        let saved = json!([{"filename": file, "subfolder": name.subfolder, "type": "output"}]);
        Ok(WithUi { ui: Map::from_iter([("files".to_owned(), saved)]), outputs: (input.text,) })
    }
}

/// A document with two blanks more for each level; `None` if the text is none.
fn indented(text: &str) -> Option<Vec<u8>> {
    let document: Json = serde_json::from_str(text).ok()?;
    let mut bytes = Vec::new();
    document
        .serialize(&mut Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"  ")))
        .ok()?;
    Some(bytes)
}
