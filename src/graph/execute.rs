//! Running a plan: which node next, from the cache or by calling it, and telling what happens.
//!
//! Start at [`Executor::run`]; a run's own state is in [`Running`]. Deliberately does not know who listens,
//! nor which job this is.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::cache::{Cache, CachePolicy, Known, Meta};
use super::call::{Call, Columns, Part, Setting, merge};
use super::check::Plan;
use super::dynamic::{DynamicPrompt, Given, Place};
use super::event::{Event, Failure, NodeId, NodeState, Phase};
use super::guard::guarded;
use super::inputs::Library;
use super::key::Keys;
use super::node::{AnyNode, ExpandedSlot, Fingerprint, Literals, NodeError, Produced, Result};
use super::order::Order;
use super::progress::{Progress, finished, started};
use super::registry::Registry;
use super::run::{Request, Told};
use super::value::{Arg, Item, Value};
use crate::stop::Stop;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Succeeded,
    Failed,
    Interrupted,
}

/// What a run leaves behind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub end: End,
    /// What each node showed the user, reused results included, in prompt order.
    pub outputs: Map<String, Json>,
    /// Where each entry of `outputs` belongs, in the same order.
    pub meta: Vec<Meta>,
}

/// Runs plans one after another and keeps results between them.
pub struct Executor<H: 'static> {
    host: Arc<H>,
    nodes: Arc<Registry<H>>,
    cache: Cache,
    runs: u64,
}

impl<H: Library> Executor<H> {
    pub fn new(host: Arc<H>, nodes: Arc<Registry<H>>, policy: CachePolicy) -> Self {
        Self { host, nodes, cache: Cache::new(policy), runs: 0 }
    }

    /// Runs a plan to its end. The flag of `stop` is only read: whoever took the job lowers it before.
    pub fn run(
        &mut self,
        plan: &Plan,
        request: &Request,
        stop: &Stop,
        events: &mut dyn FnMut(Event),
    ) -> Outcome {
        self.runs += 1;
        events(Event::Started);
        let keys = Keys::new(self.runs, self.cache.policy() == CachePolicy::None);
        let mut running = Running {
            setting: Setting {
                host: &*self.host,
                stop,
                prompt: plan.prompt.clone(),
                extra_pnginfo: request.extra_pnginfo.as_deref(),
                previews: request.previews,
            },
            prompt: DynamicPrompt::new(&plan.prompt, &*self.nodes),
            events,
            cache: &mut self.cache,
            keys,
            order: Order::default(),
            progress: Progress::default(),
            expanded: HashMap::new(),
            uses: Vec::new(),
            executed: Vec::new(),
        };
        running.begin();
        let end = running.finish(&plan.outputs);
        let (outputs, meta) = self.cache.outputs();
        Outcome { end, outputs, meta }
    }

    /// Drops the results that hold a value of an unwanted kind. Their nodes run again when they are needed.
    pub fn forget_values(&mut self, is_unwanted: &dyn Fn(&Value) -> bool) {
        self.cache.forget(is_unwanted);
    }

    /// Drops every kept result and everything nodes remember.
    pub fn forget(&mut self) {
        self.cache = Cache::new(self.cache.policy());
    }
}

/// One run.
struct Running<'r, H: 'static> {
    setting: Setting<'r, H>,
    prompt: DynamicPrompt<'r, H>,
    events: &'r mut dyn FnMut(Event),
    cache: &'r mut Cache,
    keys: Keys,
    order: Order,
    progress: Progress,
    /// What nodes gave back that wait for the subgraph they expanded into.
    expanded: HashMap<Place, Vec<Produced>>,
    /// How many links of nodes still to run lead to a node.
    uses: Vec<usize>,
    executed: Vec<NodeId>,
}

/// What became of a node that was entered.
enum Entered {
    Finished,
    /// It was given more to wait for.
    Waiting,
}

impl<H: Library> Running<'_, H> {
    fn begin(&mut self) {
        let (host, prompt, shown) = (self.setting.host, &self.prompt, &mut self.setting.prompt);
        self.keys.extend(prompt, |place| {
            let member = &prompt.members[place];
            let Some(body) = shown.get_mut(&member.id) else { return Fingerprint::Constant };
            let literals = member.class.literals(body);
            let fingerprint = fingerprint(member.class.node, &literals, host);
            let state = match &fingerprint {
                Fingerprint::Constant => return fingerprint,
                Fingerprint::Is(state) => Json::from(state.as_str()),
                Fingerprint::Always => Json::Null,
            };
            body["is_changed"] = vec![state].into();
            fingerprint
        });
        self.uses.resize(prompt.members.len(), 0);
        let places = 0..prompt.members.len();
        let known = places.clone().map(|place| self.known(place)).collect();
        self.cache.begin(known);
        let cached = places.filter(|place| self.cached(*place));
        let nodes = cached.map(|place| self.prompt.members[place].id.clone()).collect();
        (self.events)(Event::Cached { nodes });
    }

    fn finish(&mut self, outputs: &[NodeId]) -> End {
        for id in outputs {
            match self.prompt.place(id) {
                Some(place) => self.require(place),
                None => return self.fail_unknown(id),
            }
        }
        while !self.order.is_empty() {
            let Some(place) = self.order.next() else { return self.fail_circle() };
            let columns = self.columns(place);
            match self.enter(place, &columns) {
                Ok(Entered::Finished) => self.complete(place),
                Ok(Entered::Waiting) => {}
                Err(error) => return self.fail(place, &columns, error),
            }
        }
        (self.events)(Event::Succeeded);
        End::Succeeded
    }

    /// Puts a node among those to run, with all it needs; lazy links wait until somebody asks.
    ///
    /// The last link of a node is entered first, as in ComfyUI, which users see in the order of nodes.
    fn require(&mut self, place: Place) {
        let mut waiting = vec![place];
        let mut links = Vec::new();
        while let Some(place) = waiting.pop() {
            if self.order.contains(place) {
                continue;
            }
            self.order.add(place, self.prompt.members[place].class.card.output);
            // Only an output is entered although it is cached: to show its result again.
            if self.cached(place) {
                continue;
            }
            for (source, lazy) in self.prompt.members[place].links() {
                self.uses[source] += 1;
                if !lazy && !self.cached(source) {
                    waiting.push(source);
                    links.push((source, place));
                }
            }
        }
        for (from, to) in links {
            self.order.link(from, to);
        }
    }

    /// Makes `to` wait for `from`, unless that is there already.
    fn wait_for(&mut self, from: Place, to: Place) {
        if !self.cached(from) {
            self.require(from);
            self.order.link(from, to);
        }
    }

    fn enter(&mut self, place: Place, columns: &Columns) -> Result<Entered> {
        if self.cached(place) {
            let (node, display, ..) = self.prompt.names(place);
            let output = self.cache.ui(&self.keys.get(place)).cloned();
            (self.events)(Event::Executed { node, display, output });
            self.tell_state(place, finished);
            return Ok(Entered::Finished);
        }
        let class = self.prompt.members[place].class;
        let calls = match self.expanded.remove(&place) {
            Some(calls) => self.resolve(calls)?,
            None => match self.call(place, columns)? {
                Some(calls) => calls,
                None => return Ok(Entered::Waiting),
            },
        };
        let made = merge(calls, class.outputs.len());
        let (node, display, ..) = self.prompt.names(place);
        if let Some(ui) = &made.ui {
            let (node, output) = (node.clone(), Some(ui.clone()));
            (self.events)(Event::Executed { node, display, output });
        }
        self.cache.keep(self.keys.get(place), made);
        self.tell_state(place, finished);
        self.executed.push(node);
        Ok(Entered::Finished)
    }

    /// Calls a node; `None` when it has to wait for lazy inputs or for a subgraph.
    fn call(&mut self, place: Place, columns: &Columns) -> Result<Option<Vec<Produced>>> {
        let (node, display, ..) = self.prompt.names(place);
        self.tell_state(place, started);
        (self.events)(Event::Executing { node: node.clone(), display });
        if self.ask_for_lazy(place, columns)? {
            return Ok(None);
        }
        let mut memory = self.cache.take_memory(&node);
        let state = self.state(place);
        let call = Call::new(&self.setting, &self.prompt.members[place]);
        let (progress, events, executed) = (&mut self.progress, &mut self.events, &self.executed);
        let class = self.prompt.members[place].class.card.class;
        let made = call.run(columns, &mut memory, &mut |told| match told {
            Told::Step { done, total, preview } => {
                let node = progress.set(
                    place,
                    || state.clone(),
                    |state| {
                        (state.phase, state.value, state.max) = (Phase::Running, done, total);
                    },
                );
                events(progress.snapshot());
                events(Event::Progress { node, preview });
            }
            Told::Text(text) => events(Event::Text { node: node.clone(), text }),
            Told::Blocked(message) => events(Event::Failed(Failure {
                node: node.clone(),
                class: class.to_owned(),
                message: format!("Execution Blocked: {message}"),
                kind: Failure::BLOCKED.to_owned(),
                causes: Vec::new(),
                inputs: Map::new(),
                executed: executed.clone(),
                known: Vec::new(),
            })),
        });
        // After a panic nobody knows what state the memory is in.
        if !matches!(made, Err(NodeError::Panicked(_))) {
            self.cache.put_memory(&node, memory);
        }
        let calls = made?;
        if calls.iter().any(|call| call.expansion.is_some()) {
            self.expand(place, calls)?;
            return Ok(None);
        }
        self.cache.expand(&node, Vec::new());
        Ok(Some(calls))
    }

    /// Lets a node ask for lazy inputs; whether it has to wait for one.
    fn ask_for_lazy(&mut self, place: Place, columns: &Columns) -> Result<bool> {
        let class = self.prompt.members[place].class;
        if !class.inputs.iter().any(|spec| spec.lazy) {
            return Ok(false);
        }
        let call = Call::new(&self.setting, &self.prompt.members[place]);
        let needed = call.needs(columns)?;
        let inputs = self.prompt.members[place].inputs.iter();
        let missing: Vec<_> = inputs
            .filter(|input| needed.contains(input.name.as_str()))
            .filter_map(|input| match input.given {
                Given::Link { source: Some(source), .. } if !self.cached(source) => Some(source),
                _ => None,
            })
            .collect();
        for source in &missing {
            self.wait_for(*source, place);
        }
        Ok(!missing.is_empty())
    }

    /// Adds the subgraphs that the calls of a node gave back, and makes the node wait for their results.
    fn expand(&mut self, place: Place, calls: Vec<Produced>) -> Result<()> {
        let mut bodies = Vec::new();
        let first = self.prompt.members.len();
        for expansion in calls.iter().filter_map(|call| call.expansion.as_ref()) {
            self.prompt.expand(place, &expansion.nodes).map_err(NodeError::other)?;
            bodies.extend(expansion.nodes.values());
        }
        let (host, prompt) = (self.setting.host, &self.prompt);
        self.keys.extend(prompt, |place| {
            let class = prompt.members[place].class;
            fingerprint(class.node, &class.literals(bodies[place - first]), host)
        });
        let places = first..prompt.members.len();
        self.uses.resize(places.end, 0);
        let known = places.clone().map(|place| self.known(place)).collect();
        self.cache.expand(&self.prompt.members[place].id, known);
        for node in places.filter(|node| self.prompt.members[*node].class.card.output).collect::<Vec<_>>() {
            self.require(node);
        }
        for source in self.results(&calls)? {
            self.uses[source] += 1;
            self.wait_for(source, place);
        }
        self.expanded.insert(place, calls);
        Ok(())
    }

    /// The nodes of subgraphs that feed the results of the node that expanded.
    fn results(&self, calls: &[Produced]) -> Result<Vec<Place>> {
        let slots = calls.iter().filter_map(|call| call.expansion.as_ref()).flat_map(|into| &into.results);
        slots
            .filter_map(|slot| match slot {
                ExpandedSlot::Link { node, .. } => Some(self.prompt.place(node).ok_or_else(|| {
                    NodeError::Refused(format!("the subgraph gives back node {node}, which does not exist"))
                })),
                ExpandedSlot::Value(_) => None,
            })
            .collect()
    }

    /// Fills in the results of subgraphs that have run.
    fn resolve(&mut self, mut calls: Vec<Produced>) -> Result<Vec<Produced>> {
        let sources = self.results(&calls)?;
        for call in &mut calls {
            let Some(expansion) = call.expansion.take() else { continue };
            let items = |slot| match slot {
                ExpandedSlot::Value(value) => Ok(vec![Item::Value(value)]),
                ExpandedSlot::Link { node, slot } => (self.prompt.place(&node))
                    .and_then(|source| self.cache.slots(&self.keys.get(source))?.get(slot).cloned())
                    .ok_or_else(|| {
                        NodeError::Refused(format!("node {node} of the subgraph has no slot {slot}"))
                    }),
            };
            call.slots = expansion.results.into_iter().map(items).collect::<Result<_>>()?;
        }
        for source in sources {
            self.release(source);
        }
        Ok(calls)
    }

    /// Takes a node out that has run, and what only it still needed.
    fn complete(&mut self, place: Place) {
        self.order.complete(place);
        let sources: Vec<_> = self.prompt.members[place].links().map(|(source, _)| source).collect();
        for source in sources {
            self.release(source);
        }
        self.uses[place] += 1;
        self.release(place);
    }

    /// Ends one use of a node's result.
    fn release(&mut self, place: Place) {
        self.uses[place] = self.uses[place].saturating_sub(1);
        if self.uses[place] == 0 && self.cache.policy() == CachePolicy::None && !self.order.contains(place) {
            self.cache.release(&self.keys.get(place));
        }
    }

    fn cached(&self, place: Place) -> bool {
        self.cache.slots(&self.keys.get(place)).is_some()
    }

    /// What has arrived at the inputs of a node; nothing for inputs that were not computed.
    fn columns(&self, place: Place) -> Columns {
        let inputs = self.prompt.members[place].inputs.iter().filter(|input| input.declared);
        let parts = |given: &Given| match given {
            Given::Constant(value) => Some(vec![Part::Arg(Arg::Literal(value.clone()))]),
            Given::Link { source, slot } => {
                let slots = self.cache.slots(&self.keys.get((*source)?))?;
                Some(slots.get(*slot)?.iter().map(Part::from).collect())
            }
        };
        inputs.filter_map(|input| Some((input.name.clone(), parts(&input.given)?))).collect()
    }

    fn known(&self, place: Place) -> Known {
        let (node, display, parent, real) = self.prompt.names(place);
        let class = self.prompt.members[place].class.card.class;
        Known { meta: Meta { node, display, parent, real }, class, key: self.keys.get(place), memory: None }
    }

    fn state(&self, place: Place) -> NodeState {
        let (node, display, parent, real) = self.prompt.names(place);
        NodeState { node, display, parent, real, phase: Phase::Running, value: 0, max: 1 }
    }

    fn tell_state(&mut self, place: Place, change: fn(&mut NodeState)) {
        let state = self.state(place);
        self.progress.set(place, || state, change);
        (self.events)(self.progress.snapshot());
    }

    /// Ends the run because of a node; the user is told the node of the prompt it came from.
    fn fail(&mut self, place: Place, columns: &Columns, error: NodeError) -> End {
        let (.., node) = self.prompt.names(place);
        let class = self.class_of_real(place);
        let executed = self.executed.clone();
        if matches!(error, NodeError::Interrupted(_)) {
            (self.events)(Event::Interrupted { node, class, executed });
            return End::Interrupted;
        }
        let call = Call::new(&self.setting, &self.prompt.members[place]);
        let inputs = call.describe(columns);
        let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
        (self.events)(Event::Failed(Failure {
            node,
            class,
            message: error.to_string(),
            kind: error.kind().to_owned(),
            causes: causes.map(ToString::to_string).collect(),
            inputs,
            executed,
            known: self.setting.prompt.keys().cloned().collect(),
        }));
        End::Failed
    }

    /// Ends the run because nodes wait for each other; a node that expanded is to blame.
    fn fail_circle(&mut self) -> End {
        let circle = self.order.circle();
        let display = |place: &Place| self.prompt.members[*place].display;
        let blamed = circle.iter().find(|place| display(place) != **place).map(display);
        let place = blamed.or(circle.first().copied()).unwrap_or_default();
        let (.., node) = self.prompt.names(place);
        let names = circle.iter().map(|place| self.prompt.members[*place].id.as_str());
        let message = format!("the nodes {} wait for each other", names.collect::<Vec<_>>().join(", "));
        self.fail_without_call(node, self.class_of_real(place), message, Failure::CYCLE)
    }

    fn fail_unknown(&mut self, id: &str) -> End {
        let class = self.setting.prompt.get(id).and_then(super::prompt::class).unwrap_or_default().to_owned();
        let message = format!("output node {id} cannot run, because its class {class:?} does not exist here");
        self.fail_without_call(id.to_owned(), class, message, "UnknownClass")
    }

    fn fail_without_call(&mut self, node: NodeId, class: String, message: String, kind: &str) -> End {
        (self.events)(Event::Failed(Failure {
            node,
            class,
            message,
            kind: kind.to_owned(),
            causes: Vec::new(),
            inputs: Map::new(),
            executed: self.executed.clone(),
            known: self.setting.prompt.keys().cloned().collect(),
        }));
        End::Failed
    }

    fn class_of_real(&self, place: Place) -> String {
        self.prompt.members[self.prompt.members[place].real].class.card.class.to_owned()
    }
}

fn fingerprint<H>(node: &dyn AnyNode<H>, literals: &Literals, host: &H) -> Fingerprint {
    guarded(|| node.fingerprint(literals, host)).unwrap_or(Fingerprint::Always)
}
