//! Hooks in a run: the keyframe that each follows at the moment, and the networks that they make.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::lora::Lora;
use crate::model::{Adapted, Diffusion, Flow};
use crate::sampling::Result;
use crate::sampling::hook::{Hook, Hooks, Keyframes};

/// How far a run is in the keyframes of its hooks.
pub struct Timeline {
    followed: Vec<Followed>,
    /// The sigma that the run begins with.
    largest: f32,
}

/// Keyframes and the current one of them.
struct Followed {
    keyframes: Arc<Keyframes>,
    /// The sigma at which each starts.
    starts: Vec<f32>,
    current: usize,
    /// For how many steps it has been that.
    steps: usize,
    /// The last sigma that was asked for.
    sigma: Option<f32>,
}

impl Timeline {
    pub fn new<'a>(hooks: impl Iterator<Item = &'a Hooks>, flow: Flow, largest: f32) -> Self {
        let mut followed: Vec<Followed> = Vec::new();
        for hook in hooks.flat_map(Hooks::as_slice) {
            let keyframes = hook.keyframes();
            if !followed.iter().any(|known| Arc::ptr_eq(&known.keyframes, keyframes)) {
                let start = |start: f64| flow.at_percent(start) as f32;
                let starts = keyframes.as_slice().iter().map(|keyframe| start(keyframe.start)).collect();
                let keyframes = keyframes.clone();
                followed.push(Followed { keyframes, starts, current: 0, steps: 0, sigma: None });
            }
        }
        Self { followed, largest }
    }

    /// Hooks are about to be used at a sigma.
    pub fn advance(&mut self, hooks: &Hooks, sigma: f64) {
        for hook in hooks.as_slice() {
            let follows = |known: &&mut Followed| Arc::ptr_eq(&known.keyframes, hook.keyframes());
            if let Some(followed) = self.followed.iter_mut().find(follows) {
                followed.advance(sigma as f32, self.largest);
            }
        }
    }

    /// What hooks add to a network at the moment.
    pub fn loras(&self, hooks: &Hooks) -> Vec<Lora> {
        let on_model = |hook: &Hook| {
            let follows = |known: &&Followed| Arc::ptr_eq(&known.keyframes, hook.keyframes());
            hook.on_model(self.followed.iter().find(follows).map_or(1.0, Followed::strength))
        };
        hooks.as_slice().iter().filter_map(on_model).collect()
    }
}

impl Followed {
    fn strength(&self) -> f64 {
        self.keyframes.as_slice().get(self.current).map_or(1.0, |keyframe| keyframe.strength)
    }

    /// In single precision, as in ComfyUI: a sigma may be the very one that a keyframe starts at.
    fn advance(&mut self, sigma: f32, largest: f32) {
        if self.starts.is_empty() || self.sigma == Some(sigma) {
            return;
        }
        let (keyframes, starts) = (self.keyframes.as_slice(), &self.starts);
        let guaranteed = |place: usize| if starts[place] > largest { 0 } else { keyframes[place].steps };
        if self.steps >= guaranteed(self.current) {
            for (place, start) in starts.iter().enumerate().skip(self.current + 1) {
                if *start < sigma {
                    break;
                }
                (self.current, self.steps) = (place, 0);
                if guaranteed(place) > 0 {
                    break;
                }
            }
        }
        self.steps += 1;
        self.sigma = Some(sigma);
    }
}

/// The networks that hooks made last.
#[derive(Default)]
pub struct Networks(VecDeque<Made>);

struct Made {
    base: Arc<dyn Diffusion>,
    loras: Vec<Lora>,
    network: Arc<dyn Diffusion>,
}

impl Networks {
    /// `base` with LoRAs beside it.
    pub fn hooked(&mut self, base: &Arc<dyn Diffusion>, loras: &[Lora]) -> Result<Arc<dyn Diffusion>> {
        /// Each has tables of its own, and none of its weights.
        const KEPT: usize = 6;
        if loras.is_empty() {
            return Ok(base.clone());
        }
        let known = self.0.iter().position(|made| Arc::ptr_eq(&made.base, base) && made.loras == loras);
        let made = match known.and_then(|place| self.0.remove(place)) {
            Some(made) => made,
            None => Made { base: base.clone(), loras: loras.to_vec(), network: make(base, loras)? },
        };
        let network = made.network.clone();
        self.0.truncate(KEPT - 1);
        self.0.push_front(made);
        Ok(network)
    }
}

fn make(base: &Arc<dyn Diffusion>, loras: &[Lora]) -> Result<Arc<dyn Diffusion>> {
    let Adapted { network, used } = base.with_loras(loras)?;
    if used.is_empty() {
        let names: Vec<String> = loras.iter().map(|lora| lora.source.name()).collect();
        tracing::warn!("hooks change nothing: no key of {} fits this model", names.join(", "));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::hook::Keyframe;

    /// The strengths at falling sigmas.
    fn strengths(keyframes: &[[f64; 2]], steps: &[usize], sigmas: &[f32]) -> Vec<f64> {
        let flow = Flow::Discrete { shift: 1.0, multiplier: 1.0 };
        let keyframes = keyframes.iter().zip(steps).fold(Keyframes::default(), |known, (at, steps)| {
            known.with(Keyframe { start: at[0], strength: at[1], steps: *steps })
        });
        let starts = keyframes.as_slice().iter().map(|it| flow.at_percent(it.start) as f32).collect();
        let keyframes = Arc::new(keyframes);
        let mut followed = Followed { keyframes, starts, current: 0, steps: 0, sigma: None };
        let at = |sigma: &f32| {
            followed.advance(*sigma, sigmas[0]);
            followed.strength()
        };
        sigmas.iter().map(at).collect()
    }

    #[test]
    fn a_keyframe_counts_from_the_sigma_it_starts_at() {
        let keyframes = [[0.0, 1.0], [0.25, 2.0], [0.5, 3.0]];
        assert_eq!(strengths(&keyframes, &[1, 0, 0], &[1.0, 0.75, 0.6, 0.5, 0.1]), [1.0, 2.0, 2.0, 3.0, 3.0]);
        // Both have started: only the last of them counts.
        assert_eq!(strengths(&keyframes, &[1, 0, 0], &[1.0, 0.3, 0.3, 0.2]), [1.0, 3.0, 3.0, 3.0]);
    }

    #[test]
    fn guaranteed_steps_are_taken_one_keyframe_after_the_other() {
        let keyframes = [[0.0, 1.0], [0.25, 2.0], [0.5, 3.0]];
        assert_eq!(strengths(&keyframes, &[1, 1, 1], &[1.0, 0.3, 0.3, 0.2]), [1.0, 2.0, 2.0, 3.0]);
        assert_eq!(strengths(&keyframes, &[2, 1, 1], &[1.0, 0.4, 0.3, 0.2]), [1.0, 1.0, 2.0, 3.0]);
        // A run that begins later owes nothing to what started before.
        assert_eq!(strengths(&keyframes, &[9, 9, 1], &[0.6, 0.55, 0.4]), [2.0, 2.0, 3.0]);
    }
}
