//! AVX512-BF16 (AMD since 2022, Intel since 2020): sums of pairs of products in vectors.

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::{exist, square};
#[cfg(not(target_arch = "x86_64"))]
pub(super) use none::{exist, square};

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that the baseline lacks")]
mod avx512 {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    use std::mem::transmute;

    use super::super::{DEPTH, SIDE, Side, Step, Sums};

    pub fn exist() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }

    /// Rows whose sums are kept in registers, two for each.
    const ROWS: usize = 8;

    /// # Safety
    ///
    /// The instructions exist; tiles can be read and sums written as [`super::super::Engine`] demands.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn square(steps: &[Step], left: Side, right: Side, out: Sums) {
        for first in (0..DEPTH).step_by(ROWS) {
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            let tile = first / SIDE * left.second + first % SIDE * left.row_bytes;
            for [a, b] in steps {
                for pair in 0..SIDE {
                    // SAFETY: each row of a tile of the right side is one vector, and the step has two tiles.
                    let b = unsafe {
                        let row = right.first.add(b + pair * right.row_bytes);
                        [row, row.add(right.second)].map(|row| bf16s(_mm512_loadu_si512(row.cast())))
                    };
                    for (row, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: the rows from `first` on lie in the step's tiles, 16 pairs each.
                        let a = unsafe {
                            let at = left.first.add(a + tile + row * left.row_bytes);
                            bf16s(_mm512_set1_epi32(at.add(4 * pair).cast::<i32>().read_unaligned()))
                        };
                        sums[0] = _mm512_dpbf16_ps(sums[0], a, b[0]);
                        sums[1] = _mm512_dpbf16_ps(sums[1], a, b[1]);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (half, sums) in sums.iter().enumerate() {
                    // SAFETY: a row of sums is two vectors.
                    unsafe {
                        let to = out.first.byte_add((first + row) * out.row_bytes).add(half * SIDE);
                        let before = if out.add { _mm512_loadu_ps(to) } else { _mm512_setzero_ps() };
                        _mm512_storeu_ps(to, _mm512_add_ps(before, *sums));
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16s(bits: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits of any pattern.
        unsafe { transmute(bits) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod none {
    use super::super::{Side, Step, Sums};

    pub fn exist() -> bool {
        false
    }

    #[expect(unsafe_code, reason = "the signature of those who have the unit")]
    pub unsafe fn square(_: &[Step], _: Side, _: Side, _: Sums) {}
}
