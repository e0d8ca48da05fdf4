//! Scaled dot-product attention.

use candle_core::{D, DType, Device, Layout, Tensor};

use super::rows::with_storages;
use crate::device::ops::{Attention, Heads, Numbers, zeros};
use crate::model::Result;

/// `softmax(scale * q kᵀ + mask) v`.
///
/// `q`: (batch, heads, queries, width); `k`, `v`: (batch, heads', keys, width), where heads' divides heads
/// and each of their heads serves consecutive heads of `q`. `mask`: (queries, keys), added to the scores.
/// Gives (batch, queries, heads, width) in the type of `q`.
pub fn attention(
    [q, k, v]: [&Tensor; 3],
    scale: f64,
    mask: Option<&Tensor>,
    numbers: Numbers,
) -> Result<Tensor> {
    let (batch, heads, queries, width) = q.dims4()?;
    let mask = match mask {
        Some(mask) => Some(mask.broadcast_as((queries, k.dim(D::Minus2)?))?.flatten_all()?.to_vec1::<f32>()?),
        None => None,
    };
    let mut out = zeros(q.elem_count());
    // Heads may lie anywhere, but the numbers of a row follow each other.
    let rows = |x: &Tensor| {
        let x = x.to_dtype(DType::F32)?;
        if x.stride()[3] == 1 { Ok(x) } else { x.contiguous() }
    };
    with_storages([&rows(q)?, &rows(k)?, &rows(v)?], |[q, k, v]| {
        let attention = Attention {
            queries: heads_of(q),
            keys: heads_of(k),
            values: heads_of(v),
            scale: scale as f32,
            mask: mask.as_deref(),
            numbers,
        };
        attention.run(&mut out);
    })?;
    Ok(Tensor::from_vec(out, (batch, queries, heads, width), &Device::Cpu)?.to_dtype(q.dtype())?)
}

fn heads_of<'a>((data, layout): (&'a [f32], &Layout)) -> Heads<'a> {
    let (size, strides) = (layout.dims(), layout.stride());
    Heads {
        data: &data[layout.start_offset()..],
        size: [size[0], size[1], size[2], size[3]],
        strides: [strides[0], strides[1], strides[2]],
    }
}
