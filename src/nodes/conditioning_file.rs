//! Conditionings on disk: safetensors files of their tensors, with the plain values in the metadata. These nodes came
//! after ComfyUI 0.3.64.

use std::sync::Arc;

use candle_core::Tensor;
use serde_json::{Map, Value as Json, json};

use super::Services;
use super::qwen::{method_named, word_for};
use super::values::Conditioning;
use crate::graph::{AnyNode, Card, FileName, Node, NodeError, Result, Run, Same, files, socket, text};
use crate::image::write_file;
use crate::inputs;
use crate::paths::Kind;
use crate::sampling::Entry;
use crate::weights::{self, File, Weights};

pub const NODES: &[&dyn AnyNode<Services>] = &[&ConditioningLoader, &SaveConditioning];

/// Names in such a file: of tensors, of numbered ones before the number, and of the metadata with its values.
const TEXT: &str = "conditioning";
const POOLED: &str = "pooled_output";
const MASK: &str = "mask";
const ATTENTION_MASK: &str = "attention_mask";
const REFERENCE: &str = "reference_latents";
const OPTIONS: &str = "conditioning_options";
const METHOD: &str = "reference_latents_method";

struct ConditioningLoader;

inputs! {
    struct ConditioningLoaderIn {
        conditioning_name: FileName = files("embeddings"),
    }
}

impl Node<Services> for ConditioningLoader {
    const CARD: Card = Card::new("ConditioningLoader", "Load Conditioning", "model/loaders")
        .about(
            "Reads a conditioning that SaveConditioning wrote, or any safetensors file with a tensor \
             `conditioning`, so that no text encoder is needed.",
        )
        .module("comfy_extras.nodes_cond")
        .schema();
    type In = ConditioningLoaderIn;
    type Out = (Conditioning,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let path = run.host.model_file("embeddings", &input.conditioning_name.0)?;
        let file = Weights::new(File::open(path).map_err(NodeError::other)?, "");
        Ok((Conditioning(vec![entry(&file)?]),))
    }
}

/// A tensor of a file, where there is one.
fn tensor(file: &Weights, name: &str) -> Result<Option<Tensor>> {
    let read = |shape| file.tensor(name, shape).map_err(NodeError::other);
    file.shape(name).map(read).transpose()
}

fn entry(file: &Weights) -> Result<Entry> {
    let name = file.file().name();
    let text = tensor(file, TEXT)?.ok_or_else(|| {
        NodeError::Refused(format!("{name} holds no conditioning: expected a tensor `{TEXT}`"))
    })?;
    let mut entry = Entry::new(seen(text, tensor(file, ATTENTION_MASK)?, &name)?);
    entry.pooled = tensor(file, POOLED)?;
    for number in 0.. {
        let Some(reference) = tensor(file, &format!("{REFERENCE}.{number}"))? else { break };
        entry.references.push(reference);
    }
    let options = file.header().metadata().get(OPTIONS).map_or("{}", String::as_str);
    let options: Map<String, Json> = serde_json::from_str(options)
        .map_err(|error| NodeError::Refused(format!("`{OPTIONS}` of {name} is no JSON object: {error}")))?;
    let number = |key: &str| options.get(key).and_then(Json::as_f64);
    entry.reference_method = options.get(METHOD).and_then(Json::as_str).and_then(method_named);
    entry.strength = number("strength").unwrap_or(entry.strength);
    entry.span = match (number("start_percent"), number("end_percent")) {
        (None, None) => None,
        (start, end) => Some([start.unwrap_or(0.0), end.unwrap_or(1.0)]),
    };
    entry.mask = tensor(file, MASK)?.map(|mask| (mask, number("mask_strength").unwrap_or(1.0)));
    entry.mask_bounds = options.get("set_area_to_bounds") == Some(&json!(true));
    Ok(entry)
}

/// The tokens that a mask lets be seen: the first ones.
fn seen(text: Tensor, mask: Option<Tensor>, file: &str) -> Result<Tensor> {
    let Some(mask) = mask else { return Ok(text) };
    let mask = mask.flatten_all()?.to_vec1::<f32>()?;
    let count = mask.iter().take_while(|value| **value > 0.0).count();
    if mask.len() != text.dim(1)? || mask.iter().skip(count).any(|value| *value > 0.0) {
        return Err(NodeError::Refused(format!(
            "the `{ATTENTION_MASK}` of {file} hides tokens before others, which no network here can do"
        )));
    }
    Ok(text.narrow(1, 0, count)?)
}

struct SaveConditioning;

inputs! {
    struct SaveConditioningIn {
        conditioning: Arc<Conditioning> = socket(),
        filename_prefix: String = text().default("conditioning/ComfyUI").with("multiline", false),
    }
}

impl Node<Services> for SaveConditioning {
    const CARD: Card = Card::new("SaveConditioning", "Save Conditioning", "model/conditioning")
        .about(
            "Writes a conditioning to the output folder; in models/embeddings ConditioningLoader finds it.",
        )
        .module("comfy_extras.nodes_cond")
        .outputs(&["conditioning"])
        .output()
        .schema();
    type In = SaveConditioningIn;
    type Out = (Same<Conditioning>,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let [entry] = &input.conditioning.0[..] else {
            return Err(NodeError::Refused(format!(
                "a conditioning of {} entries cannot be saved; save each before they are combined",
                input.conditioning.0.len()
            )));
        };
        let tensors = tensors(entry)?;
        let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let metadata = vec![(OPTIONS.to_owned(), Json::Object(options(entry)).to_string())];
        let bytes = weights::to_bytes(&tensors, metadata).map_err(NodeError::other)?;
        let name = run.host.folders.next_output(Kind::Output, &input.filename_prefix, 0, 0)?;
        write_file(&name.folder.join(name.file("_.safetensors")), &bytes)?;
        Ok((Same(input.conditioning),))
    }
}

/// The tensors of an entry that has nothing else than those and plain values.
fn tensors(entry: &Entry) -> Result<Vec<(String, Tensor)>> {
    let refused = |what: &str| Err(NodeError::Refused(format!("a conditioning with {what} cannot be saved")));
    if entry.area.is_some() {
        return refused("an area");
    }
    if !entry.controls.is_empty() {
        return refused("a control");
    }
    if !entry.hooks.is_empty() || entry.text_span.is_some() {
        return refused("hooks");
    }
    if entry.fills {
        return refused("the mark of a default");
    }
    let mut tensors = vec![(TEXT.to_owned(), entry.text.clone())];
    tensors.extend(entry.pooled.clone().map(|pooled| (POOLED.to_owned(), pooled)));
    let references = entry.references.iter().enumerate();
    tensors.extend(references.map(|(index, latent)| (format!("{REFERENCE}.{index}"), latent.clone())));
    tensors.extend(entry.mask.clone().map(|(mask, _)| (MASK.to_owned(), mask)));
    Ok(tensors)
}

/// The plain values of an entry, but for those that are as usual.
fn options(entry: &Entry) -> Map<String, Json> {
    let mut options = Map::new();
    if entry.strength.total_cmp(&1.0).is_ne() {
        options.insert("strength".to_owned(), json!(entry.strength));
    }
    if let Some([start, end]) = entry.span {
        options.insert("start_percent".to_owned(), json!(start));
        options.insert("end_percent".to_owned(), json!(end));
    }
    options.extend(entry.reference_method.map(|method| (METHOD.to_owned(), json!(word_for(method)))));
    if let Some((_, strength)) = &entry.mask {
        options.insert("mask_strength".to_owned(), json!(strength));
        options.insert("set_area_to_bounds".to_owned(), json!(entry.mask_bounds));
    }
    options
}
