//! What of a download is there already, so that the next run asks for the rest only.
//!
//! A file is divided into segments. The journal is one line about the file, then for each segment the number of
//! its bytes that are there, eight bytes each, written in place after the bytes themselves. A process that is
//! killed loses what it had not written; when the machine itself went down, only segments that are complete
//! count, which were forced to disk before they were noted.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Error, Offer, Result};

/// Segments are at most this long: what is lost when the machine goes down, for each connection.
const LONGEST: u64 = 32 << 20;

/// And at least this long, or requests would cost more than bytes.
const SHORTEST: u64 = 1 << 20;

/// How many segments a small file is divided into.
const FEWEST: u64 = 16;

const SLOT: usize = size_of::<u64>();

/// The line about the file.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct About {
    size: u64,
    sha256: Option<String>,
    segment: u64,
    /// Which start of the machine the rest was written in.
    boot: String,
}

pub(super) struct Journal {
    path: PathBuf,
    size: u64,
    segment: u64,
    /// Where the slots begin.
    slots: u64,
    state: Mutex<State>,
}

struct State {
    file: File,
    done: Vec<u64>,
}

/// Where a download lies until it is complete.
pub(super) fn part_of(target: &Path) -> PathBuf {
    with_suffix(target, ".part")
}

fn journal_of(target: &Path) -> PathBuf {
    with_suffix(target, ".part.journal")
}

/// A journal that is being written.
fn fresh_of(target: &Path) -> PathBuf {
    with_suffix(target, ".part.journal.new")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Removes what a download left.
pub(super) fn forget(target: &Path) {
    for path in [fresh_of(target), journal_of(target), part_of(target)] {
        let _ = std::fs::remove_file(path);
    }
}

/// How many bytes of a file are there, without changing anything.
pub(super) fn there(target: &Path, offer: &Offer) -> u64 {
    read(target, offer).map_or(0, |(_, done)| done.iter().sum())
}

impl About {
    fn new(offer: &Offer) -> Self {
        let segment = offer.size.div_ceil(FEWEST).clamp(SHORTEST, LONGEST);
        Self { size: offer.size, sha256: offer.sha256.clone(), segment, boot: boot() }
    }

    fn lengths(&self) -> impl Iterator<Item = u64> {
        let (size, segment) = (self.size, self.segment);
        (0..size.div_ceil(segment)).map(move |number| segment.min(size - number * segment))
    }
}

/// Which start of the machine this is; empty where nobody knows.
fn boot() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// The journal of a target as the last run left it, if it is about the same file.
fn read(target: &Path, offer: &Offer) -> Option<(About, Vec<u64>)> {
    let bytes = std::fs::read(journal_of(target)).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let about: About = serde_json::from_slice(&bytes[..end]).ok()?;
    let today = About::new(offer);
    let same = About { boot: about.boot.clone(), ..About::new(offer) } == about;
    let (slots, rest) = bytes[end + 1..].as_chunks::<SLOT>();
    let part = part_of(target).metadata().ok()?;
    if !same || !rest.is_empty() || slots.len() != about.lengths().count() || part.len() != about.size {
        return None;
    }
    let is_same_start = !about.boot.is_empty() && about.boot == today.boot;
    let counts = |done: u64, length: u64| done == length || (is_same_start && done < length);
    let done = slots.iter().zip(about.lengths()).map(|(slot, length)| {
        let done = u64::from_le_bytes(*slot);
        if counts(done, length) { done } else { 0 }
    });
    Some((today, done.collect()))
}

/// Makes room for a download of which nothing is there.
fn begin(target: &Path, offer: &Offer) -> Result<(About, Vec<u64>)> {
    forget(target);
    let part = part_of(target);
    let file = File::create(&part).map_err(Error::disk(&part))?;
    file.set_len(offer.size).map_err(Error::disk(&part))?;
    let about = About::new(offer);
    let done = vec![0; about.lengths().count()];
    Ok((about, done))
}

impl Journal {
    /// Goes on with a download, or begins one: afterwards the part has its full length, with holes.
    pub(super) fn open(target: &Path, offer: &Offer) -> Result<Self> {
        let path = journal_of(target);
        let (about, done) = match read(target, offer) {
            Some(found) => found,
            None => begin(target, offer)?,
        };
        let disk = Error::disk(&path);
        let mut bytes = serde_json::to_vec(&about).map_err(|error| disk(error.into()))?;
        bytes.push(b'\n');
        let slots = bytes.len() as u64;
        bytes.extend(done.iter().flat_map(|done| done.to_le_bytes()));
        let fresh = fresh_of(target);
        std::fs::write(&fresh, bytes).and_then(|()| std::fs::rename(&fresh, &path)).map_err(&disk)?;
        let file = OpenOptions::new().write(true).open(&path).map_err(&disk)?;
        let state = Mutex::new(State { file, done });
        Ok(Self { path: path.clone(), size: about.size, segment: about.segment, slots, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A count is changed as a whole, so it is right even if its thread died.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many segments there are.
    pub(super) fn segments(&self) -> usize {
        self.state().done.len()
    }

    /// Where a segment lies in the file.
    pub(super) fn range(&self, number: usize) -> Range<u64> {
        let start = number as u64 * self.segment;
        start..self.size.min(start + self.segment)
    }

    /// What of a segment is missing.
    pub(super) fn missing(&self, number: usize) -> Range<u64> {
        let Range { start, end } = self.range(number);
        start + self.state().done[number]..end
    }

    /// The bytes that are there.
    pub(super) fn done(&self) -> u64 {
        self.state().done.iter().sum()
    }

    /// Notes that a segment is there up to a place, counted from the start of the file. More is never taken back.
    pub(super) fn note(&self, number: usize, until: u64) -> Result<()> {
        let done = until - self.range(number).start;
        let mut state = self.state();
        if done <= state.done[number] {
            return Ok(());
        }
        state.done[number] = done;
        let slot = SeekFrom::Start(self.slots + (number * SLOT) as u64);
        let write = |file: &mut File| {
            file.seek(slot)?;
            file.write_all(&done.to_le_bytes())
        };
        write(&mut state.file).map_err(Error::disk(&self.path))
    }
}

/// Gives a complete download its name, and forgets the journal.
pub(super) fn finish(target: &Path) -> Result<()> {
    let disk = Error::disk(target);
    let part = part_of(target);
    File::open(&part).and_then(|file| file.sync_all()).map_err(&disk)?;
    std::fs::rename(&part, target).map_err(&disk)?;
    // The name has to survive too before the journal goes. Folders cannot be forced to disk everywhere.
    if let Some(folder) = target.parent().and_then(|folder| File::open(folder).ok()) {
        let _ = folder.sync_all();
    }
    forget(target);
    Ok(())
}

/// Reads a whole file through a digest; `tell` hears how many bytes are behind.
pub(super) fn digest(path: &Path, tell: &dyn Fn(u64)) -> Result<String> {
    use sha2::{Digest as _, Sha256};
    let disk = Error::disk(path);
    let mut file = File::open(path).map_err(&disk)?;
    let mut chunk = vec![0; 1 << 20];
    let (mut digest, mut behind) = (Sha256::new(), 0);
    loop {
        let count = file.read(&mut chunk).map_err(&disk)?;
        if count == 0 {
            return Ok(format!("{:x}", digest.finalize()));
        }
        digest.update(&chunk[..count]);
        behind += count as u64;
        tell(behind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(size: u64) -> Offer {
        Offer { size, sha256: None, location: url::Url::parse("http://x").unwrap() }
    }

    #[test]
    fn what_was_noted_is_there_in_the_next_run() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.safetensors");
        let offer = offer(5 << 20);
        let journal = Journal::open(&target, &offer).unwrap();
        assert_eq!(journal.segments(), 5);
        journal.note(1, (1 << 20) + 77).unwrap();
        journal.note(1, (1 << 20) + 5).unwrap();
        journal.note(4, 5 << 20).unwrap();
        drop(journal);
        assert_eq!(there(&target, &offer), 77 + (1 << 20));
        let journal = Journal::open(&target, &offer).unwrap();
        assert_eq!(journal.missing(1), (1 << 20) + 77..2 << 20);
        assert!(journal.missing(4).is_empty());
        assert_eq!(there(&target, &tests::offer(6 << 20)), 0);
    }

    #[test]
    fn after_a_crash_of_the_machine_only_complete_segments_count() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.safetensors");
        let offer = offer(3 << 20);
        let journal = Journal::open(&target, &offer).unwrap();
        journal.note(0, 1 << 20).unwrap();
        journal.note(1, (1 << 20) + 9).unwrap();
        let bytes = std::fs::read(journal_of(&target)).unwrap();
        let line = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let other = br#"{"size":3145728,"sha256":null,"segment":1048576,"boot":"another"}"#;
        std::fs::write(journal_of(&target), [other, &bytes[line..]].concat()).unwrap();
        assert_eq!(there(&target, &offer), 1 << 20);
    }

    #[test]
    fn a_torn_journal_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.safetensors");
        let offer = offer(3 << 20);
        Journal::open(&target, &offer).unwrap().note(0, 1000).unwrap();
        let bytes = std::fs::read(journal_of(&target)).unwrap();
        for length in 0..bytes.len() {
            std::fs::write(journal_of(&target), &bytes[..length]).unwrap();
            assert_eq!(there(&target, &offer), 0);
        }
    }
}
