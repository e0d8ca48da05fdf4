//! All pictures of a folder as one batch.

use std::path::Path;

use super::Services;
use crate::graph::{AnyNode, Card, FileName, Node, NodeError, Result, Run, choice, files};
use crate::image::{Image, Kernel, Picture, Turn, open};
use crate::{choices, inputs};

pub const NODES: &[&dyn AnyNode<Services>] = &[&LoadImageSetFromFolderNode];

/// The folders below a folder, at any depth, sorted; those behind links are listed, but not what is in them.
pub(super) fn folders_in(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, above: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !entry.path().is_dir() {
                continue;
            }
            let name = if above.is_empty() { name } else { format!("{above}/{name}") };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), &name, found);
            }
            found.push(name);
        }
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found);
    found.sort();
    found
}

choices! {
    enum Resize { None = "None", Stretch = "Stretch", Crop = "Crop", Pad = "Pad" }
}

struct LoadImageSetFromFolderNode;

inputs! {
    struct LoadImageSetFromFolderNodeIn {
        folder: FileName = files("input folders").tooltip("The folder whose pictures are loaded."),
        resize_method: Option<Resize> = choice().default("None"),
    }
}

impl Node<Services> for LoadImageSetFromFolderNode {
    const CARD: Card = Card::new("LoadImageSetFromFolderNode", "Load Image Dataset from Folder", "loaders")
        .about("Loads all pictures of a folder below the input folder, in the order of their names.")
        .module("comfy_extras.nodes_train")
        .experimental();
    type In = LoadImageSetFromFolderNodeIn;
    type Out = (Image,);

    fn run(&self, input: Self::In, run: &mut Run<'_, Services>) -> Result<Self::Out> {
        const SUFFIXES: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
        let name = &input.folder.0;
        let root = &run.host.folders.input;
        if !folders_in(root).contains(name) {
            return Err(NodeError::Refused(format!("there is no folder {name} in the input folder")));
        }
        let entries = std::fs::read_dir(root.join(name)).map_err(NodeError::other)?;
        let is_picture = |path: &Path| {
            let suffix = path.extension().and_then(|suffix| suffix.to_str());
            suffix.is_some_and(|suffix| SUFFIXES.contains(&suffix.to_lowercase().as_str()))
        };
        let paths = entries.flatten().map(|entry| entry.path());
        let mut paths: Vec<_> = paths.filter(|path| is_picture(path)).collect();
        paths.sort();
        let mut pictures: Vec<Picture> = Vec::new();
        for path in &paths {
            run.checkpoint()?;
            let picture = open(path, Turn::AsStored)?.swap_remove(0).rgba.to_rgb();
            let size = pictures.first().map_or(picture.size(), Picture::size);
            pictures.push(fitted(picture, size, input.resize_method.unwrap_or(Resize::None), path)?);
        }
        if pictures.is_empty() {
            let sentence = format!("the folder {name} has no pictures: PNG, JPEG or WebP");
            return Err(NodeError::Refused(sentence));
        }
        Ok((Image::from_pictures(&pictures)?,))
    }
}

/// A picture in the size of the first one.
fn fitted(picture: Picture, size: (usize, usize), resize: Resize, path: &Path) -> Result<Picture> {
    if picture.size() == size {
        return Ok(picture);
    }
    match resize {
        Resize::Stretch | Resize::Pad => Ok(picture.resized(size, Kernel::Lanczos)?),
        Resize::Crop => Ok(picture.cut(size)),
        Resize::None => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let ((width, height), (first_width, first_height)) = (picture.size(), size);
            Err(NodeError::Refused(format!(
                "{name} has {width}x{height} pixels, and the first picture of the folder {first_width}x{first_height}; \
                 choose a `resize_method`"
            )))
        }
    }
}
