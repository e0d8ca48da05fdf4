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

    use super::super::{SIDE, Side, Step, Sums};

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

    /// Reads the two tiles of a side, of which `at` has the offset.
    #[rustfmt::skip]
    macro_rules! read {
        ($first:literal, $second:literal, $side:literal) => {
            concat!(
                "add {at}, {", $side, "}\n",
                "tileloadd ", $first, ", [{at} + {", $side, "_row}]\n",
                "add {at}, {", $side, "_second}\n",
                "tileloadd ", $second, ", [{at} + {", $side, "_row}]",
            )
        };
    }

    /// Tiles that the step before has read are not read again: at times reading takes nearly as long as multiplying.
    ///
    /// # Safety
    ///
    /// A [`Ready`] exists in this thread; tiles can be read and sums written as [`super::super::Engine`] demands.
    pub unsafe fn square(steps: &[Step], left: Side, right: Side, sums: Sums) {
        // SAFETY: the tiles and sums are those that the caller lends.
        unsafe {
            asm!(
                "mov {at}, {row}",
                "shl {at}, 4",
                "add {at}, {out}",
                "test {add:l}, {add:l}",
                "jz 2f",
                "tileloadd tmm0, [{out} + {row}]",
                "tileloadd tmm1, [{out} + {row} + 64]",
                "tileloadd tmm2, [{at} + {row}]",
                "tileloadd tmm3, [{at} + {row} + 64]",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "test {steps}, {steps}",
                "jz 5f",
                "mov {at}, [{step} + 8]",
                read!("tmm6", "tmm7", "right"),
                "mov {at}, [{step}]",
                read!("tmm4", "tmm5", "left"),
                "jmp 7f",
                "4:",
                "mov {at}, [{step} + 8]",
                "cmp {at}, [{step} - 8]",
                "je 6f",
                read!("tmm6", "tmm7", "right"),
                "6:",
                "mov {at}, [{step}]",
                "cmp {at}, [{step} - 16]",
                "je 7f",
                read!("tmm4", "tmm5", "left"),
                "7:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {step}, 16",
                "dec {steps}",
                "jnz 4b",
                "5:",
                "mov {at}, {row}",
                "shl {at}, 4",
                "add {at}, {out}",
                "tilestored [{out} + {row}], tmm0",
                "tilestored [{out} + {row} + 64], tmm1",
                "tilestored [{at} + {row}], tmm2",
                "tilestored [{at} + {row} + 64], tmm3",
                left = in(reg) left.first,
                left_row = in(reg) left.row_bytes,
                left_second = in(reg) left.second,
                right = in(reg) right.first,
                right_row = in(reg) right.row_bytes,
                right_second = in(reg) right.second,
                step = inout(reg) steps.as_ptr() => _,
                steps = inout(reg) steps.len() => _,
                out = in(reg) sums.first,
                row = in(reg) sums.row_bytes,
                add = in(reg) usize::from(sums.add),
                at = out(reg) _,
                options(nostack),
            );
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod none {
    use super::super::{Side, Step, Sums};

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
    pub unsafe fn square(_: &[Step], _: Side, _: Side, _: Sums) {}
}
