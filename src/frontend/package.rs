//! The published package: a wheel, which is a zip archive, with the pages below one folder of it.
//!
//! Although its digest was checked, it is read as a stranger's: no entry may lead out of its folder, be a link,
//! or grow past what a web interface can need.

use std::fs::{File, create_dir_all};
use std::io::{Read, copy};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::read::ZipFile;
use zip::result::ZipError;

use super::{Error, Result};
use crate::paths::stays_inside;

/// Where the pages are inside the package.
const PAGES: &str = "comfyui_frontend_package/static";

/// Version 1.58.1 has 1,704 files of 124 MB, the largest of 20 MB.
const MOST_FILES: usize = 20_000;
const MOST_BYTES: u64 = 1 << 30;
const MOST_BYTES_OF_A_FILE: u64 = 256 << 20;

/// What a package held.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Content {
    pub files: usize,
    pub bytes: u64,
}

/// Unpacks the pages of a package into a folder. `tell` hears how many of how many entries are done.
pub(super) fn unpack(package: File, folder: &Path, tell: &mut dyn FnMut(usize, usize)) -> Result<Content> {
    let mut archive = ZipArchive::new(package).map_err(unusable)?;
    let entries = archive.len();
    if entries > MOST_FILES {
        return Err(Error::Package(format!("it has {entries} files, more than {MOST_FILES}")));
    }
    let mut content = Content::default();
    for number in 0..entries {
        let mut entry = archive.by_index(number).map_err(unusable)?;
        let name = safe_name(&entry)?;
        if entry.is_file()
            && let Ok(page) = name.strip_prefix(PAGES)
        {
            let room = MOST_BYTES_OF_A_FILE.min(MOST_BYTES - content.bytes);
            content.bytes += write(&mut entry, &folder.join(page), room)?;
            content.files += 1;
        }
        tell(number + 1, entries);
    }
    if !folder.join("index.html").is_file() {
        return Err(Error::Package(format!("there is no {PAGES}/index.html in it")));
    }
    Ok(content)
}

fn unusable(error: ZipError) -> Error {
    Error::Package(error.to_string())
}

/// The name of an entry, which must stay inside the folder it is unpacked into.
fn safe_name(entry: &ZipFile<'_, File>) -> Result<PathBuf> {
    let named = entry.name().map_err(unusable)?;
    let path = PathBuf::from(&*named);
    let is_safe = stays_inside(&path) && !named.contains(['\\', '\0']) && !entry.is_symlink();
    is_safe
        .then_some(path)
        .ok_or_else(|| Error::Package(format!("its entry {named:?} leads out of its folder, or is a link")))
}

/// Writes one file of at most `room` bytes, whatever size the archive claims for it.
fn write(entry: &mut impl Read, path: &Path, room: u64) -> Result<u64> {
    let disk = |source| Error::Disk { path: path.to_owned(), source };
    let name = path.file_name().unwrap_or_default().display();
    if let Some(parent) = path.parent() {
        create_dir_all(parent).map_err(disk)?;
    }
    let mut file = File::create_new(path).map_err(disk)?;
    let written = copy(&mut entry.take(room + 1), &mut file).map_err(|source| match source.kind() {
        // What deflate and its checksum complain about; the rest is the disk's.
        std::io::ErrorKind::InvalidData
        | std::io::ErrorKind::InvalidInput
        | std::io::ErrorKind::UnexpectedEof => {
            Error::Package(format!("its file `{name}` is damaged: {source}"))
        }
        _ => disk(source),
    })?;
    if written > room {
        return Err(Error::Package(format!("its file `{name}` is too large for a web interface")));
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_grows_past_its_room_whatever_the_archive_claims() {
        let folder = tempfile::tempdir().unwrap();
        let written = write(&mut std::io::repeat(0), &folder.path().join("bomb"), 1000);
        assert!(matches!(written, Err(Error::Package(problem)) if problem.contains("bomb")));
        assert_eq!(folder.path().join("bomb").metadata().unwrap().len(), 1001);
        assert_eq!(write(&mut &b"1234"[..], &folder.path().join("fits"), 4).unwrap(), 4);
    }
}
