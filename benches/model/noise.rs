//! Weights without pattern.

use half::bf16;
use safetensors::Dtype;

/// Values of a few hundredths, as trained weights are: tinier ones would make sums subnormal, which processors
/// add many times slower.
pub fn noise(dtype: Dtype, count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let bits = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 48) as u16
    });
    let bits = bits.take(count);
    match dtype {
        Dtype::BF16 => {
            let value = |bits: u16| bf16::from_f32((f32::from(bits) / 32768.0 - 1.0) * 0.05);
            bits.flat_map(|bits| value(bits).to_le_bytes()).collect()
        }
        // Either sign and any mantissa; exponents of 2^-7 to 2^-4.
        Dtype::F8_E4M3 => bits.map(|bits| (bits & 0x9f) as u8).collect(),
        other => panic!("no weights of {other:?} are needed"),
    }
}
