//! Networks beside a diffusion model that steer it by a hint, one conditioning at a time.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;

use super::{Compute, Error, Hint, Result, diffusion, recognise};
use crate::stop::Stop;
use crate::weights::{File, Weights};

/// A network whose words are added to the picture tokens of a diffusion model after each of its blocks.
pub trait ControlNet: Send + Sync {
    /// Channels of mask that its hints have after those of the latent.
    fn mask_channels(&self) -> usize;

    /// What it says of a hint, (1, channels + mask channels, 1, h, w), latent channels not normalised.
    fn forward(&self, seen: &Seen<'_>, hint: &Tensor) -> Result<Words>;
}

/// What the diffusion model that is steered is asked.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// The model: controls of its own family may use its layers.
    pub network: &'a dyn Any,
    pub x: &'a Tensor,
    pub t: f64,
    pub text: &'a Tensor,
    pub stop: &'a Stop,
}

/// What a control says.
pub struct Words {
    pub tokens: Vec<Tensor>,
    /// Of each block, which of the tokens it hears.
    pub heard: Vec<Option<usize>>,
}

impl Words {
    pub fn for_block(&self, block: usize) -> Option<&Tensor> {
        self.tokens.get((*self.heard.get(block)?)?)
    }
}

/// Loads the control network of a file, whichever family it belongs to.
pub fn load(file: Arc<File>, compute: Compute) -> Result<Arc<dyn ControlNet>> {
    let weights = Weights::new(file.clone(), "");
    if diffusion::QwenControlNet::claims(&weights) {
        return Ok(Arc::new(diffusion::QwenControlNet::load(weights, compute)?));
    }
    if diffusion::QwenFunControlNet::claims(&weights) {
        return Ok(Arc::new(diffusion::QwenFunControlNet::load(weights, compute)?));
    }
    Err(Error::OtherKind {
        file: file.name(),
        expected: "a ControlNet",
        supported: vec!["InstantX's and VideoX-Fun's for Qwen-Image"],
        found: recognise::kind(file.header()),
    })
}

/// A control network with its hint, and how much its word counts.
pub struct Control {
    network: Arc<dyn ControlNet>,
    hint: Arc<dyn Hint>,
    strength: f64,
    /// The hint of the last size asked for.
    kept: Mutex<Option<([usize; 2], Tensor)>>,
}

impl Control {
    pub fn new(network: Arc<dyn ControlNet>, hint: Arc<dyn Hint>, strength: f64) -> Self {
        Self { network, hint, strength, kept: Mutex::default() }
    }

    /// What it says in one step.
    pub fn words(&self, seen: &Seen<'_>) -> Result<Words> {
        let hint = self.hint([seen.x.dim(3)?, seen.x.dim(4)?], seen.stop)?;
        let mut words = self.network.forward(seen, &hint)?;
        for tokens in &mut words.tokens {
            *tokens = (&*tokens * self.strength)?;
        }
        Ok(words)
    }

    fn hint(&self, size: [usize; 2], stop: &Stop) -> Result<Tensor> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, hint)) = &*kept
            && *of == size
        {
            return Ok(hint.clone());
        }
        let hint = self.hint.latent(size, self.network.mask_channels(), stop)?;
        *kept = Some((size, hint.clone()));
        Ok(hint)
    }
}

/// A control during a part of a run.
#[derive(Clone)]
pub struct Steering {
    pub control: Arc<Control>,
    /// The timesteps between which it counts, the larger first.
    pub from: f64,
    pub until: f64,
}

impl Steering {
    /// In single precision, as in ComfyUI: a timestep may be the very one it begins at.
    pub fn counts_at(&self, t: f64) -> bool {
        let [from, until, t] = [self.from, self.until, t].map(|timestep| timestep as f32);
        until <= t && t <= from
    }
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a control from {} until {}", self.from, self.until)
    }
}
