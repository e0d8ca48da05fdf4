//! What users can put in a graph: the node families, and [`Services`], what nodes may use.
//!
//! Deliberately knows neither HTTP nor the queue. Each family file lists its own nodes in a `NODES`
//! table near its top; adding a node touches that file only.

mod absent;
mod built_in;
mod camera;
mod conditioning;
mod conditioning_file;
mod context_windows;
mod control;
mod control_net;
mod custom_sampling;
mod guidance;
mod hooks;
mod hooks_conditioning;
mod image;
mod image_animated;
mod image_batch;
mod image_composite;
mod image_filter;
mod image_folder;
mod image_morphology;
mod image_resize;
mod image_save;
mod image_scale;
mod image_transform;
mod latent;
mod latent_composite;
mod latent_file;
mod latent_inpaint;
mod latent_layers;
mod latent_math;
mod latent_operation;
mod latent_scale;
mod latent_transform;
mod lists;
mod loaders;
mod logic;
mod lora_save;
mod mask;
mod math;
mod merge;
mod model_patch;
mod model_save;
mod primitive;
mod qwen;
mod qwen_2_1;
mod resolution;
mod samplers;
mod sampling;
mod sigmas;
mod text;
mod text_file;
mod text_generate;
mod text_json;
mod text_regex;
mod upscale;
mod values;

use std::path::PathBuf;
use std::sync::Arc;

use crate::graph::{AnyNode, Library, NodeError, Registry, Result};
use crate::model::Compute;
use crate::model::card::Card;
use crate::model::dry::Ledger;
use crate::paths::Folders;
use crate::weights::{Memory, Pages};

/// The longest side of a picture that nodes accept.
const MAX_RESOLUTION: u32 = 16_384;

/// What the server lends its nodes. `cli` builds it once.
pub struct Services {
    pub folders: Folders,
    pub arithmetic: Arithmetic,
    /// The graphics card, if one is used.
    pub card: Option<Card>,
    /// Who decides which weights are in memory.
    pub memory: Arc<Memory>,
    /// Where networks write what they would do, if they shall do nothing.
    pub ledger: Option<Ledger>,
    /// Whether samplers show what they work on, where a prompt does not say.
    pub previews: bool,
    /// Whether they are made by a small decoder, where there is one for the latents.
    pub decoded_previews: bool,
    /// Longest side of those pictures, in pixels.
    pub preview_size: usize,
}

/// The arithmetic of each kind of network that has a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arithmetic {
    pub diffusion: Compute,
    pub text: Compute,
    pub vae: Compute,
    /// Whether a graphics card rounds the large matrices of diffusion models to eight bits.
    pub eight_bits_on_card: bool,
}

impl Arithmetic {
    /// The same for all networks.
    pub fn all(compute: Compute) -> Self {
        Self { diffusion: compute, text: compute, vae: compute, eight_bits_on_card: false }
    }

    /// What each kind of network computes with, in words.
    pub fn words(self) -> [(&'static str, &'static str); 3] {
        [("diffusion", self.diffusion), ("text", self.text), ("vae", self.vae)]
            .map(|(network, compute)| (network, compute.word()))
    }
}

impl Services {
    /// With ComfyUI's defaults on a CPU: everything in `f32`, no previews; all of the machine's memory.
    pub fn new(folders: Folders) -> Self {
        Self {
            folders,
            arithmetic: Arithmetic::default(),
            card: None,
            memory: Arc::new(Memory::new(Pages::of_the_machine())),
            ledger: None,
            previews: false,
            decoded_previews: false,
            preview_size: 512,
        }
    }

    /// The file behind a name that [`Library::names`] lists under a model folder.
    fn model_file(&self, folder: &str, name: &str) -> Result<PathBuf> {
        match (self.folders.model(folder, name), built_in::find(folder, name)) {
            (Err(_), Some(packed)) => packed.unpacked(&self.folders.cache).map_err(NodeError::other),
            (found, _) => found.map_err(NodeError::other),
        }
    }

    /// Model files of a folder, those inside the binary among them.
    fn model_names(&self, folder: &str) -> Vec<String> {
        let mut names = self.folders.model_names(folder);
        names.extend(
            built_in::FILES.iter().filter(|file| file.folder == folder).map(|file| file.name.to_owned()),
        );
        names.sort();
        names.dedup();
        names
    }
}

impl Library for Services {
    fn names(&self, folder: &str) -> Vec<String> {
        match folder {
            "input" => image::pictures_in(&self.folders.input),
            "input folders" => image_folder::folders_in(&self.folders.input),
            "input latents" => latent_file::latents_in(&self.folders.input),
            "output" => image::pictures_in(&self.folders.output),
            "vae" => loaders::vae_names(self),
            _ => self.model_names(folder),
        }
    }
}

/// Every node this server can run.
pub fn registry() -> Registry<Services> {
    let families: &[&[&'static dyn AnyNode<Services>]] = &[
        camera::NODES,
        conditioning::NODES,
        conditioning_file::NODES,
        context_windows::NODES,
        control::NODES,
        control_net::NODES,
        custom_sampling::NODES,
        guidance::NODES,
        hooks::NODES,
        hooks_conditioning::NODES,
        image::NODES,
        image_animated::NODES,
        image_batch::NODES,
        image_composite::NODES,
        image_filter::NODES,
        image_folder::NODES,
        image_morphology::NODES,
        image_resize::NODES,
        image_save::NODES,
        image_scale::NODES,
        image_transform::NODES,
        latent::NODES,
        latent_composite::NODES,
        latent_file::NODES,
        latent_inpaint::NODES,
        latent_layers::NODES,
        latent_math::NODES,
        latent_operation::NODES,
        latent_scale::NODES,
        latent_transform::NODES,
        lists::NODES,
        loaders::NODES,
        logic::NODES,
        lora_save::NODES,
        absent::NODES,
        mask::NODES,
        math::NODES,
        merge::NODES,
        model_patch::NODES,
        model_save::NODES,
        primitive::NODES,
        qwen::NODES,
        qwen_2_1::NODES,
        resolution::NODES,
        samplers::NODES,
        sampling::NODES,
        sigmas::NODES,
        sigmas::borrowed::NODES,
        text::NODES,
        text_generate::NODES,
        text_file::NODES,
        text_json::NODES,
        text_regex::NODES,
        upscale::NODES,
    ];
    Registry::new(families.iter().copied().flatten().copied())
}
