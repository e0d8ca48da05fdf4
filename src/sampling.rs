//! Turning noise into latents: schedules, samplers, guidance, noise.
//!
//! Deliberately knows no graphs, no sockets and no progress bars. Start at [`sample`], the whole way
//! from a latent to a latent; a [`Sampler`] walks the sigmas of a [`schedule`] and asks a [`Model`] at
//! each of them.

mod hook;
mod latent;
mod mask;
mod model;
pub mod noise;
mod preview;
mod run;
pub mod samplers;
pub mod schedule;

use crate::stop::Stopped;

pub use hook::{Hook, Hooks, Keyframe, Keyframes};
pub use model::{
    Area, Blend, Controlled, Entry, Frequencies, Guidance, Model, Operation, Order, Projection, Rectangle,
    Reuse, SkippedBlocks, Windows,
};
pub use noise::Noise;
pub use preview::{decoded_preview, preview};
pub use run::{InitialNoise, Request, Sampled, add_noise, sample};
pub use samplers::{SAMPLERS, Sampler, Watch, Watched};
pub use schedule::{SCHEDULES, ScheduleFn};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Model(crate::model::Error),
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    #[error(
        "the latent has {found} channels, the model works with {expected}: encode the picture with the VAE \
         of this model"
    )]
    Channels { found: usize, expected: usize },
    #[error(
        "a latent has the shape (batch, channels, height, width) or has frames before height; found {0:?}"
    )]
    LatentShape(Vec<usize>),
    #[error(
        "the area of a conditioning begins at column {} and row {} of a latent of {} columns and {} rows (8 pixels \
         each): move it into the picture",
        start[0], start[1], latent[0], latent[1]
    )]
    AreaOutside { start: [usize; 2], latent: [usize; 2] },
    #[error(
        "sigma {index} of the schedule is not a number: this scheduler cannot make so few steps, choose \
         another or add a step"
    )]
    BadSigma { index: usize },
    #[error(
        "the diffusion model predicted values that are not numbers at sigma {sigma:.4}: the checkpoint may \
         be damaged, or its weights need another `weight_dtype`"
    )]
    BadPrediction { sigma: f64 },
    #[error(
        "sampling ended in values that are not numbers: this sampler, scheduler and cfg do not go together \
         with this model"
    )]
    BadResult,
    /// Whoever watched the steps, or scaled a latent between them, failed.
    #[error(transparent)]
    Watch(Box<dyn std::error::Error + Send + Sync>),
}

impl From<crate::model::Error> for Error {
    fn from(error: crate::model::Error) -> Self {
        match error {
            crate::model::Error::Stopped(stopped) => Self::Stopped(stopped),
            crate::model::Error::Channels { expected, found } => Self::Channels { expected, found },
            other => Self::Model(other),
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
