//! Hooks: LoRAs that change a network only where some entries of a conditioning count, with strengths that follow
//! keyframes over the run. Plain data; a run keeps its place in them in `model/hooked.rs`.

use std::fmt;
use std::sync::Arc;

use crate::model::lora::Lora;
use crate::weights::File;

/// From where on in a run hooks count so many times their strength.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keyframe {
    pub strength: f64,
    /// 0 to 1 from noise to picture.
    pub start: f64,
    /// Steps for which it stays, however soon the next one starts; not if the run begins after its start.
    pub steps: usize,
}

/// Keyframes by their starts. Before the first one starts, it counts too.
#[derive(Clone, Debug, Default)]
pub struct Keyframes(Vec<Keyframe>);

impl Keyframes {
    /// With one more, behind those of the same start.
    #[must_use]
    pub fn with(mut self, keyframe: Keyframe) -> Self {
        let place = self.0.partition_point(|known| known.start <= keyframe.start);
        self.0.insert(place, keyframe);
        self
    }

    pub fn as_slice(&self) -> &[Keyframe] {
        &self.0
    }

    /// The parts of a run with the strength in each, for work that is done before the run.
    fn parts(&self) -> Vec<([f64; 2], f64)> {
        let Some(mut last) = self.0.first() else { return vec![([0.0, 1.0], 1.0)] };
        let mut parts = Vec::new();
        for keyframe in &self.0 {
            if keyframe.start <= last.start {
                last = keyframe;
            } else if !close(keyframe.strength, last.strength) {
                parts.push(([last.start, keyframe.start], last.strength));
                last = keyframe;
            }
        }
        if !close(last.start, 1.0) {
            parts.push(([last.start, 1.0], last.strength));
        }
        parts
    }
}

/// Equal as ComfyUI has it for strengths and starts.
fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// What changes diffusion models, and what changes text encoders.
struct Change {
    model: Option<Lora>,
    text: Option<Lora>,
}

/// One change under some keyframes. Copies of a hook share the change, by which they are known, and the keyframes.
#[derive(Clone)]
pub struct Hook {
    change: Arc<Change>,
    keyframes: Arc<Keyframes>,
}

impl Hook {
    pub fn keyframes(&self) -> &Arc<Keyframes> {
        &self.keyframes
    }

    /// What it adds to a diffusion model while its keyframes say `strength`.
    pub fn on_model(&self, strength: f64) -> Option<Lora> {
        times(self.change.model.as_ref(), strength)
    }

    fn on_text(&self, strength: f64) -> Option<Lora> {
        times(self.change.text.as_ref(), strength)
    }
}

/// So many times a LoRA, if that changes anything.
fn times(lora: Option<&Lora>, strength: f64) -> Option<Lora> {
    let lora = lora.map(|lora| Lora { strength: lora.strength * strength, ..lora.clone() });
    lora.filter(|lora| lora.strength != 0.0)
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |lora: &Option<Lora>| lora.as_ref().map(|lora| (lora.source.name(), lora.strength));
        write!(f, "a hook of {:?} and {:?}", name(&self.change.model), name(&self.change.text))
    }
}

/// Hooks that go together, in the order they are applied. Each is there once.
#[derive(Clone, Debug, Default)]
pub struct Hooks(Vec<Hook>);

impl Hooks {
    /// One hook, for diffusion models and for text encoders, without keyframes.
    pub fn new(model: Option<Lora>, text: Option<Lora>) -> Self {
        Self(vec![Hook { change: Arc::new(Change { model, text }), keyframes: Arc::default() }])
    }

    /// The hook of a LoRA file, at its strengths for either.
    pub fn of_file(file: &Arc<File>, [model, text]: [f64; 2]) -> Self {
        Self::new(Some(Lora::new(file.clone(), model)), Some(Lora::new(file.clone(), text)))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_slice(&self) -> &[Hook] {
        &self.0
    }

    /// These, and those of `others` that are not among them.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        let mut all = self.clone();
        for hook in &others.0 {
            if !all.0.iter().any(|known| Arc::ptr_eq(&known.change, &hook.change)) {
                all.0.push(hook.clone());
            }
        }
        all
    }

    /// The same hooks under other keyframes, which they follow together.
    #[must_use]
    pub fn following(&self, keyframes: &Keyframes) -> Self {
        let keyframes = Arc::new(keyframes.clone());
        let follow = |hook: &Hook| Hook { keyframes: keyframes.clone(), ..hook.clone() };
        Self(self.0.iter().map(follow).collect())
    }

    /// What they add to a text encoder, without regard to keyframes.
    pub fn on_text(&self) -> Vec<Lora> {
        self.0.iter().filter_map(|hook| hook.on_text(1.0)).collect()
    }

    /// What they add to a text encoder in each part of the run. Like in ComfyUI, a hook whose keyframes say nothing of
    /// a part counts fully in it, and a run of which no keyframe says anything has no parts.
    pub fn on_text_by_parts(&self) -> Vec<([f64; 2], Vec<Lora>)> {
        let parts: Vec<_> = self.0.iter().map(|hook| (hook, hook.keyframes.parts())).collect();
        let bounds = parts.iter().flat_map(|(_, parts)| parts).flat_map(|(part, _)| *part);
        let mut bounds: Vec<f64> = bounds.chain([0.0]).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let at = |[from, until]: [f64; 2]| {
            let on_text = |(hook, parts): &(&Hook, Vec<([f64; 2], f64)>)| {
                let part = parts.iter().find(|([start, end], _)| *start < until && *end > from);
                hook.on_text(part.map_or(1.0, |(_, strength)| *strength))
            };
            parts.iter().filter_map(on_text).collect()
        };
        bounds.windows(2).map(|bounds| [bounds[0], bounds[1]]).map(|part| (part, at(part))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyframes(all: &[(f64, f64)]) -> Keyframes {
        let with = |known: Keyframes, &(start, strength)| known.with(Keyframe { strength, start, steps: 1 });
        all.iter().fold(Keyframes::default(), with)
    }

    #[test]
    fn keyframes_are_kept_by_their_starts_and_the_order_they_came_in() {
        let starts = keyframes(&[(0.5, 1.0), (0.2, 2.0), (0.5, 3.0), (0.0, 4.0)]);
        let strengths: Vec<f64> = starts.as_slice().iter().map(|keyframe| keyframe.strength).collect();
        assert_eq!(strengths, [4.0, 2.0, 1.0, 3.0]);
    }

    #[test]
    fn parts_end_where_the_strength_changes() {
        let parts = |all: &[(f64, f64)]| keyframes(all).parts();
        assert_eq!(parts(&[]), [([0.0, 1.0], 1.0)]);
        assert_eq!(parts(&[(0.0, 0.5), (0.4, 0.5), (0.6, 2.0)]), [([0.0, 0.6], 0.5), ([0.6, 1.0], 2.0)]);
        assert_eq!(parts(&[(0.3, 0.5), (0.3, 2.0), (1.0, 3.0)]), [([0.3, 1.0], 2.0)]);
        assert_eq!(parts(&[(1.0, 3.0)]), []);
    }
}
