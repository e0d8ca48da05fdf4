//! What a running node may ask of the world.

use std::any::Any;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::event::Preview;
use super::node::Result;
use crate::stop::Stop;

/// One call of one node. `host` is what the server lends its nodes (`()` in the executor's own tests).
///
/// Reporting progress and learning of an interrupt are one call, so a loop that shows progress can
/// always be stopped.
pub struct Run<'a, H> {
    pub host: &'a H,
    pub(super) stop: &'a Stop,
    pub(super) node: &'a str,
    /// Which of the mapped calls of the node this is, and how many ids it has asked for.
    pub(super) call: usize,
    pub(super) ids: usize,
    pub(super) prompt: &'a Map<String, Json>,
    pub(super) extra_pnginfo: Option<&'a Json>,
    pub(super) previews: Option<bool>,
    pub(super) tell: &'a mut dyn FnMut(Told),
    pub(super) memory: &'a mut Option<Box<dyn Any + Send>>,
}

/// What a node says while it works; the executor turns it into events.
pub(super) enum Told {
    Step {
        done: u32,
        total: u32,
        preview: Option<Preview>,
    },
    Text(String),
    /// A blocked call was left out; the message is for the user.
    Blocked(String),
}

impl<'a, H> Run<'a, H> {
    /// Reports that `done` of `total` steps are finished; fails if the user pressed stop.
    pub fn step(&mut self, done: u32, total: u32) -> Result<()> {
        self.report(done, total, None)
    }

    /// As [`Run::step`], together with a picture for the client that asked.
    pub fn preview(&mut self, done: u32, total: u32, image: Preview) -> Result<()> {
        self.report(done, total, Some(image))
    }

    fn report(&mut self, done: u32, total: u32, preview: Option<Preview>) -> Result<()> {
        self.checkpoint()?;
        (self.tell)(Told::Step { done, total, preview });
        self.checkpoint()
    }

    /// Fails if the user pressed stop; for loops with nothing to report.
    pub fn checkpoint(&self) -> Result<()> {
        Ok(self.stop.check()?)
    }

    /// The stop flag itself, to hand down to layers that know no graphs.
    pub fn stop(&self) -> &'a Stop {
        self.stop
    }

    /// Shows a short note beside the node's progress.
    pub fn text(&mut self, text: impl Into<String>) {
        (self.tell)(Told::Text(text.into()));
    }

    /// The id of this node in the prompt.
    pub fn node(&self) -> &str {
        self.node
    }

    /// An id for a node of an [`Expansion`](super::Expansion): the same in each run of the same prompt, and
    /// different from all others.
    pub fn unique_id(&mut self) -> String {
        self.ids += 1;
        format!("{}.{}.0.{}", self.node, self.call, self.ids)
    }

    /// The whole prompt after coercion, with `is_changed` on nodes that have a fingerprint.
    pub fn prompt(&self) -> &Map<String, Json> {
        self.prompt
    }

    /// `extra_data.extra_pnginfo` of the request.
    pub fn extra_pnginfo(&self) -> Option<&Json> {
        self.extra_pnginfo
    }

    /// Whether the request wants to see what is worked on; without a wish, the host decides.
    pub fn previews(&self) -> Option<bool> {
        self.previews
    }

    /// Something this node keeps while its id and class stay in consecutive prompts.
    pub fn memory<T: Any + Send>(&mut self, first: impl FnOnce() -> T) -> &mut T {
        if !self.memory.as_ref().is_some_and(|kept| kept.is::<T>()) {
            *self.memory = Some(Box::new(first()));
        }
        match self.memory.as_mut().and_then(|kept| kept.downcast_mut()) {
            Some(kept) => kept,
            None => unreachable!("the memory was just filled with this type"),
        }
    }
}

/// The part of a request that travels into nodes.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `extra_data.extra_pnginfo`, written into the files of this run.
    pub extra_pnginfo: Option<Arc<Json>>,
    /// Whether whoever sent it wants previews.
    pub previews: Option<bool>,
}
