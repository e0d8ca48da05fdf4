//! The official web interface: where it is published, and the versions of it that are installed.
//!
//! Below one folder each version lies in a folder of its own name, and the file [`ACTIVE`] names the one that is
//! served. Versions come and go while a server runs, so nothing is remembered here: every question is answered
//! from the disk. Deliberately knows neither how files are served nor the command line.

mod index;
mod install;
mod package;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

pub use index::{Index, Release, Wanted};
pub use install::{Done, Step, install};

/// The version that belongs to the ComfyUI whose API this server speaks.
pub const VERSION: &str = "1.27.10";

/// The name of the published package.
pub const PACKAGE: &str = "comfyui-frontend-package";

/// Its licence by its source repository; the package itself names none.
pub const LICENCE: &str = "GPL-3.0-only";

/// Where the package is published for everybody.
pub const PUBLIC_INDEX: &str = "https://pypi.org/simple";

/// The file that names the version in use.
const ACTIVE: &str = "active";

/// What an unfinished installation is called; the next one removes it.
const UNFINISHED: &str = ".new-";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` is not the address of a package index")]
    Address(String),
    #[error("cannot reach {address}: {source}")]
    Unreachable { address: String, source: Box<ureq::Error> },
    #[error("{address} answers {status}")]
    Status { address: String, status: u16 },
    #[error("{address} lists no files of {PACKAGE}: {problem}")]
    NoIndex { address: String, problem: String },
    #[error("`{0}` is not a version; expected one such as {VERSION}, or `latest`")]
    NoVersion(String),
    #[error("{PACKAGE} {wanted} is not published at {address}; the newest there are {}", .newest.join(", "))]
    Unpublished { wanted: String, address: String, newest: Vec<String> },
    #[error(
        "the index at {address} states no SHA-256 digest for version {version}, so nothing can be checked"
    )]
    NoDigest { address: String, version: String },
    #[error("the download ended after {received} bytes: {source}")]
    Cut { received: u64, source: std::io::Error },
    #[error("the download has {found}, but the index promises {expected}")]
    Digest { expected: String, found: String },
    #[error("the package is not usable: {0}")]
    Package(String),
    #[error("cannot write {}: {source}", .path.display())]
    Disk { path: PathBuf, source: std::io::Error },
    #[error("another installation is at work in {}", .0.display())]
    Busy(PathBuf),
    #[error("version {version} is not installed in {}; there are: {}", .folder.display(), list(.there))]
    NotInstalled { version: String, folder: PathBuf, there: Vec<String> },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Error {
    /// What the user can do about it.
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Address(_) => {
                "an index looks like https://pypi.org/simple; give it with --index or PIP_INDEX_URL"
            }
            Self::Unreachable { .. } => {
                "check the network and HTTPS_PROXY; a mirror can be named with --index or PIP_INDEX_URL"
            }
            Self::Status { status: 401 | 403, .. } => {
                "the index wants credentials: put them into its address, as in https://user:password@host/simple"
            }
            Self::Status { .. } | Self::NoIndex { .. } => {
                "the address must be that of a simple index, as pip uses it; see --index"
            }
            Self::NoVersion(_) | Self::Unpublished { .. } => {
                "leave the version out to get the one that fits, or say `latest`"
            }
            Self::NoDigest { .. } => "use an index that states digests, for example the public one",
            Self::Cut { .. } => "run the command again; what was installed before is untouched",
            Self::Digest { .. } => {
                "the file was changed on its way or the mirror is stale: nothing was installed; try another --index"
            }
            Self::Package(_) => "nothing was installed; try another version",
            Self::Disk { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "the disk is full: free some 200 MB, or choose another --base-directory"
            }
            Self::Disk { .. } => {
                "check that the folder can be written to, or choose another --base-directory"
            }
            Self::Busy(_) => "wait until it has ended",
            Self::NotInstalled { .. } => "`comfyd frontend list` shows what is installed",
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One version on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    pub version: String,
    /// The folder with its `index.html`.
    pub root: PathBuf,
}

/// The version in use below a folder, if there is one and its files are there.
pub fn active(folder: &Path) -> Option<Installed> {
    let version = std::fs::read_to_string(folder.join(ACTIVE)).ok()?;
    installed(folder, version.trim())
}

/// Every version below a folder, in the order of their names.
pub fn all(folder: &Path) -> Vec<Installed> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<_> =
        entries.filter_map(|entry| installed(folder, &entry.file_name().to_string_lossy())).collect();
    all.sort_by_cached_key(|found| index::rank(&found.version));
    all
}

fn installed(folder: &Path, version: &str) -> Option<Installed> {
    let root = folder.join(index::is_version(version).then_some(version)?);
    root.join("index.html").is_file().then(|| Installed { version: version.to_owned(), root })
}

/// Puts an installed version in use.
pub fn activate(folder: &Path, version: &str) -> Result<()> {
    find(folder, version)?;
    let path = folder.join(ACTIVE);
    let fresh = folder.join(format!("{UNFINISHED}{ACTIVE}"));
    let write = || {
        let mut file = File::create(&fresh)?;
        writeln!(file, "{version}")?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)
    };
    write().map_err(|source| Error::Disk { path: path.clone(), source })
}

/// Deletes a version. If it was in use, none is afterwards.
pub fn remove(folder: &Path, version: &str) -> Result<()> {
    let found = find(folder, version)?;
    let in_use = active(folder).is_some_and(|active| active == found);
    let delete = || {
        if in_use {
            std::fs::remove_file(folder.join(ACTIVE))?;
        }
        std::fs::remove_dir_all(&found.root)
    };
    delete().map_err(|source| Error::Disk { path: found.root.clone(), source })
}

fn find(folder: &Path, version: &str) -> Result<Installed> {
    installed(folder, version).ok_or_else(|| Error::NotInstalled {
        version: version.to_owned(),
        folder: folder.to_owned(),
        there: all(folder).into_iter().map(|found| found.version).collect(),
    })
}
