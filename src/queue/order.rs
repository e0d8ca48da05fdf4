//! The jobs that wait, in the order they will run.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::Job;

/// Ordered by number, then by id, then by arrival.
#[derive(Default)]
pub(super) struct Pending {
    jobs: BTreeMap<Place, Arc<Job>>,
    arrivals: u64,
}

#[derive(Clone, PartialEq)]
struct Place {
    number: f64,
    id: String,
    arrival: u64,
}

impl Eq for Place {}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_number = self.number.total_cmp(&other.number);
        by_number.then_with(|| self.id.cmp(&other.id)).then(self.arrival.cmp(&other.arrival))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values()
    }

    pub(super) fn insert(&mut self, job: Arc<Job>) {
        self.arrivals += 1;
        // Adding zero makes one zero of both, which `total_cmp` would tell apart.
        let number = job.number.as_f64().unwrap_or_default() + 0.0;
        self.jobs.insert(Place { number, id: job.id.clone(), arrival: self.arrivals }, job);
    }

    pub(super) fn take_first(&mut self) -> Option<Arc<Job>> {
        self.jobs.pop_first().map(|(_, job)| job)
    }

    /// Removes the first job with this id.
    pub(super) fn remove(&mut self, id: &str) -> Option<Arc<Job>> {
        let place = self.jobs.keys().find(|place| place.id == id)?.clone();
        self.jobs.remove(&place)
    }

    /// Removes all jobs.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Arc<Job>> + use<> {
        std::mem::take(&mut self.jobs).into_values()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Number;

    use super::*;

    fn job(id: &str, number: f64) -> Arc<Job> {
        let number = Number::from_f64(number).expect("a finite number");
        Arc::new(Job { number, ..Job::empty(id) })
    }

    #[test]
    fn jobs_run_by_number_and_then_by_id() {
        let mut pending = Pending::default();
        for (id, number) in [("c", 1.0), ("b", 0.0), ("z", -3.0), ("a", -0.0), ("b", 0.0)] {
            pending.insert(job(id, number));
        }
        assert!(pending.remove("b").is_some());
        assert!(pending.remove("nobody").is_none());
        let order: Vec<_> = std::iter::from_fn(|| pending.take_first()).map(|job| job.id.clone()).collect();
        assert_eq!(order, ["z", "a", "b", "c"]);
    }
}
