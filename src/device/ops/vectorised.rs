//! Loops compiled for the vector instructions the machine has.

/// Compiles a function once more for AVX-512 and for AVX2, and runs it as the processor allows. Functions that it
/// calls must be inlined into it to profit, so they are marked `#[inline(always)]`.
macro_rules! vectorised {
    ($(#[$attribute:meta])* $visible:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$attribute])*
        #[allow(clippy::inline_always, reason = "what is not inlined is not compiled for other instructions")]
        #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "instructions that the baseline lacks"))]
        $visible fn $name($($argument: $type),*) $(-> $out)? {
            #[inline(always)]
            fn plain($($argument: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
            fn with_avx512($($argument: $type),*) $(-> $out)? {
                plain($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn with_avx2($($argument: $type),*) $(-> $out)? {
                plain($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            if $crate::device::ops::has_avx512() {
                // SAFETY: the instructions were found to exist.
                return unsafe { with_avx512($($argument),*) };
            } else if is_x86_feature_detected!("avx2") {
                // SAFETY: the instructions were found to exist.
                return unsafe { with_avx2($($argument),*) };
            }
            plain($($argument),*)
        }
    };
}

pub(crate) use vectorised;

/// Whether the processor has the parts of AVX-512 that loops are compiled for.
#[cfg(target_arch = "x86_64")]
pub fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}
