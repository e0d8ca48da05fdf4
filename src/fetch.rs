//! Model files from the hub: which sets there are, what of them is missing, and how it gets here.
//!
//! A [`Plan`] says what would be done and what room that takes; [`fetch`] does it. A file is downloaded into
//! `NAME.part`, with a journal of its finished ranges in `NAME.part.journal`, and gets its name only when it is
//! complete and has the digest that the hub states. Deliberately does not look into the files, and reads no
//! environment: endpoint and token are arguments.

mod hub;
mod journal;
mod patience;
mod plan;
mod set;
mod transfer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::DecimalBytes;

pub use hub::{Hub, Offer};
pub use patience::Patience;
pub use plan::{Item, Plan, Search, State};
pub use set::{ModelFile, Set};
pub use transfer::{Options, Step, fetch};

/// Where everybody's models are.
pub const PUBLIC_HUB: &str = "https://huggingface.co";

/// The set that is meant where none is named.
pub const USUAL_SET: &str = "qwen-image-edit-2509";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no set `{name}`; there are: {}", .there.join(", "))]
    NoSet { name: String, there: Vec<String> },
    #[error("the set {name} cannot be used: {problem}")]
    Set { name: String, problem: String },
    #[error("`{0}` is not the address of a hub")]
    Endpoint(String),
    #[error("cannot reach {address}: {source}")]
    Unreachable { address: String, source: Box<ureq::Error> },
    #[error("{address} answers {status}{told}")]
    Status { address: String, status: u16, told: String, after: Option<Duration> },
    #[error("{repository} is open to registered users only{told}")]
    Gated { repository: String, page: String, has_token: bool, told: String },
    #[error("{address} is not there{told}")]
    Missing { address: String, told: String },
    #[error("{address} leads from one address to the next without end")]
    Loop { address: String },
    #[error("{address} does not say how large the file is")]
    NoSize { address: String },
    #[error("the address of {name} has expired")]
    Expired { name: String },
    #[error("{name} has changed at the hub: expected {expected}, found {found}")]
    Changed { name: String, expected: String, found: String },
    #[error("{address} sends the bytes {found} where {expected} were asked for")]
    OtherRange { address: String, expected: String, found: String },
    #[error("{address} sends whole files only")]
    NoRanges { address: String },
    #[error("the line was cut after {received} of {size} bytes of {name}: {problem}")]
    Cut { name: String, received: u64, size: u64, problem: String },
    #[error("{name} has the SHA-256 {found}, but the hub promises {expected}")]
    Digest { name: String, expected: String, found: String },
    #[error("{} has {found} bytes, but the hub's file has {expected}", .path.display())]
    OtherSize { path: PathBuf, expected: u64, found: u64 },
    #[error("{} is damaged: it has the SHA-256 {found}, but the hub promises {expected}", .path.display())]
    Damaged { path: PathBuf, expected: String, found: String },
    #[error(
        "not enough room in {}: {needed} bytes ({}) are needed, {free} ({}) are free",
        .folder.display(), DecimalBytes(*.needed), DecimalBytes(*.free)
    )]
    Room { folder: PathBuf, needed: u64, free: u64 },
    #[error("another comfyd is fetching models into {}", .0.display())]
    Busy(PathBuf),
    #[error("cannot use {}: {source}", .path.display())]
    Disk { path: PathBuf, source: std::io::Error },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn disk(path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Disk { path: path.to_owned(), source }
    }

    /// What the user can do about it.
    pub fn mend(&self) -> String {
        match self {
            Self::NoSet { .. } => "`comfyd fetch-models --list` tells what is in them".into(),
            Self::Set { .. } => "correct the file; those in models/ of comfyd's sources are examples".into(),
            Self::Endpoint(_) => {
                format!("a hub looks like {PUBLIC_HUB}; it is taken from HF_ENDPOINT or --endpoint")
            }
            Self::Unreachable { .. } | Self::Cut { .. } => {
                "check the network and HTTPS_PROXY, then run the command again: what has arrived is kept; \
                 HF_ENDPOINT can name a mirror"
                    .into()
            }
            Self::Status { status: 429, after, .. } => {
                let pause = after.map_or("some minutes".to_owned(), |pause| format!("{} s", pause.as_secs()));
                format!(
                    "the hub has had too many requests from here: run the command again in {pause}, or give a \
                     token in HF_TOKEN"
                )
            }
            Self::Status { .. } | Self::Loop { .. } | Self::OtherRange { .. } | Self::NoSize { .. } => {
                "run the command again later, or name another hub in HF_ENDPOINT: what has arrived is kept"
                    .into()
            }
            Self::Gated { page, has_token: false, .. } => format!(
                "accept the terms at {page}, make a token in your settings there, and give it in HF_TOKEN"
            ),
            Self::Gated { page, .. } => format!(
                "the token was sent but does not open it: accept the terms at {page} with the same account, and \
                 let the token read gated repositories"
            ),
            Self::Missing { .. } => {
                "it was renamed or removed at the hub, or the mirror in HF_ENDPOINT lacks it; private \
                 repositories look like this too unless HF_TOKEN opens them"
                    .into()
            }
            Self::Changed { .. } => {
                "a newer comfyd may know the new file; the mirror in HF_ENDPOINT may have another".into()
            }
            Self::Digest { .. } => {
                "the file was changed on its way and has been thrown away: run the command again, or name \
                 another hub in HF_ENDPOINT"
                    .into()
            }
            Self::OtherSize { path, .. } | Self::Damaged { path, .. } => {
                format!("move {} away and run the command again", path.display())
            }
            Self::Room { .. } => "free some room, or name another models folder with --dir".into(),
            Self::Busy(_) => "wait until it has ended".into(),
            Self::Disk { .. } => "check that it can be written to, or name another folder with --dir".into(),
            Self::Expired { .. } | Self::NoRanges { .. } => "run the command again".into(),
        }
    }
}
