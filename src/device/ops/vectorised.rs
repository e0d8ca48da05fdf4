//! Loops compiled for the vector instructions the machine has.

/// Runs a loop compiled once more for AVX-512 and for AVX2, where the processor has it. Everything the loop calls must be
/// inlined into it to profit, so keep it small.
#[expect(unsafe_code, reason = "code for other processors than the baseline may only run after a check")]
#[inline]
pub fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
    {
        // SAFETY: the instructions were found to exist.
        return unsafe { with_avx512(work) };
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the instructions were found to exist.
        return unsafe { with_avx2(work) };
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn with_avx512<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}
