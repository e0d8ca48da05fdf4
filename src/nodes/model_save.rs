//! Nodes that write networks to files, with all that changes them, under ComfyUI's names for files and tensors.

use std::sync::Arc;

use super::Services;
use super::image::text_chunks;
use super::values::{Clip, Vae};
use crate::device;
use crate::graph::{AnyNode, Card, Node, NodeError, PROMPT_AND_PNGINFO, Result, Run, socket, text};
use crate::inputs;
use crate::model::{Compute, Diffusion, saving};
use crate::paths::Kind;
use crate::sampling::Model;
use crate::stop::Stopped;
use crate::weights::{self, Dtype, Held};

pub const NODES: &[&dyn AnyNode<Services>] = &[&ModelSave, &CLIPSave, &VAESave, &CheckpointSave];

const MODULE: &str = "comfy_extras.nodes_model_merging";
const CATEGORY: &str = "advanced/model_merging";

/// Whether nothing shall be done but told.
pub(super) fn is_dry(run: &Run<'_, Services>) -> bool {
    run.host.ledger.is_some()
}

/// Writes tensors to the next file of a prefix in the output folder, which they stream into.
pub(super) fn write(
    tensors: Vec<Held>,
    prefix: &str,
    metadata: Option<Vec<(String, String)>>,
    run: &mut Run<'_, Services>,
) -> Result<()> {
    if is_dry(run) {
        return Ok(());
    }
    let name = run.host.folders.next_output(Kind::Output, prefix, 0, 0)?;
    let path = name.folder.join(name.file("_.safetensors"));
    let mut shown = None;
    let mut told = |done: u64, total: u64| {
        run.stop().check()?;
        let megabytes = [done, total].map(|bytes| bytes.div_ceil(1 << 20) as u32);
        if shown.replace(megabytes) == Some(megabytes) {
            return Ok(());
        }
        run.step(megabytes[0], megabytes[1]).map_err(|_| Stopped)
    };
    weights::write_file(&path, &tensors, metadata, &mut told).map_err(|error| match error {
        weights::Error::Stopped(stopped) => stopped.into(),
        error => NodeError::other(error),
    })
}

/// What ComfyUI would hold the parameters of a diffusion model in that was not loaded as fp8: what it computes in, or
/// what the file has, where twice as many bytes as there are parameters do not fit into memory, and on a card.
fn held_in(network: &dyn Diffusion, services: &Services) -> Option<Dtype> {
    // Of all memory, what ComfyUI thinks may be weights.
    const SHARE: f64 = 0.88;
    const LEFT: f64 = 1.2 * (1u64 << 30) as f64;
    let room = device::memory().total as f64 * SHARE - LEFT;
    let needed = 2.0 * network.weights().numbers_count() as f64;
    (services.card.is_none() && needed <= room).then(|| computed_in(services.arithmetic.diffusion))
}

fn computed_in(compute: Compute) -> Dtype {
    match compute {
        Compute::F32 | Compute::Fast => Dtype::F32,
        Compute::Bf16 => Dtype::Bf16,
    }
}

/// The tensors of each network, by their own names.
pub(super) fn of_model(model: &Model, services: &Services) -> Result<Vec<Held>> {
    let network = model.network().as_ref();
    Ok(saving::diffusion(network, held_in(network, services))?)
}

pub(super) fn of_clip(clip: &Clip) -> Result<Vec<Held>> {
    Ok(saving::text_encoder(clip.0.as_ref())?)
}

fn of_vae(vae: &Vae, services: &Services) -> Result<Vec<Held>> {
    let plain = if services.card.is_some() { Dtype::Bf16 } else { computed_in(services.arithmetic.vae) };
    Ok(saving::vae(vae.0.as_ref(), Some(plain))?)
}

fn under(place: &str, tensors: Vec<Held>) -> impl Iterator<Item = Held> {
    tensors.into_iter().map(move |tensor| tensor.under(place))
}

struct ModelSave;

inputs! {
    struct ModelSaveIn {
        model: Arc<Model> = socket(),
        filename_prefix: String = text().default("diffusion_models/ComfyUI"),
    }
}

impl Node<Services> for ModelSave {
    const CARD: Card =
        Card::new("ModelSave", "ModelSave", CATEGORY).module(MODULE).output().hidden(PROMPT_AND_PNGINFO);
    type In = ModelSaveIn;
    type Out = ();

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let tensors = under(saving::DIFFUSION, of_model(&input.model, run.host)?).collect();
        let metadata = text_chunks(run);
        write(tensors, &input.filename_prefix, Some(metadata), run)
    }
}

struct CLIPSave;

inputs! {
    struct CLIPSaveIn {
        clip: Arc<Clip> = socket(),
        filename_prefix: String = text().default("clip/ComfyUI"),
    }
}

/// Text encoders that ComfyUI writes to a file of their own, which has their name after the prefix.
const APART: [&str; 11] = [
    "clip_l",
    "clip_g",
    "clip_h",
    "t5xxl",
    "pile_t5xl",
    "mt5xl",
    "umt5xxl",
    "t5base",
    "gemma2_2b",
    "llama",
    "hydit_clip",
];

impl Node<Services> for CLIPSave {
    const CARD: Card =
        Card::new("CLIPSave", "CLIPSave", CATEGORY).module(MODULE).output().hidden(PROMPT_AND_PNGINFO);
    type In = CLIPSaveIn;
    type Out = ();

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let mut rest = of_clip(&input.clip)?;
        let metadata: Vec<_> =
            std::iter::once(("format".to_owned(), "pt".to_owned())).chain(text_chunks(run)).collect();
        for encoder in APART.into_iter().chain([""]) {
            let place = if encoder.is_empty() { String::new() } else { format!("{encoder}.") };
            let (own, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|tensor| tensor.name().starts_with(&place));
            rest = others;
            if own.is_empty() {
                continue;
            }
            let plain = |name: &str| {
                let name = &name[place.len()..];
                name.strip_prefix("transformer.").unwrap_or(name).to_owned()
            };
            let own = own.into_iter().map(|tensor| tensor.named(plain)).collect();
            let prefix = match encoder {
                "" => input.filename_prefix.clone(),
                encoder => format!("{}_{encoder}", input.filename_prefix),
            };
            write(own, &prefix, Some(metadata.clone()), run)?;
        }
        Ok(())
    }
}

struct VAESave;

inputs! {
    struct VAESaveIn {
        vae: Arc<Vae> = socket(),
        filename_prefix: String = text().default("vae/ComfyUI_vae"),
    }
}

impl Node<Services> for VAESave {
    const CARD: Card =
        Card::new("VAESave", "VAESave", CATEGORY).module(MODULE).output().hidden(PROMPT_AND_PNGINFO);
    type In = VAESaveIn;
    type Out = ();

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let (tensors, metadata) = (of_vae(&input.vae, run.host)?, text_chunks(run));
        write(tensors, &input.filename_prefix, Some(metadata), run)
    }
}

struct CheckpointSave;

inputs! {
    struct CheckpointSaveIn {
        model: Arc<Model> = socket(),
        clip: Arc<Clip> = socket(),
        vae: Arc<Vae> = socket(),
        filename_prefix: String = text().default("checkpoints/ComfyUI"),
    }
}

impl Node<Services> for CheckpointSave {
    const CARD: Card = Card::new("CheckpointSave", "Save Checkpoint", CATEGORY)
        .module(MODULE)
        .output()
        .hidden(PROMPT_AND_PNGINFO);
    type In = CheckpointSaveIn;
    type Out = ();

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let model = under(saving::DIFFUSION, of_model(&input.model, run.host)?);
        let clip = under(saving::TEXT, of_clip(&input.clip)?);
        let vae = under(saving::VAE, of_vae(&input.vae, run.host)?);
        let (tensors, metadata) = (model.chain(clip).chain(vae).collect(), text_chunks(run));
        write(tensors, &input.filename_prefix, Some(metadata), run)
    }
}
