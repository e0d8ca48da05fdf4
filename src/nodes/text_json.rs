//! Texts that hold JSON. This node came after ComfyUI 0.3.64.

use serde_json::{Map, Value as Json};

use super::Services;
use crate::graph::{AnyNode, Card, Node, Result, Run, python_text, text};
use crate::inputs;

pub const NODES: &[&dyn AnyNode<Services>] = &[&JsonExtractString];

struct JsonExtractString;

inputs! {
    struct JsonExtractStringIn {
        json_string: String = text().multiline(),
        key: String = text().with("multiline", false),
    }
}

impl Node<Services> for JsonExtractString {
    const CARD: Card = Card::new("JsonExtractString", "Extract Text from JSON", "utilities/string")
        .about("Finds the first JSON object in a text and gives what it has under a key; nothing if there is none.")
        .module("comfy_extras.nodes_string")
        .schema();
    type In = JsonExtractStringIn;
    type Out = (String,);

    fn run(&self, input: Self::In, _run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let object = first_object(&input.json_string).unwrap_or_default();
        Ok((match object.get(&input.key) {
            None | Some(Json::Null) => String::new(),
            Some(value) => python_text(value),
        },))
    }
}

/// The object at the first brace that begins one; what follows it is not looked at.
fn first_object(text: &str) -> Option<Map<String, Json>> {
    let objects = text.match_indices('{').map(|(at, _)| {
        let mut documents = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Json>();
        documents.next()
    });
    objects.flatten().find_map(|document| match document {
        Ok(Json::Object(object)) => Some(object),
        _ => None,
    })
}
