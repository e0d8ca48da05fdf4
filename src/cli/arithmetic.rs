//! The flags that choose how networks compute, shared by every subcommand that runs graphs.

use crate::model::Compute;
use crate::nodes::Arithmetic;

#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Arithmetic")]
pub struct ArithmeticArgs {
    /// Let diffusion models compute in BF16, as graphics cards do; F32 otherwise
    #[arg(long, env = "COMFYD_BF16_UNET")]
    pub bf16_unet: bool,
    /// Let VAEs compute in BF16; F32 otherwise
    #[arg(long, env = "COMFYD_BF16_VAE")]
    pub bf16_vae: bool,
}

impl ArithmeticArgs {
    pub fn arithmetic(self) -> Arithmetic {
        let compute = |bf16| if bf16 { Compute::Bf16 } else { Compute::F32 };
        Arithmetic { diffusion: compute(self.bf16_unet), vae: compute(self.bf16_vae) }
    }
}
