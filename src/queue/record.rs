//! What the journal says: one record for each change of the queue and its history, and what they add up to.
//!
//! A record is a line: a checksum, a space, JSON. So a line that was cut or spoilt is seen, and those around it are
//! still good.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Job;
use super::history::{Entry, History, Message};
use crate::graph::Outcome;
use crate::python_json;

/// A change that has to be known after a restart.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record<'a> {
    /// A job waits. `next` is the number of the next one.
    Queued {
        next: u64,
        job: Cow<'a, Job>,
    },
    Started {
        id: Cow<'a, str>,
    },
    /// A running job has to wait for the next start of the server, through no fault of its own.
    Parked {
        id: Cow<'a, str>,
    },
    Ended {
        id: Cow<'a, str>,
        outcome: Cow<'a, Outcome>,
        messages: Cow<'a, [Message]>,
    },
    /// A waiting job will not run.
    Dropped {
        id: Cow<'a, str>,
    },
    /// History forgets a job.
    Forgotten {
        id: Cow<'a, str>,
    },
    AllForgotten,
}

impl Record<'_> {
    pub(super) fn line(&self) -> Vec<u8> {
        // Room for the checksum, which is known last.
        let mut line = b"00000000 ".to_vec();
        // Maps with text keys and numbers that came from JSON can be written.
        if let Err(error) = serde_json::to_writer(&mut line, self) {
            tracing::error!("cannot write down a change of the queue: {error}");
            return Vec::new();
        }
        let sum = format!("{:08x}", crc32fast::hash(&line[9..]));
        line[..8].copy_from_slice(sum.as_bytes());
        line.push(b'\n');
        line
    }

    fn read(line: &[u8]) -> Option<Record<'static>> {
        let (sum, json) = (line.get(..8)?, line.get(8..)?.strip_prefix(b" ")?);
        let sum = u32::from_str_radix(str::from_utf8(sum).ok()?, 16).ok()?;
        (sum == crc32fast::hash(json)).then_some(())?;
        serde_json::from_value(python_json::read(json).ok()?).ok()
    }
}

/// The lines of an entry of history, as they were when it happened.
pub(super) fn entry_lines(entry: &Entry, next: u64) -> Vec<u8> {
    let Entry { job, outcome, messages } = entry;
    let id = Cow::from(&job.id);
    let mut lines = Record::Queued { next, job: Cow::Borrowed(job) }.line();
    lines.extend(
        Record::Ended { id, outcome: Cow::Borrowed(outcome), messages: Cow::Borrowed(messages) }.line(),
    );
    lines
}

/// What all records of a journal add up to.
#[derive(Default)]
pub(super) struct Replay {
    /// The jobs that did not end, in the order they came.
    pub open: VecDeque<Job>,
    pub history: History,
    /// The number of the next job.
    pub next: u64,
    /// Lines that cannot be read.
    pub damaged: usize,
}

impl Replay {
    pub(super) fn of(journal: &[u8]) -> Self {
        let mut replay = Self::default();
        for line in journal.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\n").and_then(Record::read) {
                Some(record) => replay.apply(record),
                None => replay.damaged += 1,
            }
        }
        replay
    }

    fn apply(&mut self, record: Record<'static>) {
        match record {
            Record::Queued { next, job } => {
                self.next = self.next.max(next);
                self.open.push_back(job.into_owned());
            }
            Record::Started { id } => self.job(&id, |job| job.crashes += 1),
            Record::Parked { id } => self.job(&id, |job| job.crashes = job.crashes.saturating_sub(1)),
            Record::Ended { id, outcome, messages } => {
                if let Some(job) = self.take(&id) {
                    let (outcome, messages) = (outcome.into_owned(), messages.into_owned());
                    self.history.insert(Entry { job: Arc::new(job), outcome, messages });
                }
            }
            Record::Dropped { id } => drop(self.take(&id)),
            Record::Forgotten { id } => self.history.remove(&id),
            Record::AllForgotten => self.history.clear(),
        }
    }

    fn place(&self, id: &str) -> Option<usize> {
        self.open.iter().position(|job| job.id == id)
    }

    fn job(&mut self, id: &str, change: impl FnOnce(&mut Job)) {
        let place = self.place(id);
        place.and_then(|place| self.open.get_mut(place)).map(change);
    }

    fn take(&mut self, id: &str) -> Option<Job> {
        self.place(id).and_then(|place| self.open.remove(place))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Number, json};

    use super::*;
    use crate::graph::{End, Event, Plan};

    fn job(id: &str, number: i64) -> Job {
        let prompt = json!({"1": {"inputs": {"seed": u64::MAX, "cfg": 7.3, "text": "é\n\""}}});
        let prompt = prompt.as_object().expect("an object").clone();
        let extra = json!({"client_id": id, "extra_pnginfo": {"workflow": {}}});
        Job {
            number: Number::from(number),
            plan: Plan { prompt, outputs: vec!["1".to_owned()] },
            client: Some(id.to_owned()),
            extra: extra.as_object().expect("an object").clone(),
            created_ms: 5,
            ..Job::empty(id)
        }
    }

    fn queued(id: &str, number: i64) -> Vec<u8> {
        let next = number.cast_unsigned() + 1;
        Record::Queued { next, job: Cow::Owned(job(id, number)) }.line()
    }

    fn ended(id: &'static str) -> Vec<u8> {
        let outputs = json!({"1": {"images": [{"filename": "a.png"}]}});
        let outputs = outputs.as_object().expect("an object").clone();
        let outcome = Cow::Owned(Outcome { end: End::Succeeded, outputs, meta: Vec::new() });
        let messages =
            vec![Message { at_ms: 7, event: Event::Cached { nodes: vec!["1".to_owned()] } }].into();
        Record::Ended { id: id.into(), outcome, messages }.line()
    }

    fn started(id: &'static str) -> Vec<u8> {
        Record::Started { id: id.into() }.line()
    }

    fn open(replay: &Replay) -> Vec<(&str, u32)> {
        replay.open.iter().map(|job| (job.id.as_str(), job.crashes)).collect()
    }

    #[test]
    fn what_was_written_is_read_again() {
        let lines = [queued("a", 0), queued("b", 1), started("a"), ended("a"), queued("c", 2), started("b")];
        let replay = Replay::of(&lines.concat());
        assert_eq!((open(&replay), replay.next, replay.damaged), (vec![("b", 1), ("c", 0)], 3, 0));
        let (read, written) = (&replay.open[0], job("b", 1));
        assert_eq!((&read.plan.prompt, &read.extra), (&written.plan.prompt, &written.extra));
        assert_eq!((&read.number, &read.client, read.created_ms), (&written.number, &written.client, 5));
        let entry = replay.history.get("a").expect("an entry");
        assert_eq!(entry.outcome.outputs["1"]["images"][0]["filename"], "a.png");
        assert!(
            matches!(&entry.messages[0], Message { at_ms: 7, event: Event::Cached { nodes } } if nodes == &["1"])
        );
        assert_eq!(open(&Replay::of(&entry_lines(&entry, 9))), []);
    }

    #[test]
    fn parking_forgives_a_start_and_what_is_dropped_or_forgotten_is_gone() {
        let dropped = Record::Dropped { id: "b".into() }.line();
        let forgotten = Record::Forgotten { id: "c".into() }.line();
        let parked = Record::Parked { id: "a".into() }.line();
        let lines =
            [queued("a", 0), queued("b", 1), queued("c", 2), ended("c"), dropped, forgotten, started("a")];
        assert_eq!(open(&Replay::of(&[lines.concat(), parked].concat())), [("a", 0)]);
        let replay = Replay::of(&[lines.concat(), started("a")].concat());
        assert_eq!(open(&replay), [("a", 2)]);
        assert!(replay.history.get("c").is_none());
        let cleared = Replay::of(&[queued("a", 0), ended("a"), Record::AllForgotten.line()].concat());
        assert!(cleared.history.get("a").is_none());
    }

    #[test]
    fn spoilt_lines_are_counted_and_the_others_count() {
        let (first, second) = (queued("a", 0), queued("b", 1));
        for cut in 1..second.len() {
            let replay = Replay::of(&[first.as_slice(), &second[..cut]].concat());
            assert_eq!((open(&replay), replay.damaged), (vec![("a", 0)], 1), "cut at {cut}");
        }
        for (place, _) in first.iter().enumerate() {
            let mut spoilt = first.clone();
            spoilt[place] ^= 1;
            let replay = Replay::of(&[spoilt, second.clone()].concat());
            assert!(replay.damaged > 0 && replay.open.back().is_none_or(|job| job.id == "b"), "at {place}");
        }
        let zeros = vec![0; 5000];
        assert_eq!(open(&Replay::of(&[first, zeros].concat())), [("a", 0)]);
    }
}
