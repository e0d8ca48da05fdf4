//! What the processor could do if nothing but arithmetic took time: loops that touch registers only.

use std::time::Instant;

/// GFLOP/s of all threads together: of `f32`, and of BF16 by AMX where there is one.
pub fn measure() -> (f64, Option<f64>) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return x86::measure();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    (f64::NAN, None)
}

/// The best of several runs of `work` on all threads, each of which does `flop`.
fn best(flop: f64, work: impl Fn() + Sync) -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let run = |_| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(&work);
            }
        });
        flop * threads as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..5).map(run).fold(0.0, f64::max)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps};
    use std::hint::black_box;

    use comfyd::device::ops::Unit;

    const SUMS: usize = 16;

    pub fn measure() -> (f64, Option<f64>) {
        let f32 = if is_x86_feature_detected!("avx512f") {
            const TIMES: usize = 2_000_000;
            super::best((TIMES * SUMS * 32) as f64, || {
                // SAFETY: the instructions were found to exist.
                black_box(unsafe { sums(TIMES) });
            })
        } else {
            f64::NAN
        };
        let tiles = Unit::all().contains(&Unit::Tiles).then(|| {
            const TIMES: usize = 500_000;
            super::best((TIMES * 4 * 16_384) as f64, || tiles(TIMES))
        });
        (f32, tiles)
    }

    #[target_feature(enable = "avx512f")]
    fn sums(times: usize) -> f32 {
        let (mut sums, one) = ([_mm512_setzero_ps(); SUMS], _mm512_set1_ps(1.0));
        for _ in 0..times {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(one, one, *sum);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    /// Asking which units there are has asked Linux for the use of this one.
    fn tiles(times: usize) {
        let mut sizes = [0u8; 64];
        sizes[0] = 1;
        sizes[16..32].copy_from_slice(&[64, 0].repeat(8));
        sizes[48..56].fill(16);
        // SAFETY: the unit exists, and the compiler uses none of its registers.
        unsafe {
            asm!(
                "ldtilecfg [{sizes}]",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {times}",
                "jnz 2b",
                "tilerelease",
                sizes = in(reg) sizes.as_ptr(),
                times = inout(reg) times => _,
                options(nostack),
            );
        }
    }
}
