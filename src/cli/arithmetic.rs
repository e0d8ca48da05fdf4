//! The flags that choose how networks compute, shared by every subcommand that runs graphs.

use crate::device::ops::{Numbers, Unit};
use crate::model::Compute;
use crate::nodes::Arithmetic;

#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Arithmetic")]
pub struct ArithmeticArgs {
    /// Round numbers to BF16 where they are multiplied, on processors with a unit for that: several times faster, and
    /// hardly another picture
    #[arg(long, env = "COMFYD_FAST")]
    pub fast: bool,
    /// Let diffusion models compute in BF16, as graphics cards do; F32 otherwise
    #[arg(long, env = "COMFYD_BF16_UNET")]
    pub bf16_unet: bool,
    /// Let VAEs compute in BF16; F32 otherwise
    #[arg(long, env = "COMFYD_BF16_VAE")]
    pub bf16_vae: bool,
}

impl ArithmeticArgs {
    pub fn arithmetic(self) -> Arithmetic {
        // Where there is no unit, rounding would gain nothing.
        let fast = self.fast && Unit::fastest(Numbers::Rounded).is_some();
        let mut arithmetic = Arithmetic::all(if fast { Compute::Fast } else { Compute::F32 });
        if self.bf16_unet {
            arithmetic.diffusion = Compute::Bf16;
        }
        if self.bf16_vae {
            arithmetic.vae = Compute::Bf16;
        }
        arithmetic
    }

    /// Tells the log what networks compute with.
    pub fn tell(self) {
        let unit = Unit::all().first().map_or("none", |unit| unit.word());
        for (network, compute) in self.arithmetic().words() {
            tracing::debug!("{network} models compute with {compute}");
        }
        if self.fast && Unit::all().is_empty() {
            tracing::warn!("--fast changes nothing: the processor has no unit for BF16 (AMX or AVX512-BF16)");
        } else if self.fast {
            tracing::info!("--fast: products of numbers rounded to BF16, by {unit}");
        } else {
            tracing::info!("computing in F32; the processor's unit for BF16: {unit}");
        }
    }
}
