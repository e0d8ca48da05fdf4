//! Scaled dot-product attention.

use candle_core::{DType, Tensor};

use crate::model::Result;

/// Scores held at a time. A whole score matrix of a long sequence would be gigabytes.
const SCORES: usize = 1 << 24;

/// `softmax(scale * q kᵀ + mask) v`, in chunks of queries.
///
/// `q`: (batch, heads, queries, width); `k`, `v`: (batch, heads', keys, width), where heads' divides heads
/// and each of their heads serves consecutive heads of `q`. `mask`: (queries, keys), added to the scores.
/// Gives (batch, heads, queries, width) in the type of `q`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let (batch, heads, queries, _) = q.dims4()?;
    let keys = k.dim(2)?;
    let wide = |x: &Tensor| x.to_dtype(DType::F32)?.contiguous();
    let scaled = (wide(q)? * scale)?;
    let transposed = wide(&repeat_heads(k, heads)?)?.transpose(2, 3)?;
    let values = wide(&repeat_heads(v, heads)?)?;
    let chunk = (SCORES / (batch * heads * keys)).clamp(1, queries.max(1));
    let mut outputs = Vec::with_capacity(queries.div_ceil(chunk));
    for first in (0..queries).step_by(chunk) {
        let count = chunk.min(queries - first);
        let mut scores = scaled.narrow(2, first, count)?.contiguous()?.matmul(&transposed)?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(&mask.narrow(0, first, count)?)?;
        }
        outputs.push(candle_nn::ops::softmax_last_dim(&scores)?.matmul(&values)?);
    }
    Ok(Tensor::cat(&outputs, 2)?.to_dtype(q.dtype())?)
}

/// (batch, heads', keys, width) to (batch, heads, keys, width).
fn repeat_heads(x: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (batch, own, keys, width) = x.dims4()?;
    if own == heads {
        return Ok(x.clone());
    }
    let times = heads / own;
    x.unsqueeze(2)?.expand((batch, own, times, keys, width))?.reshape((batch, heads, keys, width))
}
