//! The two eight-bit floating point formats: all 256 values of each, and rounding to them.
//!
//! Formulas: Micikevicius et al., "FP8 formats for deep learning" (2022). Decoding is a table look-up, the
//! fastest way on a CPU by an order of magnitude.

use half::f16;
use rayon::prelude::*;

use crate::device::MersenneTwister;
use crate::device::ops::Table;

/// An eight-bit floating point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fp8 {
    /// Four exponent bits, three of mantissa; no infinities, largest value 448.
    E4M3,
    /// Five exponent bits, two of mantissa; largest value 57344.
    E5M2,
}

static E4M3: [f32; 256] = table(3, 7, 0x7f);
static E5M2: [f32; 256] = table(2, 15, 0x7d);
static E4M3_HALVES: Table = halves(&E4M3);
static E5M2_HALVES: Table = halves(&E5M2);

impl Fp8 {
    /// The value of every code.
    pub fn values(self) -> &'static [f32; 256] {
        match self {
            Self::E4M3 => &E4M3,
            Self::E5M2 => &E5M2,
        }
    }

    /// The upper halves of the values of the positive codes; the lower ones are zero.
    pub fn halves(self) -> &'static Table {
        match self {
            Self::E4M3 => &E4M3_HALVES,
            Self::E5M2 => &E5M2_HALVES,
        }
    }

    /// The code nearest to a value, ties to even. Values beyond the largest finite one become it, as in
    /// PyTorch's cast to E4M3; in E5M2 they become infinite, as there. NaN stays NaN.
    pub fn encode(self, value: f32) -> u8 {
        let (mantissa_bits, bias, largest) = match self {
            Self::E4M3 => (3, 7, 0x7e),
            Self::E5M2 => (2, 15, 0x7c),
        };
        let sign = ((value.to_bits() >> 24) & 0x80) as u8;
        if value.is_nan() {
            return sign | 0x7f;
        }
        let magnitude = value.abs();
        let smallest_normal = f32::from_bits((127 + 1 - bias) << 23);
        let code = if magnitude < smallest_normal {
            let steps_per_unit = f32::from_bits((127 + bias - 1 + mantissa_bits) << 23);
            (magnitude * steps_per_unit).round_ties_even() as u32
        } else {
            let dropped = 23 - mantissa_bits;
            let bits = magnitude.to_bits() - ((127 - bias) << 23);
            let half_below = (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1);
            (bits + half_below) >> dropped
        };
        sign | code.min(largest) as u8
    }

    /// A value between two of the format becomes one of them by chance, so that on average nothing is lost;
    /// `uniform`: the chance, in [0, 1). In the arithmetic of ComfyUI, where everything is rounded to F16, the
    /// sum with the chance included: a value of the format may become the next one.
    pub fn round_by_chance(self, value: f32, uniform: f32) -> f32 {
        let (mantissa_bits, bias, largest_exponent) = match self {
            Self::E4M3 => (3, 7.0, 15.0),
            Self::E5M2 => (2, 15.0, 31.0),
        };
        let half = |x: f32| f16::from_f32(x).to_f32();
        let steps = f32::from(1u8 << mantissa_bits);
        let uniform = if half(uniform) >= 1.0 { 0.0 } else { half(uniform) };
        let magnitude = half(value).abs();
        let exponent = (half(magnitude.log2()).floor() + bias).clamp(0.0, largest_exponent);
        let normal = exponent > 0.0;
        let unit = if normal { (exponent - bias).exp2() } else { (1.0 - bias).exp2() };
        let share = half(magnitude / unit);
        let scaled = if normal { half(half(share - 1.0) * steps) } else { half(share * steps) };
        let kept = half(half(scaled + uniform).floor() / steps);
        let rounded = half(unit * if normal { half(1.0 + kept) } else { kept });
        let largest = self.values()[if self == Self::E4M3 { 0x7e } else { 0x7b }];
        let rounded = if magnitude == 0.0 { 0.0 } else { rounded.copysign(value) };
        self.round(rounded.clamp(-largest, largest))
    }

    /// [`Fp8::round_by_chance`] of values that follow each other in a tensor: one draw for each, in order.
    pub fn round_all_by_chance(self, values: &mut [f32], noise: &mut MersenneTwister) {
        let chances: Vec<f32> = values.iter().map(|_| noise.uniform()).collect();
        values.par_iter_mut().zip(&chances).with_min_len(1 << 12).for_each(|(value, chance)| {
            *value = self.round_by_chance(*value, *chance);
        });
    }

    /// The value after a trip through the format.
    pub fn round(self, value: f32) -> f32 {
        self.values()[usize::from(self.encode(value))]
    }
}

/// `first_nan` is the lowest positive code that is not a number; E5M2's infinity lies right below it.
const fn table(mantissa_bits: u32, bias: u32, first_nan: u32) -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let magnitude = code & 0x7f;
        let exponent = magnitude >> mantissa_bits;
        let mantissa = magnitude & ((1 << mantissa_bits) - 1);
        let absolute = if magnitude >= first_nan {
            f32::NAN
        } else if mantissa_bits == 2 && magnitude == 0x7c {
            f32::INFINITY
        } else if exponent == 0 {
            mantissa as f32 * f32::from_bits((127 + 1 - bias - mantissa_bits) << 23)
        } else {
            f32::from_bits(((exponent + 127 - bias) << 23) | (mantissa << (23 - mantissa_bits)))
        };
        values[code as usize] = if code < 128 { absolute } else { -absolute };
        code += 1;
    }
    values
}

const fn halves(values: &[f32; 256]) -> Table {
    let mut halves = [0; 128];
    let mut code = 0;
    while code < 128 {
        halves[code] = (values[code].to_bits() >> 16) as u16;
        code += 1;
    }
    halves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_a_round_trip() {
        for format in [Fp8::E4M3, Fp8::E5M2] {
            for (code, value) in format.values().iter().enumerate() {
                let again = format.encode(*value);
                assert!(value.is_nan() || usize::from(again) == code, "{format:?} {code:#x} {value}");
            }
        }
    }

    #[test]
    fn known_values_of_both_formats() {
        let e4m3 = Fp8::E4M3.values();
        assert_eq!((e4m3[0x7e], e4m3[0x01], e4m3[0x38], e4m3[0xb8]), (448.0, 2f32.powi(-9), 1.0, -1.0));
        assert!(e4m3[0x7f].is_nan() && e4m3[0xff].is_nan());
        let e5m2 = Fp8::E5M2.values();
        assert_eq!((e5m2[0x7b], e5m2[0x01], e5m2[0x3c]), (57344.0, 2f32.powi(-16), 1.0));
        assert!(e5m2[0x7c].is_infinite() && e5m2[0x7d].is_nan());
    }

    #[test]
    fn chance_decides_between_the_two_values_around() {
        let between = 1.0 + 0.125 * 0.25;
        let up = (0..64).filter(|draw| Fp8::E4M3.round_by_chance(between, *draw as f32 / 64.0) > 1.0).count();
        assert_eq!(up, 16);
        let step = 2f32.powi(-9);
        // F16 has no value between 7.998 and 8: the last draws of all go too far.
        let cases =
            [(-1.5 * step, 0.75, -2.0 * step), (1e4, 0.0, 448.0), (0.0, 0.9, 0.0), (1.875, 0.9995, 2.0)];
        let rounded = cases.map(|(value, chance, _)| Fp8::E4M3.round_by_chance(value, chance));
        assert_eq!(rounded.map(f32::to_bits), cases.map(|(_, _, expected)| f32::to_bits(expected)));
    }

    #[test]
    fn rounding_is_to_nearest_even_and_saturates() {
        let step = 2f32.powi(-9);
        let values = [1.0625, 1.1875, 1e9, f32::NEG_INFINITY, 0.5 * step, 1.5 * step];
        let rounded: Vec<f32> = values.into_iter().map(|value| Fp8::E4M3.round(value)).collect();
        assert_eq!(rounded, [1.0, 1.25, 448.0, -448.0, 0.0, 2.0 * step]);
        assert!(Fp8::E4M3.round(f32::NAN).is_nan());
    }
}
