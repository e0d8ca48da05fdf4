//! One memory-mapped safetensors file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::header::Header;
use super::{Error, Result, pickle};

/// A checkpoint file: its header, and its bytes, mapped and never read as a whole.
pub struct File {
    path: PathBuf,
    header: Header,
    map: Mmap,
}

impl File {
    /// Maps a file and checks its header; no tensor is touched, except where the file has to be unpacked.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>> {
        let path = path.as_ref();
        let cannot_open = |source| Error::Open { path: path.to_owned(), source };
        if path.is_dir() {
            return Err(Error::Folder { path: path.to_owned() });
        }
        if let Some((shard, shards)) = shard_numbers(path) {
            return Err(Error::Shard { path: path.to_owned(), shard, shards });
        }
        let file = std::fs::File::open(path).map_err(cannot_open)?;
        let mut map = map(&file).map_err(cannot_open)?;
        if map.starts_with(pickle::MAGIC) {
            let unpacked = pickle::unpacked(path, map.len() as u64)?;
            map = self::map(&unpacked).map_err(cannot_open)?;
        }
        let header = Header::parse(&map)
            .map_err(|source| Error::Invalid { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Arc::new(Self { path: path.to_owned(), header, map }))
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without its folders, as error messages show it.
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

#[expect(unsafe_code, reason = "a memory map is only sound while nobody rewrites the file")]
fn map(file: &std::fs::File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only, and checkpoints are replaced by renaming, not rewritten in place; the
    // bytes are only ever read as plain numbers, for which every bit pattern is valid.
    unsafe { Mmap::map(file) }
}

/// `(2, 4)` of `model-00002-of-00004.safetensors`.
fn shard_numbers(path: &Path) -> Option<(usize, usize)> {
    let (rest, shards) = path.file_stem()?.to_str()?.rsplit_once("-of-")?;
    let (_, shard) = rest.rsplit_once('-')?;
    Some((shard.parse().ok()?, shards.parse().ok()?))
}
