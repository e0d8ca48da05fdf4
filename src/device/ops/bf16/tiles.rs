//! AMX (Intel, 2023 and later): registers that hold tiles, and products of them.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use amx::{Ready, exist, square};
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) use none::{Ready, exist, square};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[expect(unsafe_code, reason = "instructions that the baseline lacks")]
mod amx {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;

    use super::super::{SIDE, Square, Tile};

    /// Whether the processor has the unit and the system lets this process use it.
    pub fn exist() -> bool {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        const FEATURES: u32 = BF16 | TILE;
        __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & FEATURES == FEATURES && permitted()
    }

    /// Asks Linux for the memory that threads need to keep their tiles, which it lends on demand only.
    fn permitted() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let answer: i64;
        // SAFETY: this system call reads no memory of ours and changes none.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => answer,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        answer == 0
    }

    /// The sizes of the eight registers, as the processor reads them.
    #[repr(C, align(64))]
    struct Sizes {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// While this exists, the registers of the thread are set up.
    pub struct Ready(());

    impl Ready {
        /// Call it only where [`exist`] says so.
        pub fn new() -> Self {
            let mut sizes =
                Sizes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
            sizes.row_bytes[..8].fill(64);
            sizes.rows[..8].fill(SIDE as u8);
            // SAFETY: the unit exists, and the compiler uses none of its registers.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const sizes, options(nostack)) };
            Self(())
        }
    }

    impl Drop for Ready {
        fn drop(&mut self) {
            // SAFETY: the unit exists, or there would be nothing to drop.
            unsafe { asm!("tilerelease", options(nomem, nostack)) };
        }
    }

    /// # Safety
    ///
    /// A [`Ready`] exists in this thread; `x` has `terms` times as many tiles as `weights`, two for each step.
    pub unsafe fn square(weights: &[Tile], x: &[Tile], terms: usize, out: &mut Square) {
        // SAFETY: the loops read `weights` and `x` to their ends, and write the four quarters of `out`.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{weights} + {stride}]",
                "tileloadd tmm5, [{weights} + {stride} + 1024]",
                "mov {term}, {terms}",
                "3:",
                "tileloadd tmm6, [{x} + {stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{x} + {stride} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x}, 2048",
                "dec {term}",
                "jnz 3b",
                "add {weights}, 2048",
                "dec {steps}",
                "jnz 2b",
                "mov {stride}, 128",
                "tilestored [{out} + {stride}], tmm0",
                "tilestored [{out} + {stride} + 64], tmm1",
                "tilestored [{out} + {stride} + 2048], tmm2",
                "tilestored [{out} + {stride} + 2112], tmm3",
                weights = inout(reg) weights.as_ptr() => _,
                x = inout(reg) x.as_ptr() => _,
                stride = inout(reg) 64_usize => _,
                steps = inout(reg) weights.len() / 2 => _,
                terms = in(reg) terms,
                term = out(reg) _,
                out = in(reg) out.0.as_mut_ptr(),
                options(nostack),
            );
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod none {
    use super::super::{Square, Tile};

    pub fn exist() -> bool {
        false
    }

    pub struct Ready(());

    impl Ready {
        pub fn new() -> Self {
            Self(())
        }
    }

    #[expect(unsafe_code, reason = "the signature of those who have the unit")]
    pub unsafe fn square(_: &[Tile], _: &[Tile], _: usize, _: &mut Square) {}
}
