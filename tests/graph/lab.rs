//! Runs prompts and writes down what happened, one short line per event.

use std::sync::Arc;

use comfyd::graph::{
    CachePolicy, Checked, End, Event, Executor, Meta, NodeId, NodeState, Outcome, Phase, Plan, Refusal,
    Registry, Request, check,
};
use comfyd::stop::Stop;
use serde_json::{Map, Value as Json, json};

use crate::toys;

pub fn registry() -> Registry<()> {
    Registry::new(toys::NODES.iter().copied())
}

pub fn judge(prompt: Json, only: Option<&[&str]>) -> Result<Checked, Refusal> {
    let only: Option<Vec<NodeId>> = only.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect());
    check(prompt, &registry(), &(), only.as_deref())
}

/// A prompt from `id: Class {inputs}` entries.
pub fn prompt<'a>(nodes: impl IntoIterator<Item = (&'a str, &'a str, Json)>) -> Json {
    let nodes = nodes.into_iter();
    nodes.map(|(id, class, inputs)| (id.to_owned(), json!({"class_type": class, "inputs": inputs}))).collect()
}

/// An executor and the flag to stop it.
pub struct Lab {
    executor: Executor<()>,
    pub stop: Stop,
    pub request: Request,
    /// Whether states are written down; those of a large prompt would fill the memory.
    pub states: bool,
}

/// What one run told.
pub struct Report {
    pub events: Vec<Event>,
    pub end: End,
    pub outputs: Map<String, Json>,
    pub meta: Vec<Meta>,
}

impl Lab {
    pub fn new() -> Self {
        Self::with(CachePolicy::Classic)
    }

    pub fn with(policy: CachePolicy) -> Self {
        let executor = Executor::new(Arc::new(()), Arc::new(registry()), policy);
        Self { executor, stop: Stop::new(), request: Request::default(), states: true }
    }

    /// Judges a prompt that has to be valid, and runs it.
    pub fn run(&mut self, prompt: Json) -> Report {
        self.run_watched(prompt, |_, _| {})
    }

    /// As [`Lab::run`]; `watch` sees each event when it happens, and may press stop.
    pub fn run_watched(&mut self, prompt: Json, watch: impl FnMut(&Event, &Stop)) -> Report {
        let plan = judge(prompt, None).expect("the prompt is valid").plan;
        self.run_plan(&plan, watch)
    }

    pub fn run_plan(&mut self, plan: &Plan, mut watch: impl FnMut(&Event, &Stop)) -> Report {
        let mut events = Vec::new();
        let stop = self.stop.clone();
        let outcome = self.executor.run(plan, &self.request, &self.stop, &mut |event| {
            watch(&event, &stop);
            if self.states || !matches!(event, Event::State(_)) {
                events.push(event);
            }
        });
        let Outcome { end, outputs, meta } = outcome;
        Report { events, end, outputs, meta }
    }

    pub fn forget(&mut self) {
        self.executor.forget();
    }
}

impl Report {
    /// The ids of nodes in the order they were called.
    pub fn executing(&self) -> Vec<&str> {
        let ids = self.events.iter().filter_map(|event| match event {
            Event::Executing { node, .. } => Some(node.as_str()),
            _ => None,
        });
        ids.collect()
    }

    /// The ids reported as cached.
    pub fn cached(&self) -> Vec<&str> {
        let ids = self.events.iter().filter_map(|event| match event {
            Event::Cached { nodes } => Some(nodes.iter().map(String::as_str)),
            _ => None,
        });
        ids.flatten().collect()
    }

    /// What node `id` showed, as lines.
    pub fn shown(&self, id: &str) -> Vec<&str> {
        let lines = self.outputs.get(id).and_then(|ui| ui["text"].as_array());
        lines.into_iter().flatten().filter_map(Json::as_str).collect()
    }

    /// Every event on a line.
    pub fn lines(&self) -> Vec<String> {
        self.events.iter().map(line).collect()
    }

    /// The last failure.
    pub fn failure(&self) -> &comfyd::graph::Failure {
        let failures = self.events.iter().rev().filter_map(|event| match event {
            Event::Failed(failure) => Some(failure),
            _ => None,
        });
        failures.into_iter().next().expect("the run failed")
    }
}

fn state(state: &NodeState) -> String {
    let phase = match state.phase {
        Phase::Running => "running",
        Phase::Finished => "finished",
        Phase::Error => "error",
    };
    format!("{} {phase} {}/{}", state.node, state.value, state.max)
}

fn line(event: &Event) -> String {
    match event {
        Event::Started => "started".to_owned(),
        Event::Cached { nodes } => format!("cached [{}]", nodes.join(" ")),
        Event::State(states) => {
            format!("state {}", states.iter().map(|known| state(known)).collect::<Vec<_>>().join(", "))
        }
        Event::Executing { node, display } => format!("executing {node} as {display}"),
        Event::Progress { node, preview } => {
            let picture = preview.as_ref().map(|preview| format!(" picture {:?}", preview.format));
            format!("progress {}{}", state(node), picture.unwrap_or_default())
        }
        Event::Text { node, text } => format!("text {node} {text}"),
        Event::Executed { node, display, output } => {
            let output = output.clone().map_or_else(|| "null".to_owned(), |ui| Json::Object(ui).to_string());
            format!("executed {node} as {display} {output}")
        }
        Event::Succeeded => "succeeded".to_owned(),
        Event::Interrupted { node, class, executed } => {
            format!("interrupted {node} {class} after [{}]", executed.join(" "))
        }
        Event::Failed(failure) => {
            format!("failed {} {} {}: {}", failure.node, failure.class, failure.kind, failure.message)
        }
    }
}
