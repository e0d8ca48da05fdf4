//! How long the nodes of a running job take, and their steps, read from what the job tells.

use std::time::{Duration, Instant};

use super::{Change, Job};
use crate::graph::{Event, NodeId};

pub(super) struct Stopwatch<'j> {
    job: &'j Job,
    active: Option<Active>,
}

/// The node at work.
struct Active {
    /// Under the id that the user sees.
    node: NodeId,
    since: Instant,
    /// When the last step ended.
    step: Option<Instant>,
}

impl<'j> Stopwatch<'j> {
    pub(super) fn new(job: &'j Job) -> Self {
        Self { job, active: None }
    }

    /// Hears what the job tells, and says what follows from it.
    pub(super) fn hear(&mut self, event: &Event, tell: &dyn Fn(Change<'_>)) {
        let now = Instant::now();
        match event {
            Event::Cached { nodes } => tell(Change::Reused { nodes: nodes.len() }),
            Event::Executing { display, .. } => {
                self.end(now, tell);
                self.active = Some(Active { node: display.clone(), since: now, step: None });
            }
            Event::Progress { node, .. } => self.step(now, node.value, tell),
            Event::Executed { .. } | Event::Succeeded | Event::Interrupted { .. } => self.end(now, tell),
            Event::Failed(failure) if failure.ends_run() => self.end(now, tell),
            _ => {}
        }
    }

    fn step(&mut self, now: Instant, value: u32, tell: &dyn Fn(Change<'_>)) {
        let Some(active) = &mut self.active else { return };
        let last = active.step.replace(now);
        if value > 0 {
            let took = last.map(|last| now.duration_since(last));
            tell(Change::Stepped { class: class(self.job, &active.node), took });
        }
    }

    /// Ends the time of the active node.
    pub(super) fn end(&mut self, now: Instant, tell: &dyn Fn(Change<'_>)) {
        if let Some(Active { node, since, .. }) = self.active.take() {
            let (class, took) = (class(self.job, &node), now.duration_since(since));
            log(class, &node, took);
            tell(Change::NodeEnded { class, took });
        }
    }
}

/// Nodes that take as long are worth a line in anybody's log.
const LONG: Duration = Duration::from_millis(100);

fn log(class: &str, node: &str, took: Duration) {
    let seconds = took.as_secs_f64();
    if took >= LONG {
        tracing::info!(node, class, seconds, "{class} took {seconds:.2} s");
    } else {
        tracing::debug!(node, class, seconds, "{class} took {:.2} ms", seconds * 1e3);
    }
}

fn class<'j>(job: &'j Job, node: &str) -> &'j str {
    let class = job.plan.prompt.get(node).and_then(|body| body.get("class_type")?.as_str());
    class.unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::graph::{NodeState, Phase, Plan};

    #[test]
    fn nodes_and_steps_are_counted_as_they_are_told() {
        let prompt = json!({"1": {"class_type": "Loader"}, "2": {"class_type": "Sampler"}});
        let plan =
            Plan { prompt: prompt.as_object().expect("an object").clone(), outputs: vec!["2".to_owned()] };
        let job = Job { plan, ..Job::empty("job") };
        let told = RefCell::new(Vec::new());
        let tell = |change: Change<'_>| {
            told.borrow_mut().push(match change {
                Change::Reused { nodes } => format!("{nodes} reused"),
                Change::NodeEnded { class, .. } => class.to_owned(),
                Change::Stepped { class, took } => format!("{class} {}", took.is_some()),
                _ => panic!("{change:?}"),
            });
        };
        let executing = |id: &str| Event::Executing { node: id.to_owned(), display: id.to_owned() };
        let progress = |value| {
            let (node, display, real) = ("2".to_owned(), "2".to_owned(), "2".to_owned());
            let state = NodeState { node, display, parent: None, real, phase: Phase::Running, value, max: 2 };
            Event::Progress { node: Arc::new(state), preview: None }
        };
        let mut watch = Stopwatch::new(&job);
        let cached = Event::Cached { nodes: vec!["0".to_owned()] };
        for event in [
            Event::Started,
            cached,
            executing("1"),
            executing("2"),
            progress(0),
            progress(1),
            progress(2),
            Event::Succeeded,
        ] {
            watch.hear(&event, &tell);
        }
        watch.end(Instant::now(), &tell);
        let expected = ["1 reused", "Loader", "Sampler true", "Sampler true", "Sampler"];
        assert_eq!(told.into_inner(), expected);
    }
}
