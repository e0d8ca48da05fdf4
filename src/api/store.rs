//! Writing files whole or not at all.

use std::io;
use std::path::{Path, PathBuf};

use axum::http::StatusCode;

use super::reply::Error;

/// A file that is still being written, under a hidden name. Unless it is kept, it goes away again.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
}

impl Partial {
    /// A new, empty file in a folder that is created if need be.
    pub fn new(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!(".{}.part", uuid::Uuid::new_v4().simple()));
        std::fs::File::create_new(&path)?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the finished file its name, in place of whatever bears it.
    pub fn keep(self, target: &Path) -> io::Result<()> {
        match std::fs::rename(&self.path, target) {
            // Folders may lie on different disks, which no name can move between.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let beside = Self::new(target.parent().unwrap_or(Path::new(".")))?;
                std::fs::copy(&self.path, &beside.path)?;
                std::fs::rename(&beside.path, target)
            }
            result => result,
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove, which is no failure.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes a file whole or not at all; its folder is created.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = Partial::new(path.parent().unwrap_or(Path::new(".")))?;
    std::fs::write(partial.path(), bytes)?;
    partial.keep(path)
}

/// What a client is told when a file of its naming cannot be written.
pub(super) fn refusal(doing: &str, error: &io::Error) -> Error {
    use io::ErrorKind::{AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory};
    match error.kind() {
        InvalidFilename | InvalidInput | IsADirectory | NotADirectory | AlreadyExists => {
            let sentence = format!("This name cannot be used for a file: {error}.");
            Error::words(StatusCode::BAD_REQUEST, &sentence)
        }
        _ => Error::internal(doing, error),
    }
}
