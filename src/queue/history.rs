//! What is remembered of jobs that have ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Job;
use crate::graph::{Event, Outcome};

/// The most entries kept, ComfyUI's number; the oldest leave first.
const CAPACITY: usize = 10_000;

/// One job that has ended.
#[derive(Clone, Debug)]
pub struct Entry {
    pub job: Arc<Job>,
    pub outcome: Outcome,
    /// The milestones of the run, in order.
    pub messages: Vec<Message>,
}

/// A milestone of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub event: Event,
}

/// Whether an event is a milestone, kept in history.
pub(super) fn is_kept(event: &Event) -> bool {
    matches!(
        event,
        Event::Started
            | Event::Cached { .. }
            | Event::Failed(_)
            | Event::Interrupted { .. }
            | Event::Succeeded
    )
}

/// The time in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Which entries somebody wants to see.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page {
    /// At most so many; none for zero and less.
    pub max: Option<i64>,
    /// Skips so many from the oldest on. Without one (or a negative one) the newest are shown.
    pub offset: Option<i64>,
}

/// Entries by id and by the order in which they ended.
#[derive(Default)]
pub(super) struct History {
    entries: BTreeMap<u64, Arc<Entry>>,
    places: HashMap<String, u64>,
    next: u64,
}

impl History {
    pub(super) fn insert(&mut self, entry: Entry) {
        self.remove(&entry.job.id);
        while self.entries.len() >= CAPACITY {
            let oldest = self.entries.pop_first();
            oldest.map(|(_, entry)| self.places.remove(&entry.job.id));
        }
        self.places.insert(entry.job.id.clone(), self.next);
        self.entries.insert(self.next, Arc::new(entry));
        self.next += 1;
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.entries.get(self.places.get(id)?).cloned()
    }

    pub(super) fn page(&self, page: Page) -> Vec<Arc<Entry>> {
        let clamp = |number: i64| usize::try_from(number).unwrap_or(0);
        let max = page.max.map_or(usize::MAX, clamp);
        let skipped = match page.offset {
            Some(offset) if offset >= 0 => clamp(offset),
            _ => self.entries.len().saturating_sub(max),
        };
        self.entries.values().skip(skipped).take(max).cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All entries, the newest first.
    pub(super) fn newest(&self) -> Vec<Arc<Entry>> {
        self.entries.values().rev().cloned().collect()
    }

    pub(super) fn remove(&mut self, id: &str) {
        if let Some(place) = self.places.remove(id) {
            self.entries.remove(&place);
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.places.clear();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::graph::End;

    fn entry(id: usize) -> Entry {
        let job = Job::empty(&id.to_string());
        let outcome = Outcome { end: End::Succeeded, outputs: Map::new(), meta: Vec::new() };
        Entry { job: Arc::new(job), outcome, messages: Vec::new() }
    }

    fn ids(history: &History, max: Option<i64>, offset: Option<i64>) -> Vec<String> {
        history.page(Page { max, offset }).iter().map(|entry| entry.job.id.clone()).collect()
    }

    #[test]
    fn pages_count_from_the_newest_or_from_an_offset() {
        let mut history = History::default();
        (0..4).for_each(|id| history.insert(entry(id)));
        assert_eq!(ids(&history, None, None), ["0", "1", "2", "3"]);
        assert_eq!(ids(&history, Some(2), None), ["2", "3"]);
        assert_eq!(ids(&history, Some(1), Some(0)), ["0"]);
        assert_eq!(ids(&history, None, Some(3)), ["3"]);
        assert_eq!(ids(&history, Some(9), Some(-1)), ["0", "1", "2", "3"]);
        assert!(ids(&history, Some(0), None).is_empty());
        assert!(ids(&history, Some(-5), None).is_empty());
        assert!(ids(&history, None, Some(9)).is_empty());
    }

    #[test]
    fn the_oldest_entries_leave_a_full_history() {
        let mut history = History::default();
        (0..CAPACITY + 3).for_each(|id| history.insert(entry(id)));
        assert_eq!(history.entries.len(), CAPACITY);
        assert!(history.get("2").is_none());
        assert!(history.get("3").is_some());
        assert_eq!(history.places.len(), CAPACITY);
    }
}
