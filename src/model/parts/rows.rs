//! Arithmetic over the rows of tensors, on all threads and in one pass.
//!
//! Everything between two matrix products is bound by memory, so that one fused pass is worth several of
//! the tensor library's. All of it is `f32` inside; results take the type of the first argument.

use candle_core::{DType, Device, Layout, Storage, Tensor};
use half::bf16;
use rayon::prelude::*;

use crate::device::ops::{vectorised, zeros};
use crate::model::{Error, Result};

/// Rows below this many elements are not worth handing to another thread.
const WORTH_A_THREAD: usize = 1 << 13;

/// Calls `f(index, row, out)` for every row of `x`'s last axis. Rows are numbered through.
pub fn map_rows(x: &Tensor, f: impl Fn(usize, &[f32], &mut [f32]) + Sync) -> Result<Tensor> {
    let width = x.dim(candle_core::D::Minus1)?;
    let mut out = zeros(x.elem_count());
    with_slices([x], |[values]| {
        each_row(&mut out, width, |index, out| f(index, &values[index * width..][..width], out));
    })?;
    Ok(Tensor::from_vec(out, x.shape(), &Device::Cpu)?.to_dtype(x.dtype())?)
}

/// Fails unless the rows of `x` are `expected` wide.
pub fn expect_width(x: &Tensor, expected: usize) -> Result<()> {
    let found = x.dim(candle_core::D::Minus1)?;
    if found == expected { Ok(()) } else { Err(Error::Width { expected, found }) }
}

/// Calls `f(index, out)` for every row of so many numbers.
pub fn each_row(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = out.par_chunks_mut(width).with_min_len(WORTH_A_THREAD.div_ceil(width));
    rows.enumerate().for_each(|(index, out)| f(index, out));
}

/// Calls `f` for every element.
pub fn map(x: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
    let flat = x.flatten_all()?;
    let mut out = zeros(flat.elem_count());
    with_slices([&flat], |[values]| {
        let pairs = out.par_chunks_mut(WORTH_A_THREAD).zip(values.par_chunks(WORTH_A_THREAD));
        pairs.for_each(|(out, values)| each(values, out, &f));
    })?;
    Ok(Tensor::from_vec(out, x.shape(), &Device::Cpu)?.to_dtype(x.dtype())?)
}

vectorised! {
    fn each(values: &[f32], out: &mut [f32], f: &impl Fn(f32) -> f32) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = f(*value);
        }
    }
}

/// Lends the elements of tensors, widened to `f32`, in order.
pub fn with_slices<const N: usize, T>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    with_all(&tensors, |slices| f(std::array::from_fn(|index| slices[index])))
}

/// [`with_slices`] for any number of tensors.
pub fn with_all<T>(tensors: &[&Tensor], f: impl FnOnce(&[&[f32]]) -> T) -> Result<T> {
    let wide = tensors.iter().map(|x| x.to_dtype(DType::F32)?.contiguous());
    let wide = wide.collect::<candle_core::Result<Vec<_>>>()?;
    let storages: Vec<_> = wide.iter().map(Tensor::storage_and_layout).collect();
    let slices = wide
        .iter()
        .zip(&storages)
        .map(|(x, (storage, layout))| Ok(&numbers(storage)?[layout.start_offset()..][..x.elem_count()]));
    Ok(f(&slices.collect::<Result<Vec<_>>>()?))
}

/// Lends the memory of `f32` tensors, and where in it their elements are.
pub fn with_storages<const N: usize, T>(
    tensors: [&Tensor; N],
    f: impl FnOnce([(&[f32], &Layout); N]) -> T,
) -> Result<T> {
    let storages = tensors.map(Tensor::storage_and_layout);
    let lent = storages.iter().map(|(storage, layout)| Ok((numbers(storage)?, *layout)));
    let lent = lent.collect::<Result<Vec<_>>>()?;
    Ok(f(std::array::from_fn(|index| lent[index])))
}

fn numbers(storage: &Storage) -> Result<&[f32]> {
    match storage {
        Storage::Cpu(storage) => Ok(storage.as_slice()?),
        _ => Err(candle_core::Error::Msg("expected tensors in main memory".to_owned()).into()),
    }
}

/// Rounds values to those that arithmetic in `compute` can hold.
pub fn round_to(compute: DType, values: &mut [f32]) {
    if compute == DType::BF16 {
        let round = |value: &mut f32| *value = bf16::from_f32(*value).to_f32();
        values.par_iter_mut().with_min_len(WORTH_A_THREAD).for_each(round);
    }
}

vectorised! {
    /// `x + gate * y` in place of `y`.
    pub fn add_gated(x: &[f32], gate: &[f32], y: &mut [f32]) {
        for ((y, x), gate) in y.iter_mut().zip(x).zip(gate) {
            *y = x + gate * *y;
        }
    }
}
