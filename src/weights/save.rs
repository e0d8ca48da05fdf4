//! Tensors as safetensors files: small ones as bytes, whole networks written tensor by tensor.

use std::io;
use std::path::Path;

use candle_core::{DType, Tensor};
use safetensors::tensor::TensorView;

use super::held::Held;
use super::layout::Layout;
use super::{Error, Result};
use crate::stop::Stopped;

/// A file of `f32` tensors by name, with texts in its metadata.
pub fn to_bytes(tensors: &[(&str, &Tensor)], metadata: Vec<(String, String)>) -> Result<Vec<u8>> {
    let bytes = |tensor: &Tensor| -> Result<Vec<u8>> {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
    };
    let bytes = tensors.iter().map(|(_, tensor)| bytes(tensor)).collect::<Result<Vec<_>>>()?;
    let views = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
        Ok((*name, TensorView::new(safetensors::Dtype::F32, tensor.dims().to_vec(), bytes)?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    Ok(safetensors::serialize(views, Some(metadata.into_iter().collect()))?)
}

/// What of a disk is left to others.
const SPARE: u64 = 64 << 20;

/// Makes a file of a network's tensors. It appears at `path` when it is whole; on an error nothing is left. `told`
/// hears how many bytes are written, and of how many.
pub fn write_file(
    path: &Path,
    tensors: &[Held],
    metadata: Option<Vec<(String, String)>>,
    told: &mut dyn FnMut(u64, u64) -> Result<(), Stopped>,
) -> Result<()> {
    let entries = tensors.iter().map(|tensor| (tensor.name(), tensor.dtype(), tensor.shape()));
    let layout = Layout::new(entries, metadata);
    let total = layout.file_bytes();
    check_room(path.parent().unwrap_or(Path::new(".")), total)?;
    let by_name: std::collections::HashMap<&str, &Held> =
        tensors.iter().map(|tensor| (tensor.name(), tensor)).collect();
    let mut done = 0;
    let written = layout.write::<Failure, _>(
        path,
        |place, put| by_name.get(&*place.name).map_or(Ok(()), |tensor| tensor.write(put)),
        &mut |bytes| {
            done += bytes;
            Ok(told(done, total)?)
        },
    );
    written.map_err(|failure| match failure {
        Failure::Stopped(stopped) => stopped.into(),
        Failure::Disk(source) => Error::Write { path: path.to_owned(), source },
    })
}

/// Why a file was not written to its end.
enum Failure {
    Stopped(Stopped),
    Disk(io::Error),
}

impl From<Stopped> for Failure {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// Whether a disk that tells how much room it has has enough.
fn check_room(folder: &Path, needed: u64) -> Result<()> {
    match fs4::available_space(folder) {
        Ok(free) if free < needed + SPARE => Err(Error::Room { folder: folder.to_owned(), needed, free }),
        _ => Ok(()),
    }
}
