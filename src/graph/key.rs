//! What a result depends on, as a digest: class, fingerprint, constants, and the keys and slots of what is
//! linked. The id of a node stays out of it, unless its class is distinct or it lives in a subgraph.

use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::dynamic::{DynamicPrompt, Given, Member, Place};
use super::inputs::Library;
use super::node::Fingerprint;

/// Two nodes with the same key have the same result.
pub(super) type Key = [u8; 32];

/// Gives every node of a prompt its key, each ancestor once.
pub(super) struct Keys {
    known: Vec<Option<Key>>,
    /// Distinguishes the keys that nothing may ever equal from those of other runs.
    run: u64,
    /// Whether no key may equal any other.
    unique: bool,
}

impl Keys {
    pub(super) fn new(run: u64, unique: bool) -> Self {
        Self { known: Vec::new(), run, unique }
    }

    pub(super) fn get(&self, place: Place) -> Key {
        self.known.get(place).copied().flatten().unwrap_or_else(|| self.only(place))
    }

    /// Computes the keys of all members that have none. `fingerprint` is asked once for each of them.
    pub(super) fn extend<H: Library>(
        &mut self,
        prompt: &DynamicPrompt<'_, H>,
        mut fingerprint: impl FnMut(Place) -> Fingerprint,
    ) {
        let from = self.known.len();
        self.known.resize(prompt.members.len(), None);
        let fingerprints: Vec<_> = (from..prompt.members.len()).map(&mut fingerprint).collect();
        if self.unique {
            return;
        }
        let mut entered = vec![false; prompt.members.len()];
        for start in from..prompt.members.len() {
            // What a node links to gets its key first. A node that is met again before it has one is part
            // of a circle: it keeps the key that equals no other.
            let mut path = vec![start];
            while let Some(&place) = path.last() {
                if self.known[place].is_some() {
                    path.pop();
                    continue;
                }
                let first = !std::mem::replace(&mut entered[place], true);
                let links = prompt.members[place].links().map(|(source, _)| source);
                let before = path.len();
                path.extend(
                    links.filter(|source| first && self.known[*source].is_none() && !entered[*source]),
                );
                if path.len() == before {
                    path.pop();
                    let key = self.digest(prompt, place, &fingerprints[place - from]);
                    self.known[place] = Some(key);
                }
            }
        }
    }

    fn digest<H>(&self, prompt: &DynamicPrompt<'_, H>, place: Place, fingerprint: &Fingerprint) -> Key {
        let member = &prompt.members[place];
        let mut hash = Hash(Sha256::new());
        hash.text(member.class.card.class);
        match fingerprint {
            Fingerprint::Constant => hash.tag(0),
            Fingerprint::Is(state) => hash.tag(1).text(state),
            Fingerprint::Always => return self.only(place),
        };
        if member.class.card.distinct || takes_id(member) {
            hash.tag(2).text(&member.id);
        }
        if let Some(parent) = member.parent {
            hash.tag(3).text(&prompt.members[parent].id);
        }
        let mut inputs: Vec<_> = member.inputs.iter().collect();
        inputs.sort_by(|one, other| one.name.cmp(&other.name));
        for input in inputs {
            hash.text(&input.name);
            match &input.given {
                Given::Constant(value) => hash.json(value),
                Given::Link { source: Some(source), slot } => {
                    hash.tag(4).0.update(self.get(*source));
                    hash.number(*slot);
                }
                Given::Link { source: None, .. } => return self.only(place),
            }
        }
        hash.0.finalize().into()
    }

    /// A key that no other node of any run has.
    fn only(&self, place: Place) -> Key {
        let mut hash = Hash(Sha256::new());
        hash.tag(5).0.update(self.run.to_le_bytes());
        hash.number(place);
        hash.0.finalize().into()
    }
}

fn takes_id<H>(member: &Member<'_, H>) -> bool {
    member.class.card.hidden.iter().any(|(_, what)| *what == "UNIQUE_ID")
}

/// Every part carries its kind or length, so that different parts never read the same.
struct Hash(Sha256);

impl Hash {
    fn tag(&mut self, tag: u8) -> &mut Self {
        self.0.update([tag]);
        self
    }

    fn number(&mut self, number: usize) -> &mut Self {
        self.0.update((number as u64).to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len()).0.update(text);
        self
    }

    /// Recurses no deeper than the JSON reader let the document be. The order of an object's keys does
    /// not count.
    fn json(&mut self, value: &Json) {
        match value {
            Json::Array(items) => {
                self.tag(6).number(items.len());
                for item in items {
                    self.json(item);
                }
            }
            Json::Object(entries) => {
                self.tag(7).number(entries.len());
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by_key(|(name, _)| *name);
                for (name, item) in entries {
                    self.text(name).json(item);
                }
            }
            Json::String(text) => {
                self.tag(8).text(text);
            }
            plain => {
                self.tag(9).text(&plain.to_string());
            }
        }
    }
}
