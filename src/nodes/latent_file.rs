//! Latents on disk, in ComfyUI's `.latent` format: a safetensors file of one tensor, with the workflow in
//! its metadata.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, json};

use super::Services;
use super::image::{fingerprint_of_file, named_file, text_chunks};
use super::values::Latent;
use crate::graph::{
    AnyNode, Card, FileName, Fingerprint, Literals, Node, NodeError, PROMPT_AND_PNGINFO, Result, Run, WithUi,
    files, socket, text,
};
use crate::image::write_file;
use crate::inputs;
use crate::paths::Kind;
use crate::weights::{self, File, Weights};

pub const NODES: &[&dyn AnyNode<Services>] = &[&SaveLatent, &LoadLatent];

/// The name the samples have in a file.
const SAMPLES: &str = "latent_tensor";
/// An empty tensor that says the samples are not scaled. Older files lack it and are.
const UNSCALED: &str = "latent_format_version_0";
/// What older files are scaled by.
const OLD_SCALE: f64 = 0.18215;
/// What the names of such files end with.
const SUFFIX: &str = "latent";

/// The latents at the top of a folder, sorted.
pub(super) fn latents_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let mut names: Vec<String> = files
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.strip_suffix(SUFFIX).is_some_and(|stem| stem.ends_with('.')))
        .collect();
    names.sort();
    names
}

struct SaveLatent;

inputs! {
    struct SaveLatentIn {
        samples: Arc<Latent> = socket(),
        filename_prefix: String = text().default("latents/ComfyUI"),
    }
}

impl Node<Services> for SaveLatent {
    const CARD: Card =
        Card::new("SaveLatent", "SaveLatent", "_for_testing").output().hidden(PROMPT_AND_PNGINFO);
    type In = SaveLatentIn;
    type Out = WithUi<()>;

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let samples = &input.samples.samples;
        let empty = samples.flatten_all()?.narrow(0, 0, 0)?;
        let bytes = weights::to_bytes(&[(SAMPLES, samples), (UNSCALED, &empty)], text_chunks(run));
        let name = run.host.folders.next_output(Kind::Output, &input.filename_prefix, 0, 0)?;
        let file = name.file(&format!("_.{SUFFIX}"));
        write_file(&name.folder.join(&file), &bytes.map_err(NodeError::other)?)?;
        let saved = json!([{"filename": file, "subfolder": name.subfolder, "type": "output"}]);
        Ok(WithUi { ui: Map::from_iter([("latents".to_owned(), saved)]), outputs: () })
    }
}

struct LoadLatent;

inputs! {
    struct LoadLatentIn {
        latent: FileName = files("input latents"),
    }
}

impl Node<Services> for LoadLatent {
    const CARD: Card = Card::new("LoadLatent", "LoadLatent", "_for_testing");
    const CHECKS: &'static [&'static str] = &["latent"];
    type In = LoadLatentIn;
    type Out = (Latent,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let path = run.host.folders.annotated(&input.latent.0, Kind::Input)?;
        let file = Weights::new(File::open(path).map_err(NodeError::other)?, "");
        let shape = file.shape(SAMPLES).ok_or_else(|| {
            NodeError::Refused(format!(
                "{} holds no latent: expected a tensor `{SAMPLES}`, as SaveLatent writes it",
                file.file().name()
            ))
        })?;
        let samples = file.tensor(SAMPLES, shape).map_err(NodeError::other)?;
        let samples = if file.has(UNSCALED) { samples } else { (samples / OLD_SCALE)? };
        Ok((Latent::new(samples),))
    }
    fn fingerprint(&self, literals: &Literals, host: &Services) -> Fingerprint {
        fingerprint_of_file("latent", literals, &host.folders)
    }
    fn check(&self, literals: &Literals, host: &Services) -> Result<(), String> {
        match literals.get("latent").and_then(|name| name.as_str()) {
            Some(name) if named_file("latent", literals, &host.folders).is_none() => {
                Err(format!("Invalid latent file: {name}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_with_the_suffix_are_latents() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b.latent", "a.latent", "alatent", "a.png"] {
            std::fs::write(folder.path().join(name), "").expect("a file");
        }
        std::fs::create_dir(folder.path().join("c.latent")).expect("a folder");
        assert_eq!(latents_in(folder.path()), ["a.latent", "b.latent"]);
    }
}
