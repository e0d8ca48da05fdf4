//! Which node runs next: the nodes still to run dissolve from those that wait for nothing.
//!
//! Owns ComfyUI's rules for the visible order. Deliberately knows nodes only by their place.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::dynamic::Place;

/// The smaller, the sooner: how close a node that is ready stands to something the user will see.
type Rank = u8;

struct Pending {
    /// When the node was added: the order among equals.
    turn: usize,
    output: bool,
    /// How many nodes it waits for.
    blockers: usize,
    /// The nodes that wait for it.
    blocking: HashSet<Place>,
    /// The rank it is listed under in [`Order::ready`].
    listed: Option<Rank>,
}

/// The nodes still to run.
#[derive(Default)]
pub(super) struct Order {
    pending: HashMap<Place, Pending>,
    ready: BTreeSet<(Rank, usize, Place)>,
    /// Nodes that may have become ready since somebody last asked.
    fresh: Vec<Place>,
    /// Whether links were added, which can bring ready nodes closer to an output.
    links_added: bool,
    turns: usize,
}

impl Order {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn contains(&self, place: Place) -> bool {
        self.pending.contains_key(&place)
    }

    pub(super) fn add(&mut self, place: Place, output: bool) {
        let node = Pending { turn: self.turns, output, blockers: 0, blocking: HashSet::new(), listed: None };
        self.pending.insert(place, node);
        self.fresh.push(place);
        self.turns += 1;
    }

    /// Makes `to` wait for `from`; both are still to run.
    pub(super) fn link(&mut self, from: Place, to: Place) {
        let added = self.pending.get_mut(&from).is_some_and(|from| from.blocking.insert(to));
        if added && let Some(to) = self.pending.get_mut(&to) {
            to.blockers += 1;
            self.links_added = true;
        }
    }

    /// The node to run now: an output; else what directly feeds one; else what feeds that; else the first.
    /// `None` when all wait for each other.
    pub(super) fn next(&mut self) -> Option<Place> {
        if std::mem::take(&mut self.links_added) {
            self.fresh.extend(std::mem::take(&mut self.ready).into_iter().map(|(_, _, place)| place));
        }
        for place in std::mem::take(&mut self.fresh) {
            self.list(place);
        }
        self.ready.first().map(|(_, _, place)| *place)
    }

    /// Takes a node out that has run.
    pub(super) fn complete(&mut self, place: Place) {
        let Some(node) = self.pending.remove(&place) else { return };
        if let Some(rank) = node.listed {
            self.ready.remove(&(rank, node.turn, place));
        }
        for waiting in node.blocking {
            if let Some(node) = self.pending.get_mut(&waiting) {
                node.blockers -= 1;
                if node.blockers == 0 {
                    self.fresh.push(waiting);
                }
            }
        }
    }

    /// The nodes that wait for each other, and those in between, in the order they were added.
    pub(super) fn circle(&self) -> Vec<Place> {
        // What waits for the circle without being part of it dissolves from the other end.
        let mut waiting: HashMap<Place, usize> =
            self.pending.iter().map(|(place, node)| (*place, node.blocking.len())).collect();
        let mut feeds: HashMap<Place, Vec<Place>> = HashMap::new();
        for (from, node) in &self.pending {
            for to in &node.blocking {
                feeds.entry(*to).or_default().push(*from);
            }
        }
        let mut free: Vec<_> =
            waiting.iter().filter(|(_, count)| **count == 0).map(|(place, _)| *place).collect();
        while let Some(place) = free.pop() {
            waiting.remove(&place);
            for from in feeds.get(&place).into_iter().flatten() {
                if let Some(count) = waiting.get_mut(from) {
                    *count -= 1;
                    if *count == 0 {
                        free.push(*from);
                    }
                }
            }
        }
        let mut circle: Vec<_> = waiting.into_keys().collect();
        circle.sort_by_key(|place| self.pending.get(place).map(|node| node.turn));
        circle
    }

    /// Puts a node among the ready ones, if it waits for nothing.
    fn list(&mut self, place: Place) {
        let Some(node) = self.pending.get(&place) else { return };
        let rank = (node.blockers == 0).then(|| self.rank(node));
        let turn = node.turn;
        if let Some(node) = self.pending.get_mut(&place) {
            let before = std::mem::replace(&mut node.listed, rank);
            if let Some(before) = before {
                self.ready.remove(&(before, turn, place));
            }
        }
        self.ready.extend(rank.map(|rank| (rank, turn, place)));
    }

    fn rank(&self, node: &Pending) -> Rank {
        let output = |place: &Place| self.pending.get(place).is_some_and(|node| node.output);
        let feeds_output =
            |place: &Place| self.pending.get(place).is_some_and(|node| node.blocking.iter().any(output));
        if node.output {
            0
        } else if node.blocking.iter().any(output) {
            1
        } else if node.blocking.iter().any(feeds_output) {
            2
        } else {
            3
        }
    }
}
