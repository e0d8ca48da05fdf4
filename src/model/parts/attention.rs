//! Scaled dot-product attention.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::rows::with_slices;
use crate::device::ops::{Matrix, MatrixMut, Softmax, Threads, gemm};
use crate::model::Result;

/// Queries a thread looks at together, and keys in one block. Their scores stay in its cache; the whole
/// score matrix of a long sequence would be gigabytes.
const CHUNK: usize = 128;
const BLOCK: usize = 1024;

/// `softmax(scale * q kᵀ + mask) v`.
///
/// `q`: (batch, heads, queries, width); `k`, `v`: (batch, heads', keys, width), where heads' divides heads
/// and each of their heads serves consecutive heads of `q`. `mask`: (queries, keys), added to the scores.
/// Gives (batch, heads, queries, width) in the type of `q`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let (_, heads, queries, width) = q.dims4()?;
    let (_, key_heads, keys, _) = k.dims4()?;
    let mask = match mask {
        Some(mask) => Some(mask.broadcast_as((queries, keys))?.flatten_all()?.to_vec1::<f32>()?),
        None => None,
    };
    let mut out = vec![0.0; q.elem_count()];
    let head = Head { keys, width, scale: scale as f32 };
    with_slices([q, k, v], |[q, k, v]| {
        out.par_chunks_mut(queries * width).enumerate().for_each(|(index, out)| {
            let served = (index / heads * key_heads + index % heads * key_heads / heads) * keys * width;
            let (k, v) = (&k[served..][..keys * width], &v[served..][..keys * width]);
            let q = &q[index * queries * width..][..queries * width];
            let chunks = out.par_chunks_mut(CHUNK * width).zip(q.par_chunks(CHUNK * width)).enumerate();
            chunks.for_each(|(chunk, (out, q))| {
                let mask = mask.as_ref().map(|mask| &mask[chunk * CHUNK * keys..]);
                head.attend(q, k, v, mask, out);
            });
        });
    })?;
    Ok(Tensor::from_vec(out, q.shape(), &Device::Cpu)?.to_dtype(q.dtype())?)
}

/// One head: its sizes.
struct Head {
    keys: usize,
    width: usize,
    scale: f32,
}

impl Head {
    /// A chunk of queries against all keys, block by block. `mask`: (queries, keys).
    fn attend(&self, q: &[f32], k: &[f32], v: &[f32], mask: Option<&[f32]>, out: &mut [f32]) {
        let (keys, width) = (self.keys, self.width);
        let queries = q.len() / width;
        let mut softmax = vec![Softmax::default(); queries];
        let mut scores = vec![0.0; queries * BLOCK.min(keys)];
        for first in (0..keys).step_by(BLOCK) {
            let count = BLOCK.min(keys - first);
            let scores = &mut scores[..queries * count];
            gemm(
                Matrix::by_rows(q, queries, width, width),
                Matrix::by_rows(&k[first * width..], count, width, width).transposed(),
                MatrixMut::by_rows(scores, queries, count, count),
                false,
                Threads::One,
            );
            let rows = scores.chunks_mut(count).zip(out.chunks_mut(width)).zip(&mut softmax);
            for (index, ((scores, out), softmax)) in rows.enumerate() {
                let mask = mask.map(|mask| &mask[index * keys + first..][..count]);
                let factor = softmax.absorb(scores, self.scale, mask);
                for out in out {
                    *out *= factor;
                }
            }
            gemm(
                Matrix::by_rows(scores, queries, count, count),
                Matrix::by_rows(&v[first * width..], count, width, width),
                MatrixMut::by_rows(out, queries, width, width),
                true,
                Threads::One,
            );
        }
        for (out, softmax) in out.chunks_mut(width).zip(softmax) {
            for out in out {
                *out /= softmax.sum();
            }
        }
    }
}
