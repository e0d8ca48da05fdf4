//! Sets: the files that belong together, each from one repository into one model folder.

use std::path::Path;

use serde::Deserialize;

use super::{Error, Result};
use crate::paths::MODEL_FOLDERS;

macro_rules! shipped {
    ($($name:literal)*) => {
        /// The sets inside the binary: name and text of each.
        const SHIPPED: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../models/", $name, ".toml")))),*];
    };
}

shipped! {
    "qwen-image-edit-2509"
    "qwen-image-edit-2509-lightning"
    "qwen-image-edit-2511"
    "qwen-image-edit-2511-lightning"
    "qwen-image"
    "qwen-image-lightning"
    "qwen-image-2.1"
}

/// Files that belong together.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    #[serde(skip)]
    pub name: String,
    /// What it is good for, in a few words.
    pub about: String,
    /// An SPDX name, or the name its owner gave it.
    pub licence: String,
    #[serde(rename = "file")]
    pub files: Vec<ModelFile>,
}

/// One file of a set.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// `owner/name` at the hub.
    pub repository: String,
    #[serde(default = "main_branch")]
    pub revision: String,
    /// Inside the repository, with `/` between folders.
    pub path: String,
    /// The model folder it belongs into.
    pub folder: String,
    /// In bytes, where known when the set was written.
    pub size: Option<u64>,
    /// In hexadecimal, likewise. No other file is taken.
    pub sha256: Option<String>,
}

fn main_branch() -> String {
    "main".to_owned()
}

impl ModelFile {
    /// What it is called on disk.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    fn problem(&self) -> Option<String> {
        let is_name = |text: &str| !matches!(text, "" | "." | "..") && !text.contains(['\\', '\0', ':']);
        if !MODEL_FOLDERS.iter().any(|(key, _)| *key == self.folder) {
            return Some(format!("`{}` is no model folder", self.folder));
        }
        if self.repository.split('/').count() != 2 || !self.repository.split('/').all(is_name) {
            return Some(format!("`{}` is no repository; expected owner/name", self.repository));
        }
        if !self.path.split('/').all(is_name) {
            return Some(format!("`{}` is no path inside a repository", self.path));
        }
        let is_digest = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let wrong = self.sha256.as_ref().filter(|text| !is_digest(text))?;
        Some(format!("`{wrong}` is no SHA-256 digest; expected 64 hexadecimal digits"))
    }
}

impl Set {
    /// Every set inside the binary.
    pub fn shipped() -> Result<Vec<Self>> {
        SHIPPED.iter().map(|(name, text)| Self::parse(name, text)).collect()
    }

    /// A set by its name, or by the path of a file like those in `models/`.
    pub fn find(name: &str) -> Result<Self> {
        if let Some((name, text)) = SHIPPED.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        let path = Path::new(name);
        if path.extension().is_some_and(|suffix| suffix == "toml") {
            let text = std::fs::read_to_string(path).map_err(Error::disk(path))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            return Self::parse(&name, text.trim_start_matches('\u{feff}'));
        }
        let there = SHIPPED.iter().map(|(name, _)| (*name).to_owned()).collect();
        Err(Error::NoSet { name: name.to_owned(), there })
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let bad = |problem: String| Error::Set { name: name.to_owned(), problem };
        let mut set: Self = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
        name.clone_into(&mut set.name);
        for file in &mut set.files {
            file.sha256 = file.sha256.as_deref().map(str::to_ascii_lowercase);
        }
        match set.files.iter().find_map(ModelFile::problem) {
            Some(problem) => Err(bad(problem)),
            None => Ok(set),
        }
    }

    /// The shipped set to fetch for a name that is wanted: the one with a file of that name, or else the one whose
    /// own name is in it, however it is spelt.
    pub fn for_file(wanted: &str) -> Option<Self> {
        let plain = |text: &str| text.to_lowercase().replace(['_', ' ', '.'], "-");
        let base = wanted.rsplit('/').next().unwrap_or(wanted);
        let sets = Self::shipped().ok()?;
        let exact = sets.iter().position(|set| set.files.iter().any(|file| file.name() == base));
        let alike = || {
            let is_in = |set: &&Self| plain(wanted).contains(&plain(&set.name));
            let longest = sets.iter().filter(is_in).max_by_key(|set| set.name.len())?;
            sets.iter().position(|set| set.name == longest.name)
        };
        let found = exact.or_else(alike)?;
        sets.into_iter().nth(found)
    }

    /// The bytes of all files, where every size is known.
    pub fn size(&self) -> Option<u64> {
        self.files.iter().map(|file| file.size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_inside_the_binary_is_complete() {
        let sets = Set::shipped().expect("readable sets");
        assert!(
            sets.iter().any(|set| set.name == super::super::USUAL_SET && set.size() == Some(30_069_112_062))
        );
        assert!(sets.iter().all(|set| !set.files.is_empty() && !set.about.is_empty()));
    }

    #[test]
    fn names_that_never_existed_lead_to_the_set_that_was_meant() {
        let set = |name: &str| Set::for_file(name).map(|set| set.name);
        for name in [
            "qwen_image_vae.safetensors",
            "Qwen-Image-Edit-2509-FP8.safetensors",
            "qwen-image-edit-2509/diffusion_pytorch_model.safetensors",
        ] {
            assert_eq!(set(name).as_deref(), Some("qwen-image-edit-2509"), "{name}");
        }
        assert_eq!(
            set("Qwen-Image-Lightning-4steps-V1.0-bf16.safetensors").as_deref(),
            Some("qwen-image-lightning")
        );
        assert_eq!(set("qwen_image_2.1_int8_convrot.safetensors").as_deref(), Some("qwen-image-2.1"));
        assert_eq!(set("flux1-dev.safetensors"), None);
    }

    #[test]
    fn sets_cannot_name_places_outside_the_model_folders() {
        let set = |folder: &str, path: &str| {
            let text = format!(
                "about = 'x'\nlicence = 'x'\n[[file]]\nrepository = 'a/b'\nfolder = '{folder}'\npath = '{path}'"
            );
            Set::parse("test", &text)
        };
        assert!(set("vae", "a/b.safetensors").is_ok());
        for (folder, path) in
            [("../x", "b"), ("vae", "a/.."), ("vae", "/b"), ("vae", "a\\b"), ("vae", "a//b")]
        {
            assert!(matches!(set(folder, path), Err(Error::Set { .. })), "{folder} {path}");
        }
    }
}
