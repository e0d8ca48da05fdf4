//! `GET /object_info`: what every node takes and gives, rendered from the declarations that run it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::{Path, State};
use serde_json::{Map, Value as Json, json};

use super::App;
use super::reply::{Result, json, written};
use super::route::Route;
use crate::graph::{AnyNode, Card, Growth, InputSpec, Kind, Library, Registry};
use crate::python_json;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/object_info", all), Route::get("/object_info/{class}", one)]
}

/// The whole answer as it was written last, kept as long as the folders hold the same files.
///
/// The folders are read for every answer, so that a new file shows at once; the writing is what takes time.
pub(super) struct Written {
    /// Every folder whose files some input lists.
    folders: BTreeSet<&'static str>,
    last: Mutex<(Lists, Bytes)>,
}

type Lists = BTreeMap<&'static str, Vec<String>>;

impl Written {
    pub fn new<H: Library>(nodes: &Registry<H>) -> Self {
        let folder = |spec: InputSpec| match spec.kind {
            Kind::Files(folder) => Some(folder),
            _ => None,
        };
        let folders = nodes.iter().flat_map(AnyNode::inputs).filter_map(folder).collect();
        Self { folders, last: Mutex::default() }
    }

    fn now(&self, app: &App) -> Bytes {
        let library: &dyn Library = app.services.as_ref();
        let lists: Lists = self.folders.iter().map(|folder| (*folder, library.names(folder))).collect();
        // Nothing that could panic happens to the pair.
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let last = last();
            if !last.1.is_empty() && last.0 == lists {
                return last.1.clone();
            }
        }
        let listing = Listing::of(library);
        listing.known.borrow_mut().extend(lists.iter().map(|(folder, names)| (*folder, json!(names))));
        let describe =
            |node: &'static dyn AnyNode<_>| (node.card().class.to_owned(), describe(node, &listing));
        let described: Map<_, _> = app.registry.iter().map(describe).collect();
        let bytes = Bytes::from(python_json::write(&described.into()));
        *last() = (lists, bytes.clone());
        bytes
    }
}

async fn all(State(app): State<Arc<App>>) -> Result {
    Ok(written(app.blocking(|app| app.written_info.now(app)).await?))
}

async fn one(State(app): State<Arc<App>>, Path(class): Path<String>) -> Result {
    let described = app.blocking(move |app| {
        let node = app.registry.get(&class)?;
        Some((class, describe(node, &Listing::of(app.services.as_ref()))))
    });
    let described: Map<_, _> = described.await?.into_iter().collect();
    Ok(json(&described.into()))
}

/// The lists of a library, each read once per answer.
pub(super) struct Listing<'a> {
    library: &'a dyn Library,
    known: RefCell<HashMap<&'static str, Json>>,
}

impl<'a> Listing<'a> {
    pub fn of(library: &'a dyn Library) -> Self {
        Self { library, known: RefCell::default() }
    }

    fn names(&self, folder: &'static str) -> Json {
        let mut known = self.known.borrow_mut();
        known.entry(folder).or_insert_with(|| self.library.names(folder).into()).clone()
    }
}

/// `[type, options]` of an input, without the options when there are none.
fn entry(spec: &InputSpec, schema: bool, listing: &Listing<'_>) -> Json {
    match input_config(spec, schema, listing) {
        Json::Array(mut pair) if !schema && pair[1].as_object().is_some_and(Map::is_empty) => {
            pair.pop();
            pair.into()
        }
        pair => pair,
    }
}

/// `[type, options]` of an input, as `node_errors` quote it.
///
/// Closed lists stand in place of the type, or, for nodes of ComfyUI's newer schema style, among the options.
pub(super) fn input_config(spec: &InputSpec, schema: bool, listing: &Listing<'_>) -> Json {
    let plain = |kind: &str| json!([kind, spec.options]);
    let words = match &spec.kind {
        Kind::Int => return plain("INT"),
        Kind::Float => return plain("FLOAT"),
        Kind::Text => return plain("STRING"),
        Kind::Boolean => return plain("BOOLEAN"),
        Kind::Link(types) => return plain(types),
        Kind::Choice(words) => json!(words),
        Kind::Files(folder) => listing.names(folder),
    };
    if !schema {
        return json!([words, spec.options]);
    }
    let mut options = spec.options.clone();
    options.insert("options".to_owned(), words);
    json!(["COMBO", options])
}

/// A combo whose words bring inputs of their own along, as newer clients read it; `None` for any other input.
fn branches(spec: &InputSpec, inputs: &[InputSpec], listing: &Listing<'_>) -> Option<Json> {
    let Kind::Choice(words) = &spec.kind else { return None };
    let owned = inputs.iter().filter_map(|input| Some((input, input.owner()?)));
    let owned: Vec<_> = owned.filter(|(_, (owner, _))| *owner == spec.name).collect();
    if owned.is_empty() {
        return None;
    }
    let option = |word: &&str| {
        let brought = owned.iter().filter(|(input, _)| input.shown_by.contains(word));
        let brought = brought.map(|(input, (_, name))| ((*name).to_owned(), entry(input, true, listing)));
        json!({"key": word, "inputs": {"required": brought.collect::<Map<_, _>>()}})
    };
    let mut options = spec.options.clone();
    options.insert("options".to_owned(), words.iter().map(option).collect());
    Some(json!(["COMFY_DYNAMICCOMBO_V3", options]))
}

/// The first of a group of inputs that grows stands for all of them, under the name of the group, as newer clients read
/// it.
fn grown(spec: &InputSpec, growth: &Growth, listing: &Listing<'_>) -> Json {
    let mut template = json!({
        "input": {"required": {growth.item: entry(spec, true, listing)}},
        "min": growth.least,
    });
    if growth.numbered {
        template["prefix"] = growth.item.into();
        template["max"] = growth.names.len().into();
    } else {
        template["names"] = growth.own_names().collect();
    }
    json!(["COMFY_AUTOGROW_V3", {"template": template}])
}

fn describe<H>(node: &dyn AnyNode<H>, listing: &Listing<'_>) -> Json {
    let card = node.card();
    let inputs = node.inputs();
    let mut outputs = node.outputs();
    outputs.truncate(card.listed(outputs.len()));
    let (sections, order) = sections(&card, &inputs, listing);
    let mut described = json!({
        "input": sections,
        "input_order": order,
        "output": outputs.iter().map(|output| output.socket).collect::<Json>(),
        "output_is_list": outputs.iter().map(|output| output.list).collect::<Json>(),
        "output_name": outputs.iter().map(|output| output.name).collect::<Json>(),
        "name": card.class,
        // Newer-style nodes without a title have none in ComfyUI either; clients show the class instead.
        "display_name": Some(card.title).filter(|title| !title.is_empty()),
        "description": card.about,
        "python_module": card.module,
        "category": card.category,
        "output_node": card.output,
    });
    // Old-style nodes mention a flag only when it is set.
    for (flag, set) in
        [("deprecated", card.deprecated), ("experimental", card.experimental), ("api_node", false)]
    {
        if set || card.schema {
            described[flag] = set.into();
        }
    }
    described
}

/// The inputs by section, and the names of each section in order.
fn sections(card: &Card, inputs: &[InputSpec], listing: &Listing<'_>) -> (Json, Json) {
    let shown = |spec: &InputSpec| match (&spec.grows, branches(spec, inputs, listing)) {
        (Some(growth), _) => (growth.group.to_owned(), grown(spec, growth, listing)),
        (None, Some(branches)) => (spec.name.to_owned(), branches),
        (None, None) => (spec.name.to_owned(), entry(spec, card.schema, listing)),
    };
    let stands = |spec: &&InputSpec| {
        spec.shown_by.is_empty() && spec.grows.is_none_or(|growth| growth.names.first() == Some(&spec.name))
    };
    let part = |required| {
        let own = inputs.iter().filter(move |spec| spec.required == required).filter(stands);
        own.map(shown).collect::<Map<_, _>>()
    };
    let hidden_entry = |what| if card.schema { json!([what]) } else { json!(what) };
    let hidden = card.hidden.iter().map(|(name, what)| ((*name).to_owned(), hidden_entry(what)));
    let hidden: Map<_, _> = hidden.collect();
    let mut sections = Map::new();
    let mut order = Map::new();
    for (section, entries) in [("required", part(true)), ("optional", part(false)), ("hidden", hidden)] {
        if !entries.is_empty() || (section == "required") {
            order.insert(section.to_owned(), entries.keys().map(String::as_str).collect());
            sections.insert(section.to_owned(), entries.into());
        }
    }
    (sections.into(), order.into())
}
