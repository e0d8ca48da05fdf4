//! Checkpoints of PyTorch's own format, which older files have: tensors in a zip archive, named by a pickle.
//!
//! Nothing in a pickle is executed: only what names tensors is understood. Such files cannot be mapped, so they become
//! a safetensors file without a name, which can.

use std::io::Write;
use std::path::Path;

use candle_core::Tensor;
use candle_core::pickle::read_all_with_key;

use super::{Error, Result, to_bytes};

/// How such a file begins.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

/// The largest file that is unpacked: its tensors are in memory for a moment.
const LARGEST: u64 = 2 << 30;

/// Where tensors are kept below the top, by trainers that keep other things beside them.
const KEYS: [Option<&str>; 4] = [None, Some("params_ema"), Some("params"), Some("state_dict")];

/// The same tensors, as F32, in a safetensors file that vanishes when it is closed.
pub(super) fn unpacked(path: &Path, size: u64) -> Result<std::fs::File> {
    let refused = |reason: String| Error::Pickled { path: path.to_owned(), reason };
    if size > LARGEST {
        return Err(refused(format!("it is larger than {} GB", LARGEST >> 30)));
    }
    let tensors = KEYS
        .iter()
        .find_map(|key| read_all_with_key(path, *key).ok().filter(|tensors| !tensors.is_empty()))
        .ok_or_else(|| refused("no tensors were found in it".to_owned()))?;
    let mut tensors: Vec<(&str, &Tensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    tensors.sort_by_key(|(name, _)| *name);
    let bytes = to_bytes(&tensors, Vec::new())?;
    let write = || {
        let mut file = tempfile::tempfile()?;
        file.write_all(&bytes)?;
        Ok(file)
    };
    write().map_err(|error: std::io::Error| refused(error.to_string()))
}
