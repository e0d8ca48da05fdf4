//! The download itself: several connections, each at work on a segment of the file, until all are there.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use url::Url;

use super::hub::Answer;
use super::journal::{self, Journal};
use super::{Error, Hub, Item, Offer, Patience, Plan, Result, State};

/// Bytes read at a time: what a killed process loses at most, for each connection.
const CHUNK: usize = 64 << 10;

/// How to download.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// At once, for one file.
    pub connections: usize,
    pub patience: Patience,
    /// Whether files that are here already are read through to compare their digest.
    pub verify: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 4, patience: Patience::default(), verify: false }
    }
}

/// How it goes on, told from several threads. Files are named by their place in the plan.
#[derive(Clone, Debug)]
pub enum Step {
    /// Its download begins, or goes on.
    Started {
        item: usize,
        there: u64,
    },
    Received {
        item: usize,
        bytes: u64,
    },
    /// The server is not to be had for a moment.
    Waiting {
        item: usize,
        problem: String,
        pause: Duration,
    },
    /// So many bytes have been read to compare the digest.
    Checked {
        item: usize,
        bytes: u64,
    },
    /// It has its name.
    Finished {
        item: usize,
    },
}

/// Gets every missing file of a plan. Whatever happens, no file has its name before it is complete, and what has
/// arrived is not asked for again.
pub fn fetch(hub: &Hub, plan: &Plan, options: Options, tell: &(dyn Fn(Step) + Sync)) -> Result<()> {
    let _alone = plan.lock()?;
    plan.check_room()?;
    for (number, item) in plan.items.iter().enumerate() {
        match &item.state {
            State::Present(path) => {
                journal::forget(&item.target);
                if options.verify {
                    verify(item, path, &|bytes| tell(Step::Checked { item: number, bytes }))?;
                }
            }
            // Another run may have got it since the plan was made.
            State::Missing { .. } if item.target.is_file() => journal::forget(&item.target),
            State::Missing { offer, .. } => {
                let folder = item.target.parent().unwrap_or(Path::new("."));
                std::fs::create_dir_all(folder).map_err(Error::disk(folder))?;
                Download::open(hub, item, number, offer, options, tell)?.run()?;
            }
        }
        tell(Step::Finished { item: number });
    }
    Ok(())
}

fn verify(item: &Item, path: &Path, tell: &dyn Fn(u64)) -> Result<()> {
    let Some(expected) = item.sha256.clone() else { return Ok(()) };
    let found = journal::digest(path, tell)?;
    if found == expected { Ok(()) } else { Err(Error::Damaged { path: path.to_owned(), expected, found }) }
}

/// One file on its way.
struct Download<'a> {
    hub: &'a Hub,
    item: &'a Item,
    number: usize,
    options: Options,
    tell: &'a (dyn Fn(Step) + Sync),
    part: PathBuf,
    journal: Journal,
    location: Mutex<Url>,
    /// The next segment that nobody works on.
    next: AtomicUsize,
    /// Set when the others should end too.
    ends: AtomicBool,
}

impl<'a> Download<'a> {
    fn open(
        hub: &'a Hub,
        item: &'a Item,
        number: usize,
        offer: &Offer,
        options: Options,
        tell: &'a (dyn Fn(Step) + Sync),
    ) -> Result<Self> {
        Ok(Self {
            hub,
            item,
            number,
            options,
            tell,
            part: journal::part_of(&item.target),
            journal: Journal::open(&item.target, offer)?,
            location: Mutex::new(offer.location.clone()),
            next: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
        })
    }

    fn run(&self) -> Result<()> {
        (self.tell)(Step::Started { item: self.number, there: self.journal.done() });
        match self.all_segments() {
            Err(Error::NoRanges { .. }) => {
                self.ends.store(false, Ordering::Relaxed);
                self.patiently(|| self.whole())?;
            }
            other => other?,
        }
        if let Some(expected) = &self.item.sha256 {
            let told = |bytes| (self.tell)(Step::Checked { item: self.number, bytes });
            let found = journal::digest(&self.part, &told)?;
            if found != *expected {
                journal::forget(&self.item.target);
                let (name, expected) = (self.item.file.name().to_owned(), expected.clone());
                return Err(Error::Digest { name, expected, found });
            }
        }
        journal::finish(&self.item.target)
    }

    /// Works on segments with several connections; the first failure that stays ends all.
    fn all_segments(&self) -> Result<()> {
        let work = || {
            let end = self.some_segments();
            if end.is_err() {
                self.ends.store(true, Ordering::Relaxed);
            }
            end
        };
        let connections = self.options.connections.clamp(1, self.journal.segments().max(1));
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
            let ends = workers.into_iter().map(|worker| match worker.join() {
                Ok(end) => end,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            ends.fold(Ok(()), Result::and)
        })
    }

    fn some_segments(&self) -> Result<()> {
        let mut part = self.open_part()?;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.journal.segments() || self.ends.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.patiently(|| self.segment(number, &mut part))?;
        }
    }

    fn open_part(&self) -> Result<File> {
        OpenOptions::new().write(true).open(&self.part).map_err(Error::disk(&self.part))
    }

    /// Repeats something until it works; only failures in a row, without a byte received, count.
    fn patiently(&self, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
        let mut failures = 0;
        loop {
            let before = self.journal.done();
            let Err(error) = attempt() else { return Ok(()) };
            failures = if self.journal.done() > before { 1 } else { failures + 1 };
            if self.ends.load(Ordering::Relaxed) {
                return Ok(());
            }
            let Some(pause) = self.options.patience.pause(&error, failures) else { return Err(error) };
            let problem = error.to_string();
            (self.tell)(Step::Waiting { item: self.number, problem, pause });
            std::thread::sleep(pause);
            if matches!(error, Error::Expired { .. }) {
                self.renew()?;
            }
        }
    }

    /// Asks the hub again where the bytes are.
    fn renew(&self) -> Result<()> {
        let offer = self.hub.ask(&self.item.file, self.options.patience)?;
        if (offer.size, &offer.sha256) != (self.item.size, &self.item.sha256) {
            let bytes = |size: u64| format!("{size} bytes");
            return Err(Error::Changed {
                name: self.item.file.name().to_owned(),
                expected: bytes(self.item.size),
                found: bytes(offer.size),
            });
        }
        *self.location.lock().unwrap_or_else(PoisonError::into_inner) = offer.location;
        Ok(())
    }

    fn location(&self) -> Url {
        self.location.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gets what is missing of a segment.
    fn segment(&self, number: usize, part: &mut File) -> Result<()> {
        let missing = self.journal.missing(number);
        if missing.is_empty() {
            return Ok(());
        }
        match self.hub.read(self.item.file.name(), &self.location(), Some(&missing))? {
            Answer::Part(mut body) => {
                part.seek(SeekFrom::Start(missing.start)).map_err(Error::disk(&self.part))?;
                self.pour(number, missing.start, &mut body, part)
            }
            Answer::Whole(mut body) if self.journal.segments() == 1 && missing.start == 0 => {
                part.rewind().map_err(Error::disk(&self.part))?;
                self.pour(number, 0, &mut body, part)
            }
            Answer::Whole(_) => Err(Error::NoRanges { address: self.item.file.repository.clone() }),
        }
    }

    /// Gets the file in one piece from its start, from a server that knows no ranges.
    fn whole(&self) -> Result<()> {
        let (Answer::Whole(mut body) | Answer::Part(mut body)) =
            self.hub.read(self.item.file.name(), &self.location(), None)?;
        let mut part = self.open_part()?;
        (self.tell)(Step::Started { item: self.number, there: 0 });
        (0..self.journal.segments()).try_for_each(|number| {
            let start = self.journal.range(number).start;
            self.pour(number, start, &mut body, &mut part)
        })
    }

    /// Writes a body into the rest of a segment, from `place` on. The part must stand there already.
    fn pour(&self, number: usize, mut place: u64, body: &mut dyn Read, part: &mut File) -> Result<()> {
        let end = self.journal.range(number).end;
        let mut chunk = vec![0; CHUNK];
        while place < end {
            if self.ends.load(Ordering::Relaxed) {
                return Ok(());
            }
            let room = usize::try_from(end - place).map_or(CHUNK, |left| left.min(CHUNK));
            let count = body.read(&mut chunk[..room]).map_err(|error| self.cut(place, &error.to_string()))?;
            if count == 0 {
                return Err(self.cut(place, "the server ended early"));
            }
            part.write_all(&chunk[..count]).map_err(Error::disk(&self.part))?;
            place += count as u64;
            if place == end {
                part.sync_data().map_err(Error::disk(&self.part))?;
            }
            self.journal.note(number, place)?;
            (self.tell)(Step::Received { item: self.number, bytes: count as u64 });
        }
        Ok(())
    }

    fn cut(&self, received: u64, problem: &str) -> Error {
        Error::Cut {
            name: self.item.file.name().to_owned(),
            received,
            size: self.item.size,
            problem: problem.to_owned(),
        }
    }
}
