//! The Box-Muller transform as torch's AVX2 code computes it: Cephes polynomials in single precision,
//! with multiply-adds fused where that code fuses them. A library's logarithm would change one value
//! in seven by a bit.
#![expect(clippy::inline_always, reason = "each function must become part of both variants below")]
#![expect(clippy::excessive_precision, reason = "the digits the Cephes library prints")]

use std::f32::consts::{FRAC_1_SQRT_2, TAU};

/// Values that are transformed together: eight pairs.
pub const BLOCK: usize = 16;
const PAIRS: usize = BLOCK / 2;

/// Turns uniform values into normal ones, 16 at a time: lanes j and j + 8 make a pair.
pub fn box_muller(values: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        #[expect(
            unsafe_code,
            reason = "a fused multiply-add is a function call unless the processor's is used"
        )]
        // SAFETY: the processor has just been asked for both features.
        unsafe {
            box_muller_fused(values);
        }
        return;
    }
    box_muller_blocks(values);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn box_muller_fused(values: &mut [f32]) {
    box_muller_blocks(values);
}

#[inline(always)]
fn box_muller_blocks(values: &mut [f32]) {
    for block in values.as_chunks_mut::<BLOCK>().0 {
        let (first, second) = block.split_at_mut(PAIRS);
        for (a, b) in first.iter_mut().zip(second) {
            let radius = (-2.0 * logarithm(1.0 - *a)).sqrt();
            let (sine, cosine) = sine_cosine(TAU * *b);
            *a = radius * cosine;
            *b = radius * sine;
        }
    }
}

/// Natural logarithm for x in (0, 1].
#[inline(always)]
fn logarithm(x: f32) -> f32 {
    const TERMS: [f32; 9] = [
        7.037_683_629_2e-2,
        -1.151_461_031_0e-1,
        1.167_699_874_0e-1,
        -1.242_014_084_6e-1,
        1.424_932_278_7e-1,
        -1.666_805_766_5e-1,
        2.000_071_476_5e-1,
        -2.499_999_399_3e-1,
        3.333_333_117_4e-1,
    ];
    const LN2_LOW: f32 = -2.121_944_40e-4;
    const LN2_HIGH: f32 = 0.693_359_375;

    let bits = x.to_bits();
    let exponent = ((bits >> 23) as i32 - 126) as f32;
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    let below = mantissa < FRAC_1_SQRT_2;
    let exponent = if below { exponent - 1.0 } else { exponent };
    let m = (mantissa - 1.0) + if below { mantissa } else { 0.0 };
    let square = m * m;
    let polynomial = polynomial(&TERMS, m) * m;
    let rest = polynomial.mul_add(square, exponent * LN2_LOW) - square * 0.5;
    exponent.mul_add(LN2_HIGH, m + rest)
}

/// Sine and cosine for x in [0, 2 pi).
#[inline(always)]
fn sine_cosine(x: f32) -> (f32, f32) {
    const FOUR_OVER_PI: f32 = 1.273_239_544_735_16;
    /// A quarter of pi in three parts, so that multiples are subtracted without rounding.
    const QUARTER_PI: [f32; 3] = [0.785_156_25, 2.418_756_484_985_351_6e-4, 3.774_894_977_445_941e-8];
    const COSINE: [f32; 3] = [2.443_315_711_809_948e-5, -1.388_731_625_493_765e-3, 4.166_664_568_298_827e-2];
    const SINE: [f32; 3] = [-1.951_529_589_1e-4, 8.332_160_873_6e-3, -1.666_665_461_1e-1];

    let octant = ((x * FOUR_OVER_PI) as i32 + 1) & !1;
    let turns = octant as f32;
    let x = QUARTER_PI.iter().fold(x, |x, part| turns.mul_add(-part, x));
    let square = x * x;
    let cosine = (polynomial(&COSINE, square) * square).mul_add(square, -(square * 0.5)) + 1.0;
    let sine = (polynomial(&SINE, square) * square).mul_add(x, x);
    let (sine, cosine) = if octant & 2 == 0 { (sine, cosine) } else { (cosine, sine) };
    let sine = if octant & 4 == 0 { sine } else { -sine };
    let cosine = if (octant - 2) & 4 == 0 { -cosine } else { cosine };
    (sine, cosine)
}

/// Horner's rule, highest power first.
#[inline(always)]
fn polynomial(terms: &[f32], x: f32) -> f32 {
    terms[1..].iter().fold(terms[0], |sum, term| sum.mul_add(x, *term))
}
