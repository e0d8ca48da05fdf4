//! What lies in the model folders, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use crate::fetch::{Set, USUAL_SET};
use crate::model::{self, Identity};
use crate::paths::{Folders, MODEL_FOLDERS};
use crate::weights::{self, File};

/// One file of a model folder.
pub(super) struct Entry {
    pub(super) folder: &'static str,
    /// As clients name it.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// In bytes.
    pub(super) size: u64,
    pub(super) content: Result<Content, weights::Error>,
}

/// What a readable file holds.
pub(super) struct Content {
    pub(super) identity: Identity,
    /// The numbers in it, of every type.
    pub(super) parameters: u64,
    /// The types of its tensors, and how many numbers are of each; the most first.
    pub(super) dtypes: Vec<(&'static str, u64)>,
}

/// Something that is not as it should be.
pub(super) struct Fault {
    /// Whether something cannot work, or could be meant so.
    pub(super) is_fatal: bool,
    pub(super) place: String,
    pub(super) problem: String,
    pub(super) mend: String,
}

impl Fault {
    pub(super) fn document(&self) -> Json {
        let level = if self.is_fatal { "fail" } else { "warn" };
        json!({"level": level, "place": self.place, "problem": self.problem, "mend": self.mend})
    }
}

/// Reads the header of every file in every model folder.
pub(super) fn read(folders: &Folders) -> Vec<Entry> {
    let entry = |folder: &'static str, name: String| {
        let path = folders.model(folder, &name).ok()?;
        let size = path.metadata().map_or(0, |about| about.len());
        Some(Entry { folder, name, content: File::open(&path).map(|file| content(&file)), path, size })
    };
    let keys = MODEL_FOLDERS.iter().map(|(key, _)| *key);
    keys.flat_map(|key| folders.model_names(key).into_iter().filter_map(move |name| entry(key, name)))
        .collect()
}

fn content(file: &std::sync::Arc<File>) -> Content {
    let header = file.header();
    let mut counts = BTreeMap::<&str, u64>::new();
    for entry in header.names("").filter_map(|name| header.get(name)) {
        *counts.entry(entry.dtype.name()).or_default() +=
            entry.shape.iter().map(|side| *side as u64).product::<u64>();
    }
    let mut dtypes: Vec<_> = counts.into_iter().collect();
    dtypes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let parameters = dtypes.iter().map(|(_, count)| count).sum();
    Content { identity: model::identify(file), parameters, dtypes }
}

/// Everything that is wrong with the files.
pub(super) fn faults(entries: &[Entry], folders: &Folders) -> Vec<Fault> {
    let mut told = BTreeSet::new();
    let mut faults: Vec<_> = entries
        .iter()
        .filter_map(|entry| match &entry.content {
            // One for the whole folder is enough.
            Err(weights::Error::Shard { shards, .. }) => {
                let folder = entry.path.parent()?;
                told.insert(folder.to_owned()).then(|| sharded(folder, *shards))
            }
            Err(error) => Some(unreadable(entry, error)),
            Ok(content) => misplaced(entry, &content.identity),
        })
        .collect();
    faults.extend(unfinished(folders));
    faults
}

fn sharded(folder: &Path, shards: usize) -> Fault {
    let set = Set::for_file(&folder.to_string_lossy().replace('\\', "/"));
    let set = set.or_else(|| Set::find(USUAL_SET).ok());
    let mend = set.map_or_else(String::new, |set| {
        let names: Vec<_> = set.files.iter().map(|file| format!("{}/{}", file.folder, file.name())).collect();
        format!("`comfyd fetch-models {}` gets {}", set.name, names.join(", "))
    });
    Fault {
        is_fatal: true,
        place: folder.display().to_string(),
        problem: format!(
            "it holds a network in {shards} parts, as diffusers has it; expected one file for each network, as \
             ComfyUI's loaders need it"
        ),
        mend,
    }
}

fn unreadable(entry: &Entry, error: &weights::Error) -> Fault {
    let problem = match error {
        weights::Error::Invalid { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    let mend = match Set::for_file(&entry.name) {
        Some(set) => format!("delete it, then `comfyd fetch-models {}`", set.name),
        None => "delete it and download it again".to_owned(),
    };
    Fault { is_fatal: true, place: entry.path.display().to_string(), problem, mend }
}

fn misplaced(entry: &Entry, identity: &Identity) -> Option<Fault> {
    let place = entry.path.display().to_string();
    if let Some(folder) = identity.folder.filter(|folder| *folder != entry.folder) {
        let problem = format!("it is {}, in a folder for other files ({})", identity.kind, entry.folder);
        return Some(Fault { is_fatal: true, place, problem, mend: format!("move it into models/{folder}") });
    }
    identity.families.is_empty().then(|| Fault {
        is_fatal: false,
        place,
        problem: format!("it is {}, which this server cannot run", identity.kind),
        mend: "nothing to do, unless a graph names it".to_owned(),
    })
}

/// Downloads that have not ended.
fn unfinished(folders: &Folders) -> Vec<Fault> {
    let roots = MODEL_FOLDERS.iter().flat_map(|(key, _)| folders.model_folders(key));
    let files = roots.filter_map(|root| std::fs::read_dir(root).ok()).flatten().flatten();
    let parts = files.filter_map(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        let set = Set::for_file(name.strip_suffix(".part")?);
        let mend = set.map_or_else(
            || "end the download, or delete it".to_owned(),
            |set| format!("`comfyd fetch-models {}` goes on with it", set.name),
        );
        let (place, problem) =
            (file.path().display().to_string(), "a download that has not ended".to_owned());
        Some(Fault { is_fatal: false, place, problem, mend })
    });
    parts.collect()
}
