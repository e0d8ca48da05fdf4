//! Calling a node: once per item of the lists that arrived, or once with whole lists; and what came back.
//!
//! Deliberately knows nothing of the order of nodes, of caches and of who listens.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::cache::{Made, Memory};
use super::dynamic::Member;
use super::guard::guarded;
use super::node::{NodeError, Produced, Result};
use super::python;
use super::registry::Class;
use super::run::{Run, Told};
use super::value::{Arg, Args, Item};
use crate::stop::Stop;

/// One item that arrived at an input.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Arg(Arg),
    Blocked(Option<String>),
}

impl From<&Item> for Part {
    fn from(item: &Item) -> Self {
        match item {
            Item::Value(value) => Self::Arg(Arg::Value(value.clone())),
            Item::Blocked(message) => Self::Blocked(message.clone()),
        }
    }
}

/// The items that arrived at each input, in the order of the prompt.
pub(super) type Columns = Vec<(String, Vec<Part>)>;

/// What all calls of a run share.
pub(super) struct Setting<'r, H> {
    pub(super) host: &'r H,
    pub(super) stop: &'r Stop,
    /// The prompt as nodes see it.
    pub(super) prompt: Map<String, Json>,
    pub(super) extra_pnginfo: Option<&'r Json>,
    pub(super) previews: Option<bool>,
}

/// One node about to be called.
pub(super) struct Call<'c, H: 'static> {
    setting: &'c Setting<'c, H>,
    class: &'c Class<H>,
    node: &'c str,
}

impl<'c, H> Call<'c, H> {
    pub(super) fn new(setting: &'c Setting<'c, H>, member: &'c Member<'c, H>) -> Self {
        Self { setting, class: member.class, node: &member.id }
    }

    /// The missing lazy inputs that the node asks for.
    pub(super) fn needs(&self, columns: &Columns) -> Result<BTreeSet<&'static str>> {
        let mut needed = BTreeSet::new();
        for index in 0..self.count(columns) {
            if let Ok(args) = self.row(columns, index) {
                needed.extend(guarded(|| self.class.node.needs(&args)).map_err(NodeError::Panicked)?);
            }
        }
        Ok(needed)
    }

    /// Makes all calls. A call with a blocked argument is not made, and blocks what it would have fed.
    pub(super) fn run(
        &self,
        columns: &Columns,
        memory: &mut Memory,
        tell: &mut dyn FnMut(Told),
    ) -> Result<Vec<Produced>> {
        let call = |index| {
            self.setting.stop.check()?;
            match self.row(columns, index) {
                Ok(args) => self.once(index, &args, memory, tell),
                Err(message) => {
                    if let Some(message) = message {
                        tell(Told::Blocked(message));
                    }
                    let slots = self.class.outputs.iter().map(|_| vec![Item::Blocked(None)]).collect();
                    Ok(Produced { slots, ..Produced::default() })
                }
            }
        };
        (0..self.count(columns)).map(call).collect()
    }

    fn once(
        &self,
        call: usize,
        args: &Args,
        memory: &mut Memory,
        tell: &mut dyn FnMut(Told),
    ) -> Result<Produced> {
        let mut run = Run {
            host: self.setting.host,
            stop: self.setting.stop,
            node: self.node,
            call,
            ids: 0,
            prompt: &self.setting.prompt,
            extra_pnginfo: self.setting.extra_pnginfo,
            previews: self.setting.previews,
            tell,
            memory,
        };
        guarded(|| self.class.node.run(args, &mut run)).map_err(NodeError::Panicked)?
    }

    /// One call per item of the longest list; a node without inputs is called once, and an empty list
    /// means that there is nothing to do.
    fn count(&self, columns: &Columns) -> usize {
        let lengths = || columns.iter().map(|(_, parts)| parts.len());
        match lengths().max() {
            _ if self.class.node.takes_lists() => 1,
            None => 1,
            Some(_) if lengths().any(|length| length == 0) => 0,
            Some(longest) => longest,
        }
    }

    /// The arguments of one call, shorter lists repeating their last item; or the message that blocks it.
    fn row(&self, columns: &Columns, index: usize) -> Result<Args, Option<String>> {
        let lists = self.class.node.takes_lists();
        let arg = |part: &Part| match part {
            Part::Arg(arg) => Ok(arg.clone()),
            Part::Blocked(message) => Err(message.clone()),
        };
        let mut args = Args::new();
        for (name, parts) in columns {
            let value = if lists {
                Arg::List(parts.iter().map(arg).collect::<Result<_, _>>()?)
            } else {
                let Some(part) = parts.get(index).or(parts.last()) else { continue };
                arg(part)?
            };
            args.insert(name.clone(), value);
        }
        Ok(args)
    }

    /// The arguments as an error shows them: per input a list, hidden inputs included.
    pub(super) fn describe(&self, columns: &Columns) -> Map<String, Json> {
        let given = columns.iter().map(|(name, parts)| (name.clone(), parts.iter().map(describe).collect()));
        let hidden = self.class.card.hidden.iter().filter_map(|(name, what)| {
            let value = match *what {
                "PROMPT" => python::text(&Json::Object(self.setting.prompt.clone())).into(),
                "EXTRA_PNGINFO" => plain(self.setting.extra_pnginfo.unwrap_or(&Json::Null)),
                "UNIQUE_ID" => self.node.into(),
                _ => return None,
            };
            Some(((*name).to_owned(), vec![value].into()))
        });
        given.chain(hidden).collect()
    }
}

fn describe(part: &Part) -> Json {
    match part {
        Part::Arg(Arg::Literal(value)) => plain(value),
        Part::Arg(Arg::Value(value)) => value.describe(),
        Part::Arg(Arg::List(items)) => format!("{} items", items.len()).into(),
        Part::Blocked(_) => "blocked".into(),
    }
}

/// Numbers, texts, flags and null as they are, anything else as text.
fn plain(value: &Json) -> Json {
    match value {
        Json::Array(_) | Json::Object(_) => python::text(value).into(),
        simple => simple.clone(),
    }
}

/// Joins what the calls of a node made: items per slot, and the user's lists per key.
pub(super) fn merge(calls: Vec<Produced>, slots: usize) -> Made {
    let mut made = Made { slots: vec![Vec::new(); slots], ui: None };
    for call in calls {
        for (slot, items) in made.slots.iter_mut().zip(call.slots) {
            slot.extend(items);
        }
        let Some(ui) = call.ui.filter(|ui| !ui.is_empty()) else { continue };
        let joined = made.ui.get_or_insert_with(Map::new);
        for (key, value) in ui {
            match (joined.entry(key).or_insert_with(|| Json::Array(Vec::new())), value) {
                (Json::Array(all), Json::Array(items)) => all.extend(items),
                (Json::Array(all), item) => all.push(item),
                _ => {}
            }
        }
    }
    made
}
