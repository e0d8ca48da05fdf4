//! How far each node of a run is, as ComfyUI's `progress_state` shows it.

use std::collections::HashMap;
use std::sync::Arc;

use super::dynamic::Place;
use super::event::{Event, NodeState, Phase};

/// The nodes that have begun, in that order.
#[derive(Default)]
pub(super) struct Progress {
    states: Vec<Arc<NodeState>>,
    places: HashMap<Place, usize>,
}

impl Progress {
    /// Notes a change of a node; `state` says how a node that is new here is called.
    pub(super) fn set(
        &mut self,
        place: Place,
        state: impl FnOnce() -> NodeState,
        change: impl FnOnce(&mut NodeState),
    ) -> Arc<NodeState> {
        let index = *self.places.entry(place).or_insert_with(|| {
            self.states.push(Arc::new(state()));
            self.states.len() - 1
        });
        let known = Arc::make_mut(&mut self.states[index]);
        change(known);
        self.states[index].clone()
    }

    /// All states as they are now.
    pub(super) fn snapshot(&self) -> Event {
        Event::State(self.states.as_slice().into())
    }
}

/// A node starts, perhaps once more.
pub(super) fn started(state: &mut NodeState) {
    (state.phase, state.value, state.max) = (Phase::Running, 0, 1);
}

pub(super) fn finished(state: &mut NodeState) {
    (state.phase, state.value) = (Phase::Finished, state.max);
}
