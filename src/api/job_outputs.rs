//! What a job made, summed up for lists of jobs: how many things, and the one to show first.

use serde_json::{Map, Value as Json, json};

/// Kinds of output that the web interface can show.
const SHOWN: [&str; 5] = ["images", "video", "audio", "3d", "text"];

/// Suffixes of models in space, which have no kind of their own.
const SOLIDS: [&str; 5] = [".obj", ".fbx", ".gltf", ".glb", ".usdz"];

/// Suffixes of texts that are saved as files.
const TEXTS: [&str; 3] = [".txt", ".md", ".json"];

/// The most letters of a text that stand for the whole.
const LONGEST_TEXT: usize = 1024;

/// A flag among the outputs of a node and no output itself.
const ANIMATED: &str = "animated";

fn ends_with(name: &str, suffixes: &[&str]) -> bool {
    let name = name.to_lowercase();
    suffixes.iter().any(|suffix| name.ends_with(suffix))
}

/// The lists among what the nodes showed: node, kind, items.
fn lists(outputs: &Map<String, Json>) -> impl Iterator<Item = (&str, &str, &Vec<Json>)> {
    outputs.iter().flat_map(|(node, shown)| {
        let kinds = shown.as_object().into_iter().flatten().filter(|(kind, _)| *kind != ANIMATED);
        kinds.filter_map(move |(kind, items)| Some((node.as_str(), kind.as_str(), items.as_array()?)))
    })
}

/// An item as an object: a bare name of a model in space stands for that file.
fn object(item: &Json) -> Option<Map<String, Json>> {
    match item {
        Json::Object(item) => Some(item.clone()),
        Json::String(name) if ends_with(name, &SOLIDS) => {
            let file = json!({"filename": name, "type": "output", "subfolder": "", "mediaType": "3d"});
            file.as_object().cloned()
        }
        _ => None,
    }
}

/// Everything the nodes showed, bare file names spelled out and gaps closed.
pub(super) fn normalised(outputs: &Map<String, Json>) -> Json {
    let list = |items: &Vec<Json>| -> Json {
        let items = items.iter().filter(|item| !item.is_null());
        items.map(|item| object(item).map_or_else(|| item.clone(), Json::Object)).collect()
    };
    let node = |shown: &Json| match shown {
        Json::Object(kinds) => {
            let kinds = kinds.iter().map(|(kind, items)| match items {
                Json::Array(items) if kind != ANIMATED => (kind.clone(), list(items)),
                other => (kind.clone(), other.clone()),
            });
            Json::Object(kinds.collect())
        }
        other => other.clone(),
    };
    outputs.iter().map(|(id, shown)| (id.clone(), node(shown))).collect::<Map<_, _>>().into()
}

/// The outputs of one job in short.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub count: usize,
    /// How many of them can be shown.
    pub previewable: usize,
    /// The item to show for the job, with its node and kind.
    pub preview: Option<Json>,
}

/// What is better to show for a job than something else, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Saved,
    Temporary,
    TextFile,
    Text,
}

impl Summary {
    pub fn of(outputs: &Map<String, Json>) -> Self {
        let mut summary = Self::default();
        let mut best: Option<Rank> = None;
        for (node, kind, items) in lists(outputs) {
            for item in items {
                let (rank, mut shown) = match (object(item), item) {
                    (Some(item), _) => {
                        summary.count += 1;
                        let Some(rank) = rank(kind, &item) else { continue };
                        summary.previewable += 1;
                        (rank, item)
                    }
                    // Words beside a result are shown only where there is nothing else, and never counted.
                    (None, Json::Null) => continue,
                    (None, word) if kind == "text" => (Rank::Text, text(word)),
                    _ => continue,
                };
                if best.is_none_or(|best| rank < best) {
                    best = Some(rank);
                    shown.insert("nodeId".to_owned(), node.into());
                    shown.entry("mediaType").or_insert_with(|| kind.into());
                    summary.preview = Some(shown.into());
                }
            }
        }
        summary
    }
}

/// How good an item is to show; none if it cannot be shown.
fn rank(kind: &str, item: &Map<String, Json>) -> Option<Rank> {
    let word = |key: &str| item.get(key).and_then(Json::as_str).unwrap_or_default();
    let (format, name) = (word("format"), word("filename"));
    let is_text = kind == "text" || ends_with(name, &TEXTS);
    let is_media = format.starts_with("video/") || format.starts_with("audio/") || ends_with(name, &SOLIDS);
    if is_text {
        Some(Rank::TextFile)
    } else if !is_media && !SHOWN.contains(&kind) {
        None
    } else if word("type") == "output" {
        Some(Rank::Saved)
    } else {
        Some(Rank::Temporary)
    }
}

fn text(word: &Json) -> Map<String, Json> {
    let text = super::request::text(word);
    let shown: String = text.chars().take(LONGEST_TEXT).collect();
    let cut = shown.len() < text.len();
    let mut preview = Map::from_iter([("content".to_owned(), shown.into())]);
    if cut {
        preview.insert("truncated".to_owned(), true.into());
    }
    preview
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(outputs: &Json) -> Summary {
        Summary::of(outputs.as_object().expect("an object"))
    }

    #[test]
    fn a_saved_picture_is_shown_before_previews_and_texts_whatever_comes_first() {
        let outputs = json!({
            "1": {"text": ["words", null], "animated": [true]},
            "2": {"text_files": [{"filename": "a.TXT", "type": "output"}]},
            "3": {"images": [{"filename": "t.png", "type": "temp"}]},
            "4": {"images": [{"filename": "o.png", "type": "output"}, {"filename": "p.png", "type": "output"}]},
            "5": {"latents": [{"filename": "x.latent", "type": "output"}], "result": ["Mesh.GLB", 5]},
        });
        let preview = json!({"filename": "o.png", "type": "output", "nodeId": "4", "mediaType": "images"});
        assert_eq!(summary(&outputs), Summary { count: 6, previewable: 5, preview: Some(preview) });
    }

    #[test]
    fn words_stand_in_where_nothing_can_be_seen_and_long_ones_are_cut() {
        let long = "é".repeat(LONGEST_TEXT + 1);
        let found = summary(&json!({"1": {"text": [long]}}));
        let preview = found.preview.expect("a preview");
        assert_eq!(preview["content"].as_str().map(|text| text.chars().count()), Some(LONGEST_TEXT));
        assert_eq!((&preview["truncated"], &preview["mediaType"]), (&json!(true), &json!("text")));
        assert_eq!((found.count, found.previewable), (0, 0));
        assert_eq!(summary(&json!({"1": {"a": 5, "b": [1]}, "2": null})), Summary::default());
    }

    #[test]
    fn bare_names_of_files_are_spelled_out() {
        let outputs = json!({"1": {"result": ["m.glb", null, "word"], "animated": [true]}, "2": 7});
        let file = json!({"filename": "m.glb", "type": "output", "subfolder": "", "mediaType": "3d"});
        let expected = json!({"1": {"result": [file, "word"], "animated": [true]}, "2": 7});
        assert_eq!(normalised(outputs.as_object().expect("an object")), expected);
    }
}
