//! Installing a version: download, check, unpack beside, and only then put in use.

use std::fs::{File, TryLockError, create_dir_all};
use std::io::{Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::index::{Index, Release, Wanted};
use super::package::{Content, unpack};
use super::{Error, Result, UNFINISHED, activate, installed};

/// The most bytes a package may have. Version 1.58.1 has 29 MB.
const MOST_BYTES: u64 = 512 << 20;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// How an installation goes on.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// The index has it; the download begins.
    Found(&'a Release),
    /// Bytes so far, and in all where that is known.
    Received { bytes: u64, of: Option<u64> },
    /// Files so far, and in all.
    Unpacked { files: usize, of: usize },
}

/// How an installation ended.
#[derive(Clone, Debug)]
pub struct Done {
    pub version: String,
    pub root: PathBuf,
    /// Files and their bytes; none where the version was installed already.
    pub unpacked: Option<(usize, u64)>,
}

/// Installs a version below a folder and puts it in use. Whatever happens, the version in use before stays so
/// until the new one is complete.
///
/// An installed version is only put in use, for which the index is not asked.
pub fn install(
    index: &Index,
    wanted: &Wanted,
    folder: &Path,
    tell: &mut dyn FnMut(Step<'_>),
) -> Result<Done> {
    let disk = |source| Error::Disk { path: folder.to_owned(), source };
    create_dir_all(folder).map_err(disk)?;
    let _alone = lock(folder)?;
    sweep(folder);
    if let Wanted::Exactly(version) = wanted
        && let Some(there) = installed(folder, version)
    {
        return put_in_use(folder, version, there.root, None);
    }
    let release = index.find(wanted)?;
    let root = folder.join(&release.version);
    if installed(folder, &release.version).is_some() {
        return put_in_use(folder, &release.version, root, None);
    }
    tell(Step::Found(&release));
    let package = download(index, &release, folder, tell)?;
    let fresh = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(folder).map_err(disk)?;
    let mut unpacked = |files, of| tell(Step::Unpacked { files, of });
    let content = unpack(package, fresh.path(), &mut unpacked)?;
    readable(fresh.path()).map_err(disk)?;
    // What lies there is no usable version, or it would have been found above.
    let _ = std::fs::remove_dir_all(&root);
    std::fs::rename(fresh.path(), &root).map_err(|source| Error::Disk { path: root.clone(), source })?;
    put_in_use(folder, &release.version, root, Some(content))
}

fn put_in_use(folder: &Path, version: &str, root: PathBuf, content: Option<Content>) -> Result<Done> {
    activate(folder, version)?;
    let unpacked = content.map(|content| (content.files, content.bytes));
    Ok(Done { version: version.to_owned(), root, unpacked })
}

/// Held while a version is installed. The system lets go of it when the process ends, however it ends.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let disk = |source| Error::Disk { path: path.clone(), source };
    let file = File::create(&path).map_err(disk)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Busy(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(disk(source)),
    }
}

/// Removes what installations left that were killed.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let path = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}

/// Downloads a version into a file without a name and checks its digest.
fn download(index: &Index, release: &Release, folder: &Path, tell: &mut dyn FnMut(Step<'_>)) -> Result<File> {
    let (mut body, of) = index.open(release)?;
    let file = NamedTempFile::with_prefix_in(UNFINISHED, folder);
    let disk = |source| Error::Disk { path: folder.to_owned(), source };
    let mut file = file.map_err(disk)?.into_file();
    let mut digest = Sha256::new();
    let mut received = 0;
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = body.read(&mut chunk).map_err(|source| Error::Cut { received, source })?;
        if count == 0 {
            break;
        }
        received += count as u64;
        if received > MOST_BYTES {
            return Err(Error::Package(format!("it is larger than {} MB", MOST_BYTES >> 20)));
        }
        digest.update(&chunk[..count]);
        file.write_all(&chunk[..count]).map_err(disk)?;
        tell(Step::Received { bytes: received, of });
    }
    let found = format!("{:x}", digest.finalize());
    if found != release.sha256 {
        let describe = |digest: &str, bytes: Option<u64>| match bytes {
            Some(bytes) => format!("{bytes} bytes with SHA-256 {digest}"),
            None => format!("SHA-256 {digest}"),
        };
        return Err(Error::Digest {
            expected: describe(&release.sha256, release.size),
            found: describe(&found, Some(received)),
        });
    }
    file.rewind().map_err(disk)?;
    Ok(file)
}

/// Lets other users of the machine read the folder, as they may the files in it: the server may run as one.
#[cfg(unix)]
fn readable(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn readable(_folder: &Path) -> std::io::Result<()> {
    Ok(())
}
