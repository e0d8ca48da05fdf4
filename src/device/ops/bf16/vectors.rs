//! AVX512-BF16 (AMD since 2022, Intel since 2020): sums of pairs of products in vectors.

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::{exist, square};
#[cfg(not(target_arch = "x86_64"))]
pub(super) use none::{exist, square};

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that the baseline lacks")]
#[expect(clippy::cast_ptr_alignment, reason = "tiles are as aligned as vectors")]
mod avx512 {
    use std::arch::x86_64::{
        __m512bh, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_store_ps,
    };
    use std::mem::transmute;

    use super::super::{DEPTH, SIDE, Square, Tile};

    pub fn exist() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }

    /// Rows of weights whose sums are kept in registers, two for each.
    const ROWS: usize = 8;

    /// # Safety
    ///
    /// The instructions exist; `x` has `terms` times as many tiles as `weights`, two for each step.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn square(weights: &[Tile], x: &[Tile], terms: usize, out: &mut Square) {
        for first in (0..2 * SIDE).step_by(ROWS) {
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            for (weights, x) in weights.chunks_exact(2).zip(x.chunks_exact(2 * terms)) {
                let weights = weights[first / SIDE].0[first % SIDE * DEPTH..].as_ptr().cast::<i32>();
                for x in x.chunks_exact(2) {
                    let [one, other] = [x[0].0.as_ptr(), x[1].0.as_ptr()].map(<*const u16>::cast::<__m512bh>);
                    for pair in 0..SIDE {
                        // SAFETY: a tile has as many rows as there are pairs in one, and a row is one vector.
                        let x = unsafe { [*one.add(pair), *other.add(pair)] };
                        for (row, sums) in sums.iter_mut().enumerate() {
                            // SAFETY: the rows from `first` on lie in the tile, 16 pairs each.
                            let weight = bf16s(_mm512_set1_epi32(unsafe { *weights.add(row * SIDE + pair) }));
                            sums[0] = _mm512_dpbf16_ps(sums[0], weight, x[0]);
                            sums[1] = _mm512_dpbf16_ps(sums[1], weight, x[1]);
                        }
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                let to = &mut out.0[(first + row) * DEPTH..][..DEPTH];
                for (to, sums) in to.chunks_exact_mut(SIDE).zip(sums) {
                    // SAFETY: half a row of the sums is one vector, and as aligned as one.
                    unsafe { _mm512_store_ps(to.as_mut_ptr(), *sums) };
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16s(bits: std::arch::x86_64::__m512i) -> __m512bh {
        // SAFETY: both are 512 bits of any pattern.
        unsafe { transmute(bits) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod none {
    use super::super::{Square, Tile};

    pub fn exist() -> bool {
        false
    }

    #[expect(unsafe_code, reason = "the signature of those who have the unit")]
    pub unsafe fn square(_: &[Tile], _: &[Tile], _: usize, _: &mut Square) {}
}
