//! What is kept between runs: results by key, and what nodes remember by id.
//!
//! Owns the lifetimes of both. Deliberately does not know how keys are made nor how nodes run.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::event::NodeId;
use super::key::Key;
use super::value::{Item, Value};

/// What is kept of a run for the next ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachePolicy {
    /// The results that the next prompt needs again.
    #[default]
    Classic,
    /// This many results, whichever prompt they come from; the least recently used leave first.
    Lru(usize),
    /// Nothing; a result even leaves when its last consumer has run.
    None,
}

/// Where an output belongs, for history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub node: NodeId,
    /// The node the user sees: differs from `node` inside an expanded subgraph.
    pub display: NodeId,
    pub parent: Option<NodeId>,
    pub real: NodeId,
}

/// What a node made: one list of items per slot, and what the user is shown.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) slots: Vec<Vec<Item>>,
    pub(super) ui: Option<Map<String, Json>>,
}

/// Something a node keeps for itself, see [`Run::memory`](super::Run::memory).
pub(super) type Memory = Option<Box<dyn Any + Send>>;

struct Entry {
    /// `None` once the last consumer has run and nothing else keeps it.
    slots: Option<Arc<Vec<Vec<Item>>>>,
    ui: Option<Map<String, Json>>,
    used: u64,
}

/// A node of the present prompt, or of a subgraph that a node of it expanded into, perhaps in an earlier
/// run.
pub(super) struct Known {
    pub(super) meta: Meta,
    pub(super) class: &'static str,
    pub(super) key: Key,
    pub(super) memory: Memory,
}

pub(super) struct Cache {
    policy: CachePolicy,
    results: HashMap<Key, Entry>,
    nodes: HashMap<NodeId, Known>,
    /// Ids of `nodes`, parents before children; some may have left `nodes` again.
    order: Vec<NodeId>,
    /// The subgraphs that earlier runs left behind.
    inner: HashMap<NodeId, Vec<NodeId>>,
    clock: u64,
}

impl Cache {
    pub(super) fn new(policy: CachePolicy) -> Self {
        Self {
            policy,
            results: HashMap::new(),
            nodes: HashMap::new(),
            order: Vec::new(),
            inner: HashMap::new(),
            clock: 0,
        }
    }

    pub(super) fn policy(&self) -> CachePolicy {
        self.policy
    }

    /// Begins a run of the nodes given: what they cannot use any more leaves, as the policy wants it.
    pub(super) fn begin(&mut self, nodes: Vec<Known>) {
        let mut before = std::mem::take(&mut self.nodes);
        let order = std::mem::take(&mut self.order);
        self.inner.clear();
        let mut same = HashSet::new();
        for node in nodes {
            let kept = before.remove(&node.meta.node);
            if kept.as_ref().is_some_and(|kept| kept.class == node.class) {
                same.insert(node.meta.node.clone());
            }
            self.insert(node, kept);
        }
        // Subgraphs stay as long as the node they stand for.
        for id in order {
            let Some(node) = before.remove(&id) else { continue };
            if let Some(parent) = node.meta.parent.clone().filter(|parent| same.contains(parent)) {
                same.insert(id.clone());
                self.inner.entry(parent).or_default().push(id);
                self.insert(node, None);
            }
        }
        self.evict();
    }

    /// Replaces the subgraph an earlier run left behind for `parent`.
    pub(super) fn expand(&mut self, parent: &str, nodes: Vec<Known>) {
        let stale = self.inner.remove(parent).unwrap_or_default();
        let current: HashSet<_> = nodes.iter().map(|node| (node.meta.node.clone(), node.class)).collect();
        let mut gone = Vec::new();
        let mut kept = HashMap::new();
        for id in stale {
            let Some(node) = self.nodes.remove(&id) else { continue };
            if current.contains(&(id.clone(), node.class)) {
                kept.insert(id, node);
            } else {
                gone.push(id);
            }
        }
        while let Some(id) = gone.pop() {
            self.nodes.remove(&id);
            gone.extend(self.inner.remove(&id).unwrap_or_default());
        }
        for node in nodes {
            let before = kept.remove(&node.meta.node);
            self.insert(node, before);
        }
    }

    fn insert(&mut self, mut node: Known, before: Option<Known>) {
        if let Some(before) = before
            && before.class == node.class
        {
            node.memory = before.memory;
        }
        self.clock += 1;
        if let Some(entry) = self.results.get_mut(&node.key) {
            entry.used = self.clock;
        }
        self.order.push(node.meta.node.clone());
        self.nodes.insert(node.meta.node.clone(), node);
    }

    fn evict(&mut self) {
        let live: HashSet<Key> = self.nodes.values().map(|node| node.key).collect();
        match self.policy {
            CachePolicy::Classic => self.results.retain(|key, _| live.contains(key)),
            CachePolicy::None => self.results.clear(),
            CachePolicy::Lru(size) => {
                let spare = self.results.len().saturating_sub(size);
                let mut idle: Vec<_> = (self.results.iter())
                    .filter(|(key, _)| !live.contains(*key))
                    .map(|(key, entry)| (entry.used, *key))
                    .collect();
                idle.sort_unstable();
                for (_, key) in idle.into_iter().take(spare) {
                    self.results.remove(&key);
                }
            }
        }
    }

    /// The items on the slots of a finished node, if they are still here.
    pub(super) fn slots(&self, key: &Key) -> Option<&Arc<Vec<Vec<Item>>>> {
        self.results.get(key)?.slots.as_ref()
    }

    pub(super) fn ui(&self, key: &Key) -> Option<&Map<String, Json>> {
        self.results.get(key)?.ui.as_ref()
    }

    pub(super) fn keep(&mut self, key: Key, made: Made) {
        self.clock += 1;
        let entry = Entry { slots: Some(Arc::new(made.slots)), ui: made.ui, used: self.clock };
        self.results.insert(key, entry);
    }

    /// Lets go of what a finished node passed on; what the user was shown stays.
    pub(super) fn release(&mut self, key: &Key) {
        if let Some(entry) = self.results.get_mut(key) {
            entry.slots = None;
        }
    }

    /// Drops the results that hold a value of this kind; what the user was shown of them stays.
    pub(super) fn forget(&mut self, is_unwanted: &dyn Fn(&Value) -> bool) {
        let unwanted = |item: &Item| matches!(item, Item::Value(value) if is_unwanted(value));
        for entry in self.results.values_mut() {
            if entry.slots.as_ref().is_some_and(|slots| slots.iter().flatten().any(unwanted)) {
                entry.slots = None;
            }
        }
    }

    pub(super) fn take_memory(&mut self, id: &str) -> Memory {
        self.nodes.get_mut(id)?.memory.take()
    }

    pub(super) fn put_memory(&mut self, id: &str, memory: Memory) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.memory = memory;
        }
    }

    /// What the user is shown of all known nodes, and where it belongs.
    pub(super) fn outputs(&self) -> (Map<String, Json>, Vec<Meta>) {
        let mut outputs = Map::new();
        let mut meta = Vec::new();
        for node in self.order.iter().filter_map(|id| self.nodes.get(id)) {
            let Some(ui) = self.ui(&node.key) else { continue };
            if outputs.insert(node.meta.node.clone(), Json::Object(ui.clone())).is_none() {
                meta.push(node.meta.clone());
            }
        }
        (outputs, meta)
    }
}
