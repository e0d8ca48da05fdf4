//! What lies in the model folders, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::cli::report::Line;
use crate::fetch::{Set, USUAL_SET};
use crate::model::{self, Identity};
use crate::paths::{Folders, MODEL_FOLDERS};
use crate::weights::{self, File};

/// One file of a model folder.
pub(in crate::cli) struct Entry {
    pub(in crate::cli) folder: &'static str,
    /// As clients name it.
    pub(in crate::cli) name: String,
    pub(in crate::cli) path: PathBuf,
    /// In bytes.
    pub(in crate::cli) size: u64,
    pub(in crate::cli) content: Result<Content, weights::Error>,
}

/// What a readable file holds.
pub(in crate::cli) struct Content {
    pub(in crate::cli) identity: Identity,
    /// The numbers in it, of every type.
    pub(in crate::cli) parameters: u64,
    /// The types of its tensors, and how many numbers are of each; the most first.
    pub(in crate::cli) dtypes: Vec<(&'static str, u64)>,
}

/// Reads the header of every file in every model folder.
pub(in crate::cli) fn read(folders: &Folders) -> Vec<Entry> {
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
pub(in crate::cli) fn faults(entries: &[Entry], folders: &Folders) -> Vec<Line> {
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

fn sharded(folder: &Path, shards: usize) -> Line {
    let set = Set::for_file(&folder.to_string_lossy().replace('\\', "/"));
    let set = set.or_else(|| Set::find(USUAL_SET).ok());
    let mend = set.map_or_else(String::new, |set| {
        let names: Vec<_> = set.files.iter().map(|file| format!("{}/{}", file.folder, file.name())).collect();
        format!("`comfyd fetch-models {}` gets {}", set.name, names.join(", "))
    });
    let problem = format!(
        "it holds a network in {shards} parts, as diffusers has it; expected one file for each network, as ComfyUI's \
         loaders need it"
    );
    Line::fail(folder.display().to_string(), problem, mend)
}

fn unreadable(entry: &Entry, error: &weights::Error) -> Line {
    let problem = match error {
        weights::Error::Invalid { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    let mend = match Set::for_file(&entry.name) {
        Some(set) => format!("delete it, then `comfyd fetch-models {}`", set.name),
        None => "delete it and download it again".to_owned(),
    };
    Line::fail(entry.path.display().to_string(), problem, mend)
}

fn misplaced(entry: &Entry, identity: &Identity) -> Option<Line> {
    let place = entry.path.display().to_string();
    if let Some(folder) = identity.folder.filter(|folder| *folder != entry.folder) {
        let problem = format!("it is {}, in a folder for other files ({})", identity.kind, entry.folder);
        return Some(Line::fail(place, problem, format!("move it into models/{folder}")));
    }
    identity.families.is_empty().then(|| {
        let problem = format!("it is {}, which this server cannot run", identity.kind);
        Line::warn(place, problem, "nothing to do, unless a graph names it")
    })
}

/// Downloads that have not ended.
fn unfinished(folders: &Folders) -> Vec<Line> {
    let roots = MODEL_FOLDERS.iter().flat_map(|(key, _)| folders.model_folders(key));
    let files = roots.filter_map(|root| std::fs::read_dir(root).ok()).flatten().flatten();
    let parts = files.filter_map(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        let set = Set::for_file(name.strip_suffix(".part")?);
        let mend = set.map_or_else(
            || "end the download, or delete it".to_owned(),
            |set| format!("`comfyd fetch-models {}` goes on with it", set.name),
        );
        Some(Line::warn(file.path().display().to_string(), "a download that has not ended", mend))
    });
    parts.collect()
}
