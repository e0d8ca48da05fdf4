//! What would be done: which files of the sets are here, which are missing, and what room they take.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::{Error, Hub, ModelFile, Offer, Patience, Result, Set, journal};
use crate::paths::Folders;

/// Held while models are fetched into a folder.
const LOCK: &str = ".comfyd-fetch.lock";

/// Everything that sets need, in their order, each file once.
#[derive(Debug)]
pub struct Plan {
    pub items: Vec<Item>,
    models: PathBuf,
}

/// One file and what is known about it.
#[derive(Debug)]
pub struct Item {
    pub set: String,
    pub licence: String,
    pub file: ModelFile,
    /// In bytes.
    pub size: u64,
    /// In hexadecimal.
    pub sha256: Option<String>,
    /// Where it is put.
    pub target: PathBuf,
    pub state: State,
}

#[derive(Debug)]
pub enum State {
    /// It is here already, perhaps in another model folder.
    Present(PathBuf),
    /// It is not here, but `there` bytes of it are.
    Missing { there: u64, offer: Offer },
}

impl Item {
    /// The bytes still to come.
    pub fn needed(&self) -> u64 {
        match self.state {
            State::Present(_) => 0,
            State::Missing { there, .. } => self.size - there,
        }
    }
}

/// Where files are looked for.
#[derive(Clone, Copy)]
pub struct Search<'a> {
    pub folders: &'a Folders,
    pub hub: &'a Hub,
    pub patience: Patience,
    /// Whether the hub's digest is wanted for files that are here already, too.
    pub verify: bool,
}

impl Plan {
    /// Looks for every file of some sets in the model folders, and asks the hub about those that are not found as
    /// the set describes them.
    pub fn new(sets: &[Set], search: Search<'_>) -> Result<Self> {
        let models = &search.folders.models;
        let mut plan = Self { items: Vec::new(), models: models.clone() };
        for set in sets {
            for file in &set.files {
                let target = models.join(&file.folder).join(file.name());
                if plan.items.iter().all(|item| item.target != target) {
                    plan.items.push(search.item(set, file, target)?);
                }
            }
        }
        Ok(plan)
    }

    /// The bytes still to come.
    pub fn needed(&self) -> u64 {
        self.items.iter().map(Item::needed).sum()
    }

    /// The room where most of it goes.
    pub fn free(&self) -> Result<u64> {
        free(&self.models)
    }

    /// Whether everything fits. Model folders may lie on several disks.
    pub fn check_room(&self) -> Result<()> {
        let mut disks: Vec<(u64, &Path, u64)> = Vec::new();
        for item in self.items.iter().filter(|item| item.needed() > 0) {
            let folder = item.target.parent().unwrap_or(&self.models);
            let disk = disk_of(folder);
            match disks.iter_mut().find(|(known, ..)| *known == disk) {
                Some((.., needed)) => *needed += item.needed(),
                None => disks.push((disk, folder, item.needed())),
            }
        }
        for (_, folder, needed) in disks {
            let free = free(folder)?;
            if needed > free {
                return Err(Error::Room { folder: folder.to_owned(), needed, free });
            }
        }
        Ok(())
    }

    /// Keeps other runs out until it is dropped.
    pub(super) fn lock(&self) -> Result<File> {
        std::fs::create_dir_all(&self.models).map_err(Error::disk(&self.models))?;
        let path = self.models.join(LOCK);
        let file = File::create(&path).map_err(Error::disk(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::Busy(self.models.clone())),
            Err(TryLockError::Error(source)) => Err(Error::Disk { path, source }),
        }
    }
}

impl Search<'_> {
    fn item(&self, set: &Set, file: &ModelFile, target: PathBuf) -> Result<Item> {
        let about = |size, sha256, state| Item {
            set: set.name.clone(),
            licence: set.licence.clone(),
            file: file.clone(),
            size,
            sha256,
            target: target.clone(),
            state,
        };
        let found = self.find(file);
        let is_enough = file.sha256.is_some() || !self.verify;
        if let Some((path, size)) = &found
            && file.size == Some(*size)
            && is_enough
        {
            return Ok(about(*size, file.sha256.clone(), State::Present(path.clone())));
        }
        let offer = self.hub.ask(file, self.patience)?;
        let (size, sha256) = (offer.size, offer.sha256.clone());
        let state = match found {
            Some((path, there)) if there == size => State::Present(path),
            Some((path, there)) => return Err(Error::OtherSize { path, expected: size, found: there }),
            None => State::Missing { there: journal::there(&target, &offer), offer },
        };
        Ok(about(size, sha256, state))
    }

    /// The file in the folders that ComfyUI's loaders look into, and its size.
    fn find(&self, file: &ModelFile) -> Option<(PathBuf, u64)> {
        self.folders.model_folders(&file.folder).into_iter().find_map(|folder| {
            let path = folder.join(file.name());
            let about = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some((path, about.len()))
        })
    }
}

/// The nearest folder that exists.
fn existing(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."))
}

fn free(folder: &Path) -> Result<u64> {
    let folder = existing(folder);
    fs4::available_space(folder).map_err(Error::disk(folder))
}

/// A number for the disk a folder is on.
#[cfg(unix)]
fn disk_of(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    existing(folder).metadata().map_or(0, |about| about.dev())
}

#[cfg(not(unix))]
fn disk_of(_folder: &Path) -> u64 {
    0
}
