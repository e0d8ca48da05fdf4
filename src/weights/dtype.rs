//! Element types a file may hold, and widening them to `f32`.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::fp8::Fp8;
use crate::device::ops::look_up;

/// The element type of a stored tensor, under its safetensors name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    Fp8(Fp8),
    Bf16,
    F16,
    F32,
    F64,
    /// Multiples of a scale that is kept beside them.
    I8,
    /// Other integers and booleans: their width in bytes. Listed and measured, never decoded.
    Other(&'static str, usize),
}

const NAMES: &[(&str, Dtype)] = &[
    ("F8_E4M3", Dtype::Fp8(Fp8::E4M3)),
    ("F8_E5M2", Dtype::Fp8(Fp8::E5M2)),
    ("BF16", Dtype::Bf16),
    ("F16", Dtype::F16),
    ("F32", Dtype::F32),
    ("F64", Dtype::F64),
    ("BOOL", Dtype::Other("BOOL", 1)),
    ("U8", Dtype::Other("U8", 1)),
    ("I8", Dtype::I8),
    ("U16", Dtype::Other("U16", 2)),
    ("I16", Dtype::Other("I16", 2)),
    ("U32", Dtype::Other("U32", 4)),
    ("I32", Dtype::Other("I32", 4)),
    ("U64", Dtype::Other("U64", 8)),
    ("I64", Dtype::Other("I64", 8)),
];

impl Dtype {
    /// The type behind a safetensors name.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, dtype)| *dtype)
    }

    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, dtype)| *dtype == self).map_or("unknown", |(name, _)| name)
    }

    /// Bytes of one element.
    pub fn width_bytes(self) -> usize {
        match self {
            Self::Fp8(_) | Self::I8 => 1,
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Other(_, width_bytes) => width_bytes,
        }
    }

    /// Whether every value is one that BF16 has as well.
    pub fn is_bf16(self) -> bool {
        matches!(self, Self::Fp8(_) | Self::I8 | Self::Bf16)
    }

    /// Whether a network can compute with it.
    pub fn is_number(self) -> bool {
        !matches!(self, Self::Other(..))
    }
}

/// Elements one thread widens at a time: large enough to amortise the hand-over, small enough for a cache.
const SLICE: usize = 1 << 15;

/// Widens little-endian elements to `f32`, on all threads.
///
/// `bytes` holds exactly `out.len()` elements of `dtype`, a type of numbers; their alignment does not
/// matter, because a header of odd length shifts everything after it.
pub fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * dtype.width_bytes(), "bytes do not match the elements asked for");
    out.par_chunks_mut(SLICE)
        .zip(bytes.par_chunks(SLICE * dtype.width_bytes()))
        .for_each(|(out, bytes)| widen_slice(dtype, bytes, out));
}

/// [`widen`] on the calling thread.
pub fn widen_slice(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::Fp8(format) => {
            let mut halves = [0; 256];
            for (out, codes) in out.chunks_mut(halves.len()).zip(bytes.chunks(halves.len())) {
                let halves = &mut halves[..codes.len()];
                look_up(format.halves(), codes, halves);
                out.iter_mut()
                    .zip(halves)
                    .for_each(|(out, half)| *out = f32::from_bits(u32::from(*half) << 16));
            }
        }
        Dtype::Bf16 => each(bytes, out, |pair| f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16)),
        Dtype::F16 => each(bytes, out, |pair| f16::from_le_bytes(pair).to_f32()),
        Dtype::F32 => each(bytes, out, f32::from_le_bytes),
        Dtype::F64 => each(bytes, out, |eight| f64::from_le_bytes(eight) as f32),
        Dtype::I8 => each(bytes, out, |byte| f32::from(i8::from_le_bytes(byte))),
        Dtype::Other(name, _) => unreachable!("{name} elements are refused before they are read"),
    }
}

/// Little-endian elements of eight or sixteen bits as BF16, all of which they are exactly, on the calling thread.
pub fn narrow(dtype: Dtype, bytes: &[u8], out: &mut [bf16]) {
    assert_eq!(bytes.len(), out.len() * dtype.width_bytes(), "bytes do not match the elements asked for");
    match dtype {
        Dtype::Fp8(format) => {
            look_up(format.halves(), bytes, out.reinterpret_cast_mut());
        }
        Dtype::Bf16 => {
            for (out, pair) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = bf16::from_le_bytes(*pair);
            }
        }
        Dtype::I8 => {
            for (out, byte) in out.iter_mut().zip(bytes) {
                // Numbers of eight bits have no more than the upper half.
                let wide = f32::from(i8::from_le_bytes([*byte])).to_bits();
                *out = bf16::from_bits((wide >> 16) as u16);
            }
        }
        other => unreachable!("{} elements are not BF16", other.name()),
    }
}

/// The little-endian bytes of a number in a type, rounded to the nearest; as many as it has count. Whole ones count
/// in 127ths.
pub fn encoded(dtype: Dtype, value: f32) -> [u8; 8] {
    let mut bytes = [0; 8];
    match dtype {
        Dtype::Fp8(format) => bytes[0] = format.encode(value),
        Dtype::Bf16 => bytes[..2].copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        Dtype::F16 => bytes[..2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        Dtype::F32 => bytes[..4].copy_from_slice(&value.to_le_bytes()),
        Dtype::F64 => bytes.copy_from_slice(&f64::from(value).to_le_bytes()),
        Dtype::I8 => bytes[0] = (value * 127.0) as i8 as u8,
        Dtype::Other(..) => {}
    }
    bytes
}

/// [`encoded`] of many, on all threads.
pub fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let width = dtype.width_bytes();
    let mut bytes = vec![0; values.len() * width];
    bytes.par_chunks_mut(SLICE * width).zip(values.par_chunks(SLICE)).for_each(|(bytes, values)| {
        for (bytes, value) in bytes.chunks_exact_mut(width).zip(values) {
            bytes.copy_from_slice(&encoded(dtype, *value)[..width]);
        }
    });
    bytes
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], widen: impl Fn([u8; N]) -> f32) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (out, element) in out.iter_mut().zip(elements) {
        *out = widen(*element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widened(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; bytes.len() / dtype.width_bytes()];
        widen(dtype, bytes, &mut out);
        out
    }

    #[test]
    fn every_type_of_numbers_widens() {
        assert_eq!(widened(Dtype::Fp8(Fp8::E4M3), &[0x38, 0xc0]), [1.0, -2.0]);
        assert_eq!(widened(Dtype::Fp8(Fp8::E5M2), &[0x3c, 0xc0]), [1.0, -2.0]);
        assert_eq!(widened(Dtype::Bf16, &[0x80, 0x3f, 0x00, 0xc0]), [1.0, -2.0]);
        assert_eq!(widened(Dtype::F16, &[0x00, 0x3c, 0x00, 0xc0]), [1.0, -2.0]);
        assert_eq!(widened(Dtype::F32, &1.5f32.to_le_bytes()), [1.5]);
        assert_eq!(widened(Dtype::F64, &1.5f64.to_le_bytes()), [1.5]);
        assert_eq!(widened(Dtype::I8, &[0x80, 0xff, 0x7f]), [-128.0, -1.0, 127.0]);
    }

    #[test]
    fn eight_and_sixteen_bits_are_narrowed_exactly() {
        let codes: Vec<u8> = (0..=255).collect();
        for dtype in [Dtype::Fp8(Fp8::E4M3), Dtype::Fp8(Fp8::E5M2), Dtype::I8, Dtype::Bf16] {
            assert!(dtype.is_bf16());
            let mut narrowed = vec![bf16::ZERO; codes.len() / dtype.width_bytes()];
            narrow(dtype, &codes, &mut narrowed);
            for (narrowed, widened) in narrowed.iter().zip(widened(dtype, &codes)) {
                assert!(
                    narrowed.to_f32().to_bits() == widened.to_bits() || widened.is_nan() && narrowed.is_nan()
                );
            }
        }
    }

    #[test]
    fn names_and_types_agree() {
        for (name, dtype) in NAMES {
            assert_eq!((Dtype::named(name), dtype.name()), (Some(*dtype), *name));
        }
    }
}
