//! Pictures in and out of a graph: loading, saving, previewing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::Services;
use crate::graph::{
    AnyNode, Card, FileName, Fingerprint, Literals, Node, NodeError, PROMPT_AND_PNGINFO, Preview,
    PreviewFormat, Result, Run, Socket, WithUi, choice, files, socket, text,
};
use crate::image::{self, Channel, Image, Mask, PREVIEW_LEVEL, SAVE_LEVEL};
use crate::paths::{self, Folders, Kind};
use crate::{choices, inputs, python_json};

pub const NODES: &[&dyn AnyNode<Services>] = &[
    &LoadImage,
    &LoadImageMask,
    &LoadImageOutput,
    &SaveImage,
    &PreviewImage,
    &MaskPreview,
    &SaveImageWebsocket,
];

impl Socket for Image {
    const NAME: &'static str = "IMAGE";
    fn describe(&self) -> Json {
        let [batch, height, width, channels] = self.shape();
        format!("{batch} x {width}x{height} pixels of {channels} channels").into()
    }
    fn bytes(&self) -> usize {
        size_of_val(self.data())
    }
}

impl Socket for Mask {
    const NAME: &'static str = "MASK";
    fn describe(&self) -> Json {
        let [batch, height, width] = self.shape();
        format!("{batch} x {width}x{height} pixels of mask").into()
    }
    fn bytes(&self) -> usize {
        size_of_val(self.data())
    }
}

impl From<image::Error> for NodeError {
    fn from(error: image::Error) -> Self {
        Self::other(error)
    }
}

impl From<paths::Error> for NodeError {
    fn from(error: paths::Error) -> Self {
        Self::other(error)
    }
}

/// The pictures at the top of a folder, by the suffix of their names, sorted.
pub(super) fn pictures_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        let picture =
            mime_guess::from_path(&name).iter().any(|guess| guess.type_() == mime_guess::mime::IMAGE);
        (picture && entry.path().is_file()).then_some(name)
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// The file that the literal `input` stands for; `None` when there is no such file.
pub(super) fn named_file(input: &str, literals: &Literals, folders: &Folders) -> Option<PathBuf> {
    let path = folders.annotated(literals.get(input)?.as_str()?, Kind::Input).ok()?;
    path.is_file().then_some(path)
}

fn check_file(literals: &Literals, folders: &Folders) -> Result<(), String> {
    match (literals.get("image").and_then(Json::as_str), named_file("image", literals, folders)) {
        (Some(name), None) => Err(format!("Invalid image file: {name}")),
        _ => Ok(()),
    }
}

/// Changes when the file that the literal `input` stands for is overwritten.
pub(super) fn fingerprint_of_file(input: &str, literals: &Literals, folders: &Folders) -> Fingerprint {
    let digest = || {
        let mut file = std::fs::File::open(named_file(input, literals, folders)?).ok()?;
        let mut hasher = Sha256::new();
        std::io::copy(&mut file, &mut hasher).ok()?;
        Some(format!("{:x}", hasher.finalize()))
    };
    digest().map_or(Fingerprint::Always, Fingerprint::Is)
}

struct LoadImage;

inputs! {
    struct LoadImageIn {
        image: FileName = files("input").with("image_upload", true),
    }
}

impl Node<Services> for LoadImage {
    const CARD: Card = Card::new("LoadImage", "Load Image", "image");
    const CHECKS: &'static [&'static str] = &["image"];
    type In = LoadImageIn;
    type Out = (Image, Mask);

    fn run(&self, input: LoadImageIn, run: &mut Run<'_, Services>) -> Result<(Image, Mask)> {
        Ok(image::load(&run.host.folders.annotated(&input.image.0, Kind::Input)?)?)
    }
    fn fingerprint(&self, literals: &Literals, host: &Services) -> Fingerprint {
        fingerprint_of_file("image", literals, &host.folders)
    }
    fn check(&self, literals: &Literals, host: &Services) -> Result<(), String> {
        check_file(literals, &host.folders)
    }
}

choices! {
    enum MaskChannel {
        Alpha = "alpha",
        Red = "red",
        Green = "green",
        Blue = "blue",
    }
}

struct LoadImageMask;

inputs! {
    struct LoadImageMaskIn {
        image: FileName = files("input").with("image_upload", true),
        channel: MaskChannel = choice(),
    }
}

impl Node<Services> for LoadImageMask {
    const CARD: Card = Card::new("LoadImageMask", "Load Image (as Mask)", "mask");
    const CHECKS: &'static [&'static str] = &["image"];
    type In = LoadImageMaskIn;
    type Out = (Mask,);

    fn run(&self, input: LoadImageMaskIn, run: &mut Run<'_, Services>) -> Result<(Mask,)> {
        let channel = match input.channel {
            MaskChannel::Alpha => Channel::Alpha,
            MaskChannel::Red => Channel::Red,
            MaskChannel::Green => Channel::Green,
            MaskChannel::Blue => Channel::Blue,
        };
        let path = run.host.folders.annotated(&input.image.0, Kind::Input)?;
        Ok((image::load_channel(&path, channel)?,))
    }
    fn fingerprint(&self, literals: &Literals, host: &Services) -> Fingerprint {
        fingerprint_of_file("image", literals, &host.folders)
    }
    fn check(&self, literals: &Literals, host: &Services) -> Result<(), String> {
        check_file(literals, &host.folders)
    }
}

/// Lists the output folder; a name without a folder still means the input folder, as in ComfyUI, whose
/// client adds ` [output]` to what it lists.
struct LoadImageOutput;

inputs! {
    struct LoadImageOutputIn {
        image: FileName = files("output").with("image_upload", true).with("image_folder", "output").with("remote", json!({
            "route": "/internal/files/output",
            "refresh_button": true,
            "control_after_refresh": "first",
        })),
    }
}

impl Node<Services> for LoadImageOutput {
    const CARD: Card = Card::new("LoadImageOutput", "Load Image (from Outputs)", "image")
        .about("Loads a picture that was made before. The refresh button brings the list up to date.")
        .experimental();
    const CHECKS: &'static [&'static str] = &["image"];
    type In = LoadImageOutputIn;
    type Out = (Image, Mask);

    fn run(&self, input: LoadImageOutputIn, run: &mut Run<'_, Services>) -> Result<(Image, Mask)> {
        Ok(image::load(&run.host.folders.annotated(&input.image.0, Kind::Input)?)?)
    }
    fn fingerprint(&self, literals: &Literals, host: &Services) -> Fingerprint {
        fingerprint_of_file("image", literals, &host.folders)
    }
    fn check(&self, literals: &Literals, host: &Services) -> Result<(), String> {
        check_file(literals, &host.folders)
    }
}

/// Writes every picture of a batch with the workflow inside, and tells clients where.
pub(super) fn save(
    image: &Image,
    kind: Kind,
    prefix: &str,
    level: u8,
    run: &Run<'_, Services>,
) -> Result<Map<String, Json>> {
    save_with(image, kind, prefix, run, |index, texts| image.picture(index).to_png(level, texts))
}

/// As [`save`], with the PNG of each picture from `to_png`, which is given the texts to put into it.
pub(super) fn save_with(
    image: &Image,
    kind: Kind,
    prefix: &str,
    run: &Run<'_, Services>,
    to_png: impl Fn(usize, &[(String, String)]) -> image::Result<Vec<u8>>,
) -> Result<Map<String, Json>> {
    let name = run.host.folders.next_output(kind, prefix, image.width(), image.height())?;
    let texts = text_chunks(run);
    let mut saved = Vec::new();
    for index in 0..image.batch() {
        run.checkpoint()?;
        let file = name.picture(index, "png");
        image::write_file(&name.folder.join(&file), &to_png(index, &texts)?)?;
        saved.push(json!({"filename": file, "subfolder": name.subfolder, "type": kind.word()}));
    }
    Ok(Map::from_iter([("images".to_owned(), saved.into())]))
}

/// The prompt, and every entry of `extra_pnginfo` (the workflow, by convention), as JSON.
pub(super) fn text_chunks(run: &Run<'_, Services>) -> Vec<(String, String)> {
    let prompt = ("prompt".to_owned(), python_json::write(&Json::Object(run.prompt().clone())));
    let extra = run.extra_pnginfo().and_then(Json::as_object);
    let extra = extra.into_iter().flatten().map(|(key, value)| (key.clone(), python_json::write(value)));
    std::iter::once(prompt).chain(extra).collect()
}

/// The prefix of temporary files: letters drawn once per node, so that its counter goes on.
pub(super) fn temporary_prefix(run: &mut Run<'_, Services>) -> String {
    run.memory(|| {
        let random = uuid::Uuid::new_v4().into_bytes();
        let letters: String = random[..5].iter().map(|byte| char::from(b'a' + byte % 26)).collect();
        format!("ComfyUI_temp_{letters}")
    })
    .clone()
}

struct SaveImage;

inputs! {
    struct SaveImageIn {
        images: Arc<Image> = socket().tooltip("The pictures to keep."),
        filename_prefix: String = text().default("ComfyUI").tooltip(
            "What file names begin with. Folders are made as needed; %date:yyyy-MM-dd% or %Empty Latent Image.width% insert values."
        ),
    }
}

impl Node<Services> for SaveImage {
    const CARD: Card = Card::new("SaveImage", "Save Image", "image")
        .about("Writes pictures to the output folder, with the workflow that made them inside.")
        .output()
        .hidden(PROMPT_AND_PNGINFO);
    type In = SaveImageIn;
    type Out = WithUi<()>;

    fn run(&self, input: SaveImageIn, run: &mut Run<'_, Services>) -> Result<WithUi<()>> {
        let ui = save(&input.images, Kind::Output, &input.filename_prefix, SAVE_LEVEL, run)?;
        Ok(WithUi { ui, outputs: () })
    }
}

struct PreviewImage;

inputs! {
    struct PreviewImageIn {
        images: Arc<Image> = socket(),
    }
}

impl Node<Services> for PreviewImage {
    const CARD: Card = Card::new("PreviewImage", "Preview Image", "image")
        .about("Shows pictures without keeping them.")
        .output()
        .hidden(PROMPT_AND_PNGINFO);
    type In = PreviewImageIn;
    type Out = WithUi<()>;

    fn run(&self, input: PreviewImageIn, run: &mut Run<'_, Services>) -> Result<WithUi<()>> {
        let prefix = temporary_prefix(run);
        Ok(WithUi { ui: save(&input.images, Kind::Temp, &prefix, PREVIEW_LEVEL, run)?, outputs: () })
    }
}

struct MaskPreview;

inputs! {
    struct MaskPreviewIn {
        mask: Arc<Mask> = socket(),
    }
}

impl Node<Services> for MaskPreview {
    const CARD: Card = Card::new("MaskPreview", "MaskPreview", "mask")
        .about("Shows masks as grey pictures without keeping them.")
        .module("comfy_extras.nodes_mask")
        .output()
        .hidden(PROMPT_AND_PNGINFO);
    type In = MaskPreviewIn;
    type Out = WithUi<()>;

    fn run(&self, input: MaskPreviewIn, run: &mut Run<'_, Services>) -> Result<WithUi<()>> {
        let prefix = temporary_prefix(run);
        let image = input.mask.to_image();
        Ok(WithUi { ui: save(&image, Kind::Temp, &prefix, SAVE_LEVEL, run)?, outputs: () })
    }
}

struct SaveImageWebsocket;

inputs! {
    struct SaveImageWebsocketIn {
        images: Arc<Image> = socket(),
    }
}

impl Node<Services> for SaveImageWebsocket {
    const CARD: Card = Card::new("SaveImageWebsocket", "SaveImageWebsocket", "api/image")
        .module("custom_nodes.websocket_image_save")
        .output();
    type In = SaveImageWebsocketIn;
    type Out = ();

    fn run(&self, input: SaveImageWebsocketIn, run: &mut Run<'_, Services>) -> Result<()> {
        let total = input.images.batch();
        for index in 0..total {
            let file = input.images.picture(index).to_png(PREVIEW_LEVEL, &[])?;
            let preview = Preview { format: PreviewFormat::Png, bytes: file.into() };
            run.preview(index as u32, total as u32, preview)?;
        }
        Ok(())
    }
    fn fingerprint(&self, _literals: &Literals, _host: &Services) -> Fingerprint {
        Fingerprint::Always
    }
}
