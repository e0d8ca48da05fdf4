//! One memory-mapped safetensors file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Advice, Mmap, UncheckedAdvice};

use super::header::Header;
use super::{Error, Memory, Result, pickle};

/// A checkpoint file: its header, and its bytes, mapped and never read as a whole.
pub struct File {
    path: PathBuf,
    header: Header,
    map: Arc<Mmap>,
    disk: Arc<std::fs::File>,
    /// Who decides which of its pages stay in memory; without, the system alone.
    memory: Option<Arc<Memory>>,
}

impl File {
    /// Maps a file and checks its header; no tensor is touched, except where the file has to be unpacked.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>> {
        Self::map(path.as_ref(), None)
    }

    /// [`File::open`], for networks whose weights belong to an owner of memory.
    pub fn open_in(memory: &Arc<Memory>, path: impl AsRef<Path>) -> Result<Arc<Self>> {
        Self::map(path.as_ref(), Some(memory.clone()))
    }

    fn map(path: &Path, memory: Option<Arc<Memory>>) -> Result<Arc<Self>> {
        let cannot_open = |source| Error::Open { path: path.to_owned(), source };
        if path.is_dir() {
            return Err(Error::Folder { path: path.to_owned() });
        }
        if let Some((shard, shards)) = shard_numbers(path) {
            return Err(Error::Shard { path: path.to_owned(), shard, shards });
        }
        let mut disk = std::fs::File::open(path).map_err(cannot_open)?;
        let mut map = mapped(&disk).map_err(cannot_open)?;
        if map.starts_with(pickle::MAGIC) {
            disk = pickle::unpacked(path, map.len() as u64)?;
            map = mapped(&disk).map_err(cannot_open)?;
        }
        let header = Header::parse(&map)
            .map_err(|source| Error::Invalid { path: path.to_owned(), source: Box::new(source) })?;
        let (map, disk) = (Arc::new(map), Arc::new(disk));
        Ok(Arc::new(Self { path: path.to_owned(), header, map, disk, memory }))
    }

    /// The same file with other names for what is in it.
    pub(super) fn renamed(&self, header: Header) -> Arc<Self> {
        let Self { path, map, disk, memory, .. } = self;
        let (path, map, disk, memory) = (path.clone(), map.clone(), disk.clone(), memory.clone());
        Arc::new(Self { path, header, map, disk, memory })
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

    pub(super) fn memory(&self) -> Option<&Arc<Memory>> {
        self.memory.as_ref()
    }

    /// Brings bytes into memory before they are touched; ends when they are there.
    pub(super) fn read_ahead(&self, place: &Range<usize>) {
        // The system starts to read no more than this at one call.
        const ASKED: usize = 128 << 10;
        for first in place.clone().step_by(ASKED) {
            let _ = self.map.advise_range(Advice::WillNeed, first, ASKED.min(place.end - first));
        }
        // Older systems do not know this: there the pages are mapped when they are touched.
        #[cfg(target_os = "linux")]
        let _ = self.map.advise_range(Advice::PopulateRead, place.start, place.len());
    }

    /// How many bytes it has.
    pub(super) fn length(&self) -> u64 {
        self.map.len() as u64
    }

    /// Tells the system that bytes that were let go of need not even be in its cache.
    #[cfg_attr(
        target_os = "linux",
        expect(unsafe_code, reason = "a call of the system, to which any numbers may be given")
    )]
    pub(super) fn drop_from_cache(&self, place: &Range<usize>) {
        #[cfg(target_os = "linux")]
        // SAFETY: it takes numbers only, and what it does to the cache nobody can see but by the clock.
        unsafe {
            use std::os::fd::AsRawFd as _;
            let [first, length] = [place.start, place.len()].map(|bytes| bytes as libc::off_t);
            libc::posix_fadvise(self.disk.as_raw_fd(), first, length, libc::POSIX_FADV_DONTNEED);
        }
    }

    /// Lets the memory of bytes go; they come back from the file when they are touched.
    #[expect(unsafe_code, reason = "the pages of other kinds of maps would lose what was written")]
    pub(super) fn let_go(&self, place: &Range<usize>) {
        // SAFETY: the map is of a file and read only, so its pages are the same whenever they are read again.
        let _ =
            unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, place.start, place.len()) };
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

#[expect(unsafe_code, reason = "a memory map is only sound while nobody rewrites the file")]
fn mapped(file: &std::fs::File) -> std::io::Result<Mmap> {
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
