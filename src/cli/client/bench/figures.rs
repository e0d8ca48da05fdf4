//! What the runs have in common: the middle of their times, and what one in twenty exceeds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::run::Run;

/// The times of all runs.
#[derive(Default)]
pub(super) struct Figures {
    total: Vec<Duration>,
    on_server: Vec<Duration>,
    /// In the order they first ran.
    nodes: Vec<(String, Vec<Duration>)>,
    steps: BTreeMap<String, Vec<Duration>>,
    cached: usize,
}

/// Half of the times, and nineteen of twenty, are no longer than these.
struct Shares {
    p50: Duration,
    p95: Duration,
}

impl Shares {
    /// The nearest ranks.
    fn of(times: &[Duration]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Self { p50: rank(50)?, p95: rank(95)? })
    }

    fn document(&self) -> Json {
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        json!({"p50": ms(self.p50), "p95": ms(self.p95)})
    }
}

fn shares(times: &[Duration]) -> Json {
    Shares::of(times).map_or(Json::Null, |shares| shares.document())
}

impl Figures {
    pub(super) fn add(&mut self, run: Run) {
        self.total.push(run.total);
        self.on_server.extend(run.on_server);
        self.cached += run.cached;
        for (node, time) in run.nodes {
            match self.nodes.iter_mut().find(|(known, _)| *known == node) {
                Some((_, times)) => times.push(time),
                None => self.nodes.push((node, vec![time])),
            }
        }
        for (node, times) in run.steps {
            self.steps.entry(node).or_default().extend(times);
        }
    }

    pub(super) fn document(&self, class: &dyn Fn(&str) -> String) -> Json {
        let node = |(node, times): &(String, Vec<Duration>)| {
            let steps = self.steps.get(node).map(Vec::as_slice).unwrap_or_default();
            json!({
                "node": node, "class_type": class(node), "runs": times.len(), "ms": shares(times),
                "steps": steps.len(), "step_ms": shares(steps),
            })
        };
        json!({
            "runs": self.total.len(), "total_ms": shares(&self.total), "server_ms": shares(&self.on_server),
            "nodes": self.nodes.iter().map(node).collect::<Json>(), "cached_nodes": self.cached,
        })
    }

    pub(super) fn table(&self, class: &dyn Fn(&str) -> String) -> String {
        let mut table = format!("{:40} {:>10} {:>10}\n", format!("{} runs", self.total.len()), "p50", "p95");
        let mut row = |name: &str, times: &[Duration]| {
            if let Some(Shares { p50, p95 }) = Shares::of(times) {
                // Writing to a text cannot fail.
                let _ = writeln!(table, "{name:40} {:>10} {:>10}", shown(p50), shown(p95));
            }
        };
        row("in all", &self.total);
        row("on the server", &self.on_server);
        for (node, times) in &self.nodes {
            row(&format!("  node {node} {}", class(node)), times);
            if let Some(steps) = self.steps.get(node) {
                row("    each step", steps);
            }
        }
        if self.cached > 0 {
            let _ = writeln!(table, "the cache answered for {} nodes", self.cached);
        }
        table
    }
}

fn shown(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 1e3 { format!("{ms:.1} ms") } else { format!("{:.2} s", ms / 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_nearest_ranks() {
        let ms: Vec<_> = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!(shares(&ms), json!({"p50": 10.0, "p95": 19.0}));
        assert_eq!(shares(&ms[..1]), json!({"p50": 20.0, "p95": 20.0}));
        assert_eq!(shares(&[]), Json::Null);
    }

    #[test]
    fn a_table_has_a_row_for_everything_that_took_time() {
        let mut figures = Figures::default();
        let ms = Duration::from_millis;
        figures.add(Run {
            total: ms(1500),
            on_server: Some(ms(1400)),
            nodes: vec![("3".to_owned(), ms(900))],
            steps: BTreeMap::from([("3".to_owned(), vec![ms(40), ms(50)])]),
            cached: 2,
            pictures: Vec::new(),
        });
        let table = figures.table(&|_| "KSampler".to_owned());
        for words in ["1 runs", "1.50 s", "node 3 KSampler", "900.0 ms", "each step", "answered for 2 nodes"]
        {
            assert!(table.contains(words), "{table}");
        }
        let told = figures.document(&|_| "KSampler".to_owned());
        assert_eq!(told["nodes"][0]["step_ms"], json!({"p50": 40.0, "p95": 50.0}));
    }
}
