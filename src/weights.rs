//! Tensors on disk: safetensors headers, memory maps, dtypes (fp8 and its scales).
//!
//! A [`File`] is mapped, never read as a whole; networks are built from a [`Weights`], a place in such a
//! file, and keep their matrices as [`Stored`]: borrowed from the map, widened when used. Deliberately does
//! not know what a network is.

use std::path::PathBuf;

use crate::stop::Stopped;

mod dtype;
mod file;
mod fp8;
mod header;
mod held;
mod kept;
mod layout;
mod pages;
mod patch;
mod pickle;
mod place;
mod save;

pub use dtype::Dtype;
pub use file::File;
pub use fp8::Fp8;
pub use header::{Entry, Header, HeaderError};
pub use held::Held;
pub use kept::Kept;
pub use layout::{BadLine, Layout};
pub use pages::{Memory, Pages, Parts, Resident, Row, Stay};
pub use patch::{Change, Patch, Patched, Patches};
pub use place::{MARK as SCALED_FP8, Misshapen, Storage, Stored, Weights};
pub use save::{to_bytes, write_file};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open {path}: {source}")]
    Open { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is a folder; expected one .safetensors file with the whole network, as ComfyUI's repackaged \
         downloads have it, not a diffusers folder"
    )]
    Folder { path: PathBuf },
    #[error(
        "{path} is part {shard} of {shards} of a network; expected one .safetensors file with the whole \
         network, as ComfyUI's repackaged downloads have it, not a diffusers folder"
    )]
    Shard { path: PathBuf, shard: usize, shards: usize },
    #[error(
        "{path} is a PyTorch pickle that cannot be unpacked: {reason}; expected a .safetensors file, as converters make of it"
    )]
    Pickled { path: PathBuf, reason: String },
    #[error("{path} cannot be used: {source}")]
    Invalid { path: PathBuf, source: Box<HeaderError> },
    #[error("{} missing in {file}: {}", tensors_are(.names.len()), quoted(.names))]
    Missing { file: String, names: Vec<String> },
    #[error("{}", misshapen(.file, .tensors))]
    Shape { file: String, tensors: Vec<Misshapen> },
    #[error("tensor `{name}` in {file}: expected numbers that a network computes with, found {dtype}")]
    NotNumbers { file: String, name: String, dtype: &'static str },
    #[error(
        "layer `{layer}` in {file} is kept in a format that this server does not read: {format}; take the file of this \
         model in BF16, FP8 or INT8"
    )]
    Format { file: String, layer: String, format: String },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error(
        "a file of {needed} bytes does not fit into {folder}, whose disk has {free} left; make room there, or write \
         less: a model that is loaded as fp8 is saved as fp8"
    )]
    Room { folder: PathBuf, needed: u64, free: u64 },
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error("cannot write tensors: {0}")]
    Save(#[from] safetensors::SafeTensorError),
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

fn tensors_are(count: usize) -> String {
    if count == 1 { "1 tensor is".to_owned() } else { format!("{count} tensors are") }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn misshapen(file: &str, tensors: &[Misshapen]) -> String {
    let line = |tensor: &Misshapen| {
        let Misshapen { name, expected, found } = tensor;
        format!("tensor `{name}` in {file}: expected {expected:?}, found {found:?}")
    };
    tensors.iter().map(line).collect::<Vec<_>>().join("; ")
}
