//! Tensors as the bytes of a safetensors file.

use candle_core::{DType, Tensor};
use safetensors::tensor::TensorView;

use super::Result;

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
