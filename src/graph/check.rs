//! Validation: which output nodes of a prompt can run, and what is wrong with the others.
//!
//! Owns the walk from the outputs to what they link to, without recursion, and the judgement of each
//! input. Deliberately does not know how problems are rendered nor how a plan is run.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::coerce::{Mistake, coerce, outside, type_name};
use super::event::NodeId;
use super::guard::guarded;
use super::inputs::{InputSpec, Kind, Library};
use super::problem::{Declared, Fault, NodeProblems, Problem, Problems, Refusal, word_list};
use super::prompt;
use super::python;
use super::registry::{Class, Registry};

/// A prompt of which at least one output can run.
#[derive(Clone, Debug)]
pub struct Checked {
    pub plan: Plan,
    /// Not empty when some outputs cannot run.
    pub problems: Problems,
}

/// What to run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The prompt with its constants converted: what queue, history and picture files show.
    pub prompt: Map<String, Json>,
    /// The valid output nodes, in prompt order.
    pub outputs: Vec<NodeId>,
}

/// Judges a prompt. `only` restricts the output nodes to run; names that are none are ignored.
///
/// ComfyUI converts constants only in nodes that some output needs, and so does this.
pub fn check<H: Library>(
    prompt: Json,
    nodes: &Registry<H>,
    host: &H,
    only: Option<&[NodeId]>,
) -> Result<Checked, Refusal> {
    let Json::Object(prompt) = prompt else {
        return Err(Refusal::NotAnObject { found: prompt::type_word(&prompt) });
    };
    let classes = classes(&prompt, nodes)?;
    let only: Option<HashSet<_>> = only.map(|ids| ids.iter().map(String::as_str).collect());
    let outputs: Vec<usize> = (prompt.keys().enumerate())
        .filter(|(place, id)| {
            classes[*place].card.output && only.as_ref().is_none_or(|only| only.contains(id.as_str()))
        })
        .map(|(place, _)| place)
        .collect();
    if outputs.is_empty() {
        return Err(Refusal::NoOutputs);
    }
    let mut walk = Walk::new(prompt, classes, host);
    for output in &outputs {
        walk.visit(*output);
    }
    let (good, failed): (Vec<_>, Vec<_>) = outputs.into_iter().partition(|output| walk.visits[*output].valid);
    let problems = walk.problems(&failed);
    if good.is_empty() {
        return Err(Refusal::OutputsFailed(problems));
    }
    let outputs = good.into_iter().map(|output| walk.ids[output].clone()).collect();
    Ok(Checked { plan: Plan { prompt: walk.into_prompt(), outputs }, problems })
}

/// The class of every node, used or not: one unknown class refuses the whole prompt.
fn classes<'a, H: Library>(
    prompt: &Map<String, Json>,
    nodes: &'a Registry<H>,
) -> Result<Vec<&'a Class<H>>, Refusal> {
    let class = |(id, node): (&String, &Json)| {
        let class = node.get("class_type").ok_or_else(|| Refusal::MissingClass { node: id.clone() })?;
        class
            .as_str()
            .and_then(|class| nodes.class(class))
            .ok_or_else(|| Refusal::UnknownClass { node: id.clone(), class: python::text(class) })
    };
    prompt.iter().map(class).collect()
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Stage {
    #[default]
    New,
    /// On the path that is being walked.
    Open,
    Done,
}

/// What is known about one node. Until it is done it counts as invalid, which is what a circle needs.
#[derive(Default)]
struct Visit {
    stage: Stage,
    valid: bool,
    problems: Vec<Problem>,
    fault: Option<Fault>,
    links: Vec<Followed>,
}

/// A usable link: the place of the linked node and the place of the input in the class.
#[derive(Clone, Copy)]
struct Followed {
    source: usize,
    input: usize,
}

struct Walk<'a, H: 'static> {
    host: &'a H,
    ids: Vec<NodeId>,
    places: HashMap<NodeId, usize>,
    bodies: Vec<Json>,
    classes: Vec<&'a Class<H>>,
    visits: Vec<Visit>,
    /// Nodes in the order they were done.
    done: Vec<usize>,
    /// Whether the walk from the present output has reported a circle.
    cycle_reported: bool,
    /// Lists of the host, asked once per prompt.
    names: HashMap<&'static str, Arc<[String]>>,
}

/// One node on the path, and the next of its links to follow.
struct Step {
    node: usize,
    next: usize,
}

/// What a list given to an input turns out to be.
enum Target {
    Node(usize),
    Problem(Problem),
    /// Spoils the judgement of the whole node.
    Fault(Fault),
}

impl<'a, H: Library> Walk<'a, H> {
    fn new(prompt: Map<String, Json>, classes: Vec<&'a Class<H>>, host: &'a H) -> Self {
        let places = prompt.keys().enumerate().map(|(place, id)| (id.clone(), place)).collect();
        let (ids, bodies): (Vec<_>, Vec<_>) = prompt.into_iter().unzip();
        let visits = ids.iter().map(|_| Visit::default()).collect();
        Self {
            host,
            ids,
            places,
            bodies,
            classes,
            visits,
            done: Vec::new(),
            cycle_reported: false,
            names: HashMap::new(),
        }
    }

    fn into_prompt(self) -> Map<String, Json> {
        self.ids.into_iter().zip(self.bodies).collect()
    }

    /// Judges a node and everything it links to, each once; the path is a list, so depth costs no stack.
    fn visit(&mut self, output: usize) {
        if self.visits[output].stage != Stage::New {
            return;
        }
        self.cycle_reported = false;
        self.open(output);
        let mut path = vec![Step { node: output, next: 0 }];
        while let Some(step) = path.last_mut() {
            let node = step.node;
            let Some(&Followed { source, .. }) = self.visits[node].links.get(step.next) else {
                path.pop();
                self.close(node, path.last());
                continue;
            };
            step.next += 1;
            match self.visits[source].stage {
                Stage::New => {
                    self.open(source);
                    path.push(Step { node: source, next: 0 });
                }
                Stage::Open => self.report_cycle(&path, source),
                Stage::Done => {}
            }
        }
    }

    /// Looks at every input of a node; what it links to comes later.
    fn open(&mut self, node: usize) {
        self.visits[node].stage = Stage::Open;
        let class = self.classes[node];
        let mut body = std::mem::take(&mut self.bodies[node]);
        // Nothing is found in a list or a text, as in Python.
        let mut none = Map::new();
        let inputs = body.get_mut("inputs").map(|inputs| match inputs {
            Json::Object(inputs) => Ok(inputs),
            Json::Array(_) | Json::String(_) => Ok(&mut none),
            _ => Err(()),
        });
        match inputs {
            Some(Ok(inputs)) => {
                for (input, spec) in class.inputs.iter().enumerate() {
                    self.examine(node, input, spec, inputs);
                }
                let fault = misasked(class, inputs);
                self.visits[node].fault = self.visits[node].fault.take().or(fault);
            }
            Some(Err(())) => {
                self.visits[node].fault = Some(Fault {
                    kind: "TypeError",
                    text: "inputs is not an object".to_owned(),
                    reason: format!("inputs of node {} is not an object", self.ids[node]),
                });
            }
            None => {
                self.visits[node].fault = Some(Fault {
                    kind: "KeyError",
                    text: "'inputs'".to_owned(),
                    reason: format!("node {} has no inputs", self.ids[node]),
                });
            }
        }
        self.bodies[node] = body;
    }

    fn examine(&mut self, node: usize, input: usize, spec: &Arc<InputSpec>, inputs: &mut Map<String, Json>) {
        let class = self.classes[node];
        let required = spec.required || spec.is_shown(inputs);
        let problem = match inputs.get_mut(spec.name) {
            None if required => Some(Problem::RequiredInputMissing { input: spec.name }),
            None => None,
            Some(Json::Array(items)) => match self.follow(node, spec, items) {
                Target::Node(source) => {
                    self.visits[node].links.push(Followed { source, input });
                    None
                }
                Target::Problem(problem) => Some(problem),
                Target::Fault(fault) => {
                    self.visits[node].fault.get_or_insert(fault);
                    None
                }
            },
            Some(value) => self.constant(class, spec, value),
        };
        self.visits[node].problems.extend(problem);
    }

    /// The node behind a link, if the link can be used. Any list is taken for a link, as in ComfyUI.
    fn follow(&mut self, node: usize, spec: &Arc<InputSpec>, items: &[Json]) -> Target {
        let class = self.classes[node];
        let input = || Declared { class: class.card.class, spec: spec.clone() };
        let link = || Json::from(items);
        let [id, slot] = items else {
            return Target::Problem(Problem::BadLinkedInput { input: input(), received: link() });
        };
        let Some(source) = id.as_str().and_then(|id| self.places.get(id)).copied() else {
            return self.no_node(node, id);
        };
        let outputs = &self.classes[source].outputs;
        let place = slot.as_i64().and_then(|slot| prompt::index(slot, outputs.len()));
        let Some((place, output)) = place.and_then(|place| Some((place, outputs.get(place)?))) else {
            return self.no_slot(node, source, slot);
        };
        if accepts(&spec.kind, class.card.schema, output.socket) {
            return Target::Node(source);
        }
        // Graphs of the version that has no such slot are refused in its words.
        if place >= self.classes[source].listed() {
            return self.no_slot(node, source, slot);
        }
        let expected = if is_word_list(&spec.kind, class.card.schema) {
            word_list(&self.list(&spec.kind))
        } else {
            spec.kind.name().to_owned()
        };
        let received = output.socket.to_owned();
        Target::Problem(Problem::ReturnTypeMismatch { input: input(), received, expected, link: link() })
    }

    fn no_node(&self, node: usize, id: &Json) -> Target {
        let kind = if id.is_array() || id.is_object() { "TypeError" } else { "KeyError" };
        let text = match kind {
            "KeyError" => python::repr(id),
            _ => format!("unhashable type: '{}'", type_name(id)),
        };
        let id = python::text(id);
        let reason = format!("node {} links to node {id}, which is not in the prompt", self.ids[node]);
        Target::Fault(Fault { kind, text, reason })
    }

    fn no_slot(&self, node: usize, source: usize, slot: &Json) -> Target {
        let (kind, text) = if slot.is_i64() || slot.is_u64() {
            ("IndexError", "tuple index out of range".to_owned())
        } else {
            ("TypeError", format!("tuple indices must be integers or slices, not {}", type_name(slot)))
        };
        let reason = format!(
            "node {} links to slot {} of node {}, which has {}",
            self.ids[node],
            python::text(slot),
            self.ids[source],
            self.classes[source].listed()
        );
        Target::Fault(Fault { kind, text, reason })
    }

    /// Converts a constant in place and judges it.
    fn constant(&mut self, class: &Class<H>, spec: &Arc<InputSpec>, value: &mut Json) -> Option<Problem> {
        if let Some(inner) = value.get_mut("__value__") {
            *value = inner.take();
        }
        let input = Declared { class: class.card.class, spec: spec.clone() };
        match coerce(&spec.kind, value) {
            Ok(coerced) => *value = coerced,
            Err(mistake) => return Some(misread(input, value, mistake)),
        }
        if class.node.checks().contains(&spec.name) {
            return None;
        }
        if matches!(spec.kind, Kind::Int | Kind::Float)
            && let Some(side) = outside(spec, value)
        {
            let received = value.clone();
            return Some(match side {
                Ordering::Less => Problem::ValueSmallerThanMin { input, received },
                _ => Problem::ValueBiggerThanMax { input, received },
            });
        }
        if is_word_list(&spec.kind, class.card.schema) {
            let list = self.list(&spec.kind);
            let known = |word| list.iter().any(|known| known == word) || spec.unlisted.contains(&word);
            if !value.as_str().is_some_and(known) {
                return Some(Problem::ValueNotInList { input, received: value.clone(), list });
            }
        }
        None
    }

    /// The words an input accepts; lists of the host are asked once per prompt.
    fn list(&mut self, kind: &Kind) -> Arc<[String]> {
        let host = self.host;
        match kind {
            Kind::Choice(words) => words.iter().map(|word| (*word).to_owned()).collect(),
            Kind::Files(folder) => {
                self.names.entry(folder).or_insert_with(|| host.names(folder).into()).clone()
            }
            _ => Arc::default(),
        }
    }

    /// Ends the judgement of a node; `consumer` is the step that came through it.
    fn close(&mut self, node: usize, consumer: Option<&Step>) {
        let class = self.classes[node];
        let problems = match (self.visits[node].fault.take(), consumer) {
            (Some(fault), Some(Step { node: consumer, next })) => {
                vec![self.inner_fault(fault, *consumer, self.visits[*consumer].links[next - 1].input)]
            }
            (Some(fault), None) => vec![Problem::ExceptionDuringValidation { fault }],
            (None, _) => {
                let mut problems = std::mem::take(&mut self.visits[node].problems);
                problems.extend(ask(class, self.host, &self.bodies[node], problems.is_empty()));
                problems
            }
        };
        let sources_valid = self.visits[node].links.iter().all(|link| self.visits[link.source].valid);
        let visit = &mut self.visits[node];
        visit.valid = problems.is_empty() && sources_valid;
        visit.problems = problems;
        visit.stage = Stage::Done;
        self.done.push(node);
    }

    /// ComfyUI notes a fault under the node that has it, but describes the link of its consumer.
    fn inner_fault(&self, fault: Fault, consumer: usize, input: usize) -> Problem {
        let class = self.classes[consumer];
        let spec = class.inputs[input].clone();
        let link = prompt::inputs(&self.bodies[consumer]).and_then(|inputs| inputs.get(spec.name));
        let link = link.cloned().unwrap_or_default();
        Problem::ExceptionDuringInnerValidation {
            input: Declared { class: class.card.class, spec },
            link,
            fault,
        }
    }

    /// Notes the circle that the last node of the path closes. The first circle found on the way from an
    /// output stands for all, which keeps the report as small as the prompt.
    fn report_cycle(&mut self, path: &[Step], start: usize) {
        if std::mem::replace(&mut self.cycle_reported, true) {
            return;
        }
        let begin = path.iter().rposition(|step| step.node == start).unwrap_or(0);
        let cycle = path[begin..].iter().map(|step| self.ids[step.node].clone()).collect();
        if let Some(last) = path.last() {
            self.visits[last.node].problems.push(Problem::DependencyCycle { cycle });
        }
    }

    /// The faulty nodes above the failed outputs, each with the outputs that need it.
    fn problems(&mut self, failed: &[usize]) -> Problems {
        let mut dependents: HashMap<usize, Vec<NodeId>> = HashMap::new();
        let mut seen = vec![usize::MAX; self.ids.len()];
        for output in failed {
            let mut waiting = vec![*output];
            while let Some(node) = waiting.pop() {
                if std::mem::replace(&mut seen[node], *output) == *output {
                    continue;
                }
                if !self.visits[node].problems.is_empty() {
                    dependents.entry(node).or_default().push(self.ids[*output].clone());
                }
                waiting.extend(self.visits[node].links.iter().map(|link| link.source));
            }
        }
        let faulty = self.done.iter().filter_map(|node| Some((*node, dependents.remove(node)?)));
        let problems = faulty.map(|(node, dependents)| NodeProblems {
            node: self.ids[node].clone(),
            class: self.classes[node].card.class,
            problems: std::mem::take(&mut self.visits[node].problems),
            dependents,
        });
        Problems(problems.collect())
    }
}

/// The problem of a constant that cannot be converted.
fn misread(input: Declared, value: &Json, mistake: Mistake) -> Problem {
    let received = value.clone();
    match mistake {
        Mistake::TooSmall if input.spec.options.contains_key("min") => {
            Problem::ValueSmallerThanMin { input, received }
        }
        Mistake::TooBig if input.spec.options.contains_key("max") => {
            Problem::ValueBiggerThanMax { input, received }
        }
        Mistake::Unreadable(reason) => Problem::InvalidInputType { input, received, reason },
        Mistake::TooSmall | Mistake::TooBig => {
            let reason = "the number does not fit into 64 bits".to_owned();
            Problem::InvalidInputType { input, received, reason }
        }
    }
}

/// What happens to a validator that is not given what it asks for: ComfyUI's fails in the call itself, or where it reads
/// the name of a file.
fn misasked<H>(class: &Class<H>, inputs: &Map<String, Json>) -> Option<Fault> {
    let asks = || class.node.checks().iter().copied();
    if let Some(missing) = asks().find(|name| inputs.get(*name).is_none_or(Json::is_array)) {
        let class = class.card.class;
        return Some(Fault {
            kind: "TypeError",
            text: format!("{class}.VALIDATE_INPUTS() missing 1 required positional argument: '{missing}'"),
            reason: format!("its input `{missing}` has no constant"),
        });
    }
    let files = class.inputs.iter().filter(|input| matches!(input.kind, Kind::Files(_)));
    let mut names = files.map(|input| input.name).filter(|name| asks().any(|asked| asked == *name));
    let (name, value) =
        names.find_map(|name| Some((name, inputs.get(name).filter(|it| !it.is_string())?)))?;
    Some(Fault {
        kind: "AttributeError",
        text: format!("'{}' object has no attribute 'endswith'", type_name(value)),
        reason: format!("its input `{name}` is no file's name"),
    })
}

/// Asks the node's own validator, with its constants only: one problem per constant it judges.
fn ask<H>(class: &Class<H>, host: &H, body: &Json, alone: bool) -> Vec<Problem> {
    let checks = class.node.checks();
    if checks.is_empty() {
        return Vec::new();
    }
    let literals = class.literals(body);
    let verdict = guarded(|| class.node.check(&literals, host)).and_then(|verdict| verdict);
    let Err(reason) = verdict else { return Vec::new() };
    let mut judged: Vec<&'static str> =
        checks.iter().copied().filter(|name| literals.contains_key(*name)).collect();
    if judged.is_empty() && alone {
        judged.extend(checks.first());
    }
    judged
        .into_iter()
        .map(|input| Problem::CustomValidationFailed { input, reason: reason.clone() })
        .collect()
}

/// Whether constants have to come from a list. Combos of schema-style nodes are not checked in 0.3.64.
fn is_word_list(kind: &Kind, schema: bool) -> bool {
    matches!(kind, Kind::Choice(_) | Kind::Files(_)) && !schema
}

/// Whether a slot of type `socket` may feed an input: equal, sharing one type of a set, or `*`.
fn accepts(kind: &Kind, schema: bool, socket: &str) -> bool {
    let types = |set: &'_ str| set.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
    let received = types(socket);
    if received.iter().any(|name| name == "*") {
        return true;
    }
    // An older combo's type is its list, which equals no slot's.
    !is_word_list(kind, schema)
        && types(kind.name()).iter().any(|name| name == "*" || received.contains(name))
}
