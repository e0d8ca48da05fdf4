//! Nodes that open model files. Files are mapped and their headers checked here; weights are read when
//! they are used.

use std::sync::Arc;

use super::values::{Clip, Vae};
use super::{Arithmetic, Services};
use crate::graph::{
    AnyNode, Card, Choice, FileName, Node, NodeError, Result, Run, Same, choice, files, float, socket,
};
use crate::model::{Adapted, card, diffusion, lora, text, vae};
use crate::sampling::Model;
use crate::weights::{File, Fp8, Storage};
use crate::{choice_input, choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] =
    &[&CheckpointLoaderSimple, &UNETLoader, &CLIPLoader, &VAELoader, &LoraLoader, &LoraLoaderModelOnly];

/// Maps a file of a model folder.
pub(super) fn open(services: &Services, folder: &'static str, name: &FileName) -> Result<Arc<File>> {
    let path = services.model_file(folder, &name.0)?;
    File::open_in(&services.memory, path).map_err(NodeError::other)
}

/// The diffusion model in a file; the next two likewise.
fn model(services: &Services, file: &Arc<File>, options: diffusion::Options) -> Result<Model> {
    let network = diffusion::load(file.clone(), options)?;
    Ok(Model::new(match &services.ledger {
        Some(ledger) => ledger.diffusion(network),
        None => network,
    }))
}

/// The text encoder in a file, with a graphics card if there is one.
fn clip(services: &Services, file: &Arc<File>, kind: &str, card: Option<&card::Card>) -> Result<Clip> {
    let network = text::load(file.clone(), kind, services.arithmetic.text)?;
    let network = card.map(|card| network.on_card(card)).transpose()?.unwrap_or(network);
    Ok(Clip::new(match &services.ledger {
        Some(ledger) => ledger.text(network),
        None => network,
    }))
}

/// The autoencoder in a file, likewise.
fn autoencoder(services: &Services, file: Arc<File>) -> Result<Vae> {
    let network = vae::load(file, services.arithmetic.vae)?;
    let card = services.card.as_ref();
    let network = card.map(|card| network.on_card(card)).transpose()?.unwrap_or(network);
    Ok(Vae(match &services.ledger {
        Some(ledger) => ledger.vae(network),
        None => network,
    }))
}

/// How this server computes diffusion models.
fn options(services: &Services, storage: Storage) -> diffusion::Options {
    let Arithmetic { diffusion: compute, eight_bits_on_card, .. } = services.arithmetic;
    diffusion::Options { storage, compute, card: services.card.clone(), eight_bits_on_card }
}

struct CheckpointLoaderSimple;

inputs! {
    struct CheckpointLoaderSimpleIn {
        ckpt_name: FileName = files("checkpoints").tooltip("A file that holds all three networks."),
    }
}

impl Node<Services> for CheckpointLoaderSimple {
    const CARD: Card = Card::new("CheckpointLoaderSimple", "Load Checkpoint", "loaders")
        .about("Loads diffusion model, text encoder and VAE from one file.");
    type In = CheckpointLoaderSimpleIn;
    type Out = (Model, Clip, Vae);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let file = open(run.host, "checkpoints", &input.ckpt_name)?;
        let model = model(run.host, &file, options(run.host, Storage::AsFile))?;
        let clip = clip(run.host, &file, "", run.host.card.as_ref())?;
        Ok((model, clip, autoencoder(run.host, file)?))
    }
}

choices! {
    /// How the weights of a diffusion model are kept.
    enum WeightDtype {
        Default = "default",
        Fp8E4m3 = "fp8_e4m3fn",
        Fp8E4m3Fast = "fp8_e4m3fn_fast",
        Fp8E5m2 = "fp8_e5m2",
    }
}

impl WeightDtype {
    fn storage(self) -> Storage {
        match self {
            Self::Default => Storage::AsFile,
            // The fast variant asks for fp8 arithmetic, which no device here has.
            Self::Fp8E4m3 | Self::Fp8E4m3Fast => Storage::Rounded(Fp8::E4M3),
            Self::Fp8E5m2 => Storage::Rounded(Fp8::E5M2),
        }
    }
}

struct UNETLoader;

inputs! {
    struct UNETLoaderIn {
        unet_name: FileName = files("diffusion_models"),
        weight_dtype: WeightDtype = choice(),
    }
}

impl Node<Services> for UNETLoader {
    const CARD: Card = Card::new("UNETLoader", "Load Diffusion Model", "advanced/loaders");
    type In = UNETLoaderIn;
    type Out = (Model,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let file = open(run.host, "diffusion_models", &input.unet_name)?;
        let options = options(run.host, input.weight_dtype.storage());
        Ok((model(run.host, &file, options)?,))
    }
}

/// The `type` words of CLIPLoader. The file decides which encoder it holds; the word only rules out
/// readings that would be wrong.
#[derive(Clone, Copy)]
struct ClipType(&'static str);

const CLIP_TYPES: &[&str] = &[
    "stable_diffusion",
    "stable_cascade",
    "sd3",
    "stable_audio",
    "mochi",
    "ltxv",
    "pixart",
    "cosmos",
    "lumina2",
    "wan",
    "hidream",
    "chroma",
    "ace",
    "omnigen2",
    "qwen_image",
    "hunyuan_image",
];

/// Words of newer versions than the list that is shown, under which a file of an encoder here is read for another model:
/// the encoder says so.
const NEWER_CLIP_TYPES: &[&str] = &["krea2", "joyimage", "ideogram4"];

impl Choice for ClipType {
    fn words() -> Vec<&'static str> {
        CLIP_TYPES.to_vec()
    }
    fn from_word(word: &str) -> Option<Self> {
        CLIP_TYPES.iter().chain(NEWER_CLIP_TYPES).find(|known| **known == word).map(|known| Self(known))
    }
}
choice_input!(ClipType);

choices! {
    enum ClipDevice { Default = "default", Cpu = "cpu" }
}

struct CLIPLoader;

inputs! {
    struct CLIPLoaderIn {
        clip_name: FileName = files("text_encoders"),
        r#type: ClipType = choice().unlisted(NEWER_CLIP_TYPES),
        device: Option<ClipDevice> = choice().with("advanced", true),
    }
}

impl Node<Services> for CLIPLoader {
    const CARD: Card = Card::new("CLIPLoader", "Load CLIP", "advanced/loaders")
        .about("Loads a text encoder. For Qwen-Image: qwen_2.5_vl_7b; for Qwen-Image 2.1: qwen3vl_8b; both with the type qwen_image.");
    type In = CLIPLoaderIn;
    type Out = (Clip,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        let file = open(run.host, "text_encoders", &input.clip_name)?;
        let card = run.host.card.as_ref().filter(|_| !matches!(input.device, Some(ClipDevice::Cpu)));
        Ok((clip(run.host, &file, input.r#type.0, card)?,))
    }
}

/// The entry of VAELoader that is no file: no VAE at all, for networks that work on pixels.
const PIXEL_SPACE: &str = "pixel_space";

/// Small autoencoders for the latents of other models, listed where their encoder and decoder lie in `vae_approx`.
const SMALL: [&str; 4] = ["taesd", "taesdxl", "taesd3", "taef1"];

/// What VAELoader offers: files, and what is no file of its own.
pub(super) fn vae_names(services: &Services) -> Vec<String> {
    let parts = services.model_names("vae_approx");
    let has = |start: String| parts.iter().any(|part| part.starts_with(&start));
    let is_whole = |name: &&str| has(format!("{name}_encoder.")) && has(format!("{name}_decoder."));
    let small = SMALL.into_iter().filter(is_whole).chain([PIXEL_SPACE]);
    services.model_names("vae").into_iter().chain(small.map(str::to_owned)).collect()
}

struct VAELoader;

inputs! {
    struct VAELoaderIn {
        vae_name: FileName = files("vae"),
    }
}

impl Node<Services> for VAELoader {
    const CARD: Card = Card::new("VAELoader", "Load VAE", "loaders");
    type In = VAELoaderIn;
    type Out = (Vae,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        if input.vae_name.0 == PIXEL_SPACE {
            return Err(NodeError::Refused(
                "no diffusion model here works on pixels; choose the VAE of the model".to_owned(),
            ));
        }
        if SMALL.contains(&input.vae_name.0.as_str()) {
            return Err(NodeError::Refused(format!(
                "no diffusion model here works on the latents of {}; choose the VAE of the model",
                input.vae_name.0
            )));
        }
        let file = open(run.host, "vae", &input.vae_name)?;
        Ok((autoencoder(run.host, file)?,))
    }
}

struct LoraLoader;

inputs! {
    struct LoraLoaderIn {
        model: Arc<Model> = socket().tooltip("The diffusion model the LoRA is for."),
        clip: Arc<Clip> = socket().tooltip("The text encoder the LoRA is for."),
        lora_name: FileName = files("loras").tooltip("The file of the LoRA."),
        strength_model: f64 = float(1.0).range(-100.0, 100.0).step(0.01)
            .tooltip("How much it changes the diffusion model; below 0 it does the opposite."),
        strength_clip: f64 = float(1.0).range(-100.0, 100.0).step(0.01)
            .tooltip("How much it changes the text encoder; below 0 it does the opposite."),
    }
}

impl Node<Services> for LoraLoader {
    const CARD: Card = Card::new("LoraLoader", "Load LoRA", "loaders")
        .about("Applies a LoRA to a diffusion model and its text encoder. Several in a row add up.");
    type In = LoraLoaderIn;
    type Out = (Same<Model>, Same<Clip>);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        if input.strength_model == 0.0 && input.strength_clip == 0.0 {
            return Ok((Same(input.model), Same(input.clip)));
        }
        let file = open(run.host, "loras", &input.lora_name)?;
        let Adapted { network, mut used } =
            input.model.network().with_lora(file.clone(), input.strength_model)?;
        let clip = input.clip.0.with_lora(file.clone(), input.strength_clip)?;
        used.extend(clip.used);
        lora::report_unknown(&file, &used);
        let model = input.model.as_ref().clone().with_network(network);
        Ok((Same(Arc::new(model)), Same(Arc::new(input.clip.with_encoder(clip.network)))))
    }
}

struct LoraLoaderModelOnly;

inputs! {
    struct LoraLoaderModelOnlyIn {
        model: Arc<Model> = socket(),
        lora_name: FileName = files("loras"),
        strength_model: f64 = float(1.0).range(-100.0, 100.0).step(0.01),
    }
}

impl Node<Services> for LoraLoaderModelOnly {
    const CARD: Card = Card::new("LoraLoaderModelOnly", "LoraLoaderModelOnly", "loaders")
        .about("Applies a LoRA to a diffusion model. Several in a row add up.");
    type In = LoraLoaderModelOnlyIn;
    type Out = (Same<Model>,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        if input.strength_model == 0.0 {
            return Ok((Same(input.model),));
        }
        let file = open(run.host, "loras", &input.lora_name)?;
        let Adapted { network, used } =
            input.model.network().with_lora(file.clone(), input.strength_model)?;
        lora::report_unknown(&file, &used);
        Ok((Same(Arc::new(input.model.as_ref().clone().with_network(network))),))
    }
}
