//! The exponential function, in a form that compilers turn into vector instructions.
#![expect(clippy::inline_always, reason = "a call in a loop would keep it from becoming vector instructions")]

/// `e^x` within two units in the last place; 0 and infinity beyond the range of `f32`, NaN for NaN.
///
/// Reduction and polynomial: Cephes `expf` (Moshier, 1989).
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting this rounds to an integer, and leaves it in the low bits of the sum.
    const ROUNDER: f32 = 12_582_912.0;
    let x = x.clamp(-104.0, 89.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let value = p * r * r + r + 1.0;
    // Two factors, because the exponent alone may lie beyond what one `f32` can express.
    let n = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
    let half = n >> 1;
    value * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn it_agrees_with_the_exact_function() {
        for index in -10_000..=8_800 {
            let x = index as f32 * 0.01;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact.max(1e-36);
            assert!(error < 2.5e-7, "exp({x}) is off by {error:e}");
        }
    }

    #[test]
    fn it_ends_where_f32_ends() {
        assert!(exp(f32::INFINITY).is_infinite() && exp(f32::NAN).is_nan());
        assert_eq!([exp(f32::NEG_INFINITY), exp(0.0)].map(f32::to_bits), [0, 1.0f32.to_bits()]);
    }
}
