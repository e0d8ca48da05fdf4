//! The flags that choose how and where networks compute, shared by the subcommands that run graphs.

use super::warn;
use crate::device::ops::{Numbers, Unit};
use crate::device::{Choice, cuda};
use crate::model::Compute;
use crate::model::card::Card;
use crate::nodes::Arithmetic;

#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Arithmetic")]
pub struct ArithmeticArgs {
    /// Round numbers where they are multiplied. To BF16 on processors with a unit for that: several times faster, and
    /// hardly another picture. To INT8 in the diffusion model's blocks on a graphics card: 1.6 times as fast on an RTX 3090
    /// by arithmetic, and slightly another picture
    #[arg(long, env = "COMFYD_FAST")]
    pub fast: bool,
    /// Let diffusion models compute in BF16, as graphics cards do; F32 otherwise
    #[arg(long, env = "COMFYD_BF16_UNET")]
    pub bf16_unet: bool,
    /// Let VAEs compute in BF16; F32 otherwise
    #[arg(long, env = "COMFYD_BF16_VAE")]
    pub bf16_vae: bool,
}

/// Where networks compute.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Arithmetic")]
pub struct DeviceArgs {
    /// Compute diffusion models, text encoders and VAEs on a graphics card, as far as it can: cuda, or cuda:N of several
    /// (it has not been run on one yet: `comfyd selftest` first); on the processor where there is none
    #[arg(long, value_name = "DEVICE", default_value = "cpu", env = "COMFYD_DEVICE")]
    pub device: Choice,
    /// The most of the card's memory to take, as in 12GB or 8GiB: weights that do not fit come for each use [default: what
    /// is free]
    #[arg(long, value_name = "SIZE", env = "COMFYD_DEVICE_BUDGET", value_parser = super::memory::size)]
    pub device_budget: Option<u64>,
}

impl ArithmeticArgs {
    pub fn arithmetic(self) -> Arithmetic {
        // Where there is no unit, rounding would gain nothing.
        let fast = self.fast && Unit::fastest(Numbers::Rounded).is_some();
        let mut arithmetic = Arithmetic {
            eight_bits_on_card: self.fast,
            ..Arithmetic::all(if fast { Compute::Fast } else { Compute::F32 })
        };
        if self.bf16_unet {
            arithmetic.diffusion = Compute::Bf16;
        }
        if self.bf16_vae {
            arithmetic.vae = Compute::Bf16;
        }
        arithmetic
    }

    /// Tells the log what networks compute with.
    pub fn tell(self, device: Choice) {
        let unit = Unit::all().first().map_or("none", |unit| unit.word());
        for (network, compute) in self.arithmetic().words() {
            tracing::debug!("{network} models compute with {compute}");
        }
        if self.fast && device != Choice::Cpu {
            tracing::info!("--fast: the diffusion model's blocks are rounded to INT8 on {device}");
        } else if self.fast && Unit::all().is_empty() {
            tracing::warn!("--fast changes nothing: the processor has no unit for BF16 (AMX or AVX512-BF16)");
        } else if self.fast {
            tracing::info!("--fast: products of numbers rounded to BF16, by {unit}");
        } else {
            tracing::info!("computing in F32; the processor's unit for BF16: {unit}");
        }
    }
}

impl DeviceArgs {
    /// The card to compute on. One that cannot be used is told of and done without.
    pub fn card(self) -> Option<Card> {
        let Choice::Cuda(number) = self.device else { return None };
        let card = open(number, self.device_budget);
        card.map_err(|fault| warn(&format!("the processor computes instead of {}: {fault}", self.device)))
            .ok()
    }
}

#[cfg(feature = "cuda")]
fn open(number: usize, budget: Option<u64>) -> cuda::Result<Card> {
    let card = cuda::card::Card::open(number)?;
    let limits = card.limits(budget)?;
    Ok(Card::new(card, limits))
}

#[cfg(not(feature = "cuda"))]
fn open(_: usize, _: Option<u64>) -> cuda::Result<Card> {
    Err(cuda::Fault::new("graphics cards", "this comfyd was built without the feature `cuda` (docs/gpu.md)"))
}
