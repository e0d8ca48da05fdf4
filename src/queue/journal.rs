//! The file that the queue survives in: lines are appended, reach the disk in groups, and are written anew before
//! they grow too many.
//!
//! Knows lines and positions among them; what they say is `record.rs`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How sure a job is when its client is told that it waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It is on the disk: a power cut loses nothing.
    #[default]
    Synced,
    /// The operating system has it: a crash of the server loses nothing.
    Written,
}

/// How much a journal may grow beyond twice what has to be kept.
const SLACK: u64 = 16 << 20;

/// How long a disk that fails is left alone.
const RETRY: Duration = Duration::from_secs(10);

const FILE: &str = "queue.journal";

pub(super) struct Journal {
    path: PathBuf,
    durability: Durability,
    waiting: Mutex<Lines>,
    kept: Mutex<Kept>,
    synced: Mutex<Synced>,
    /// Somebody has synced.
    progress: Condvar,
    /// Held as long as this server lives.
    _folder: File,
}

/// Lines that are not in the file yet.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// How many bytes there have ever been: the position behind the last line.
    end: u64,
}

struct Kept {
    file: Arc<File>,
    length: u64,
    /// Its length when it was last written anew.
    least: u64,
    /// The position up to which lines are in the file.
    end: u64,
    /// Since when the disk fails. Lines wait meanwhile, and the file is written anew.
    failing: Option<Instant>,
}

#[derive(Default)]
struct Synced {
    end: u64,
    /// Somebody is at it.
    busy: bool,
}

/// A moment from which on lines belong to the next file.
pub(super) struct Mark(u64);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // Prompts are nobody else's business.
        options.mode(0o600);
    }
    options.read(true).append(true).open(path)
}

impl Journal {
    /// Opens the journal in a folder, making both if need be, and reads what is there.
    pub(super) fn open(folder: &Path, durability: Durability) -> io::Result<(Self, Vec<u8>)> {
        std::fs::create_dir_all(folder)?;
        let held = File::open(folder)?;
        if let Err(std::fs::TryLockError::WouldBlock) = held.try_lock() {
            return Err(io::Error::other("another server uses it"));
        }
        let path = folder.join(FILE);
        let mut file = open(&path, OpenOptions::new().create(true))?;
        let mut there = Vec::new();
        file.read_to_end(&mut there)?;
        let length = there.len() as u64;
        let kept = Kept { file: Arc::new(file), length, least: 0, end: 0, failing: None };
        let journal = Self {
            path,
            durability,
            waiting: Mutex::default(),
            kept: Mutex::new(kept),
            synced: Mutex::default(),
            progress: Condvar::new(),
            _folder: held,
        };
        Ok((journal, there))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line behind all others; the position behind it. Costs no more than a copy: it is written by
    /// [`Journal::write`].
    pub(super) fn append(&self, line: &[u8]) -> u64 {
        let mut waiting = lock(&self.waiting);
        waiting.bytes.extend_from_slice(line);
        waiting.end += line.len() as u64;
        waiting.end
    }

    /// Hands all lines to the operating system, where they survive a crash of this process.
    pub(super) fn write(&self) {
        self.write_to(&mut lock(&self.kept));
    }

    fn write_to(&self, kept: &mut Kept) {
        if kept.failing.is_some() {
            return;
        }
        let mut waiting = lock(&self.waiting);
        let (bytes, end) = (std::mem::take(&mut waiting.bytes), waiting.end);
        drop(waiting);
        match (&*kept.file).write_all(&bytes) {
            Ok(()) => {
                kept.length += bytes.len() as u64;
                kept.end = end;
            }
            Err(error) => {
                let later = std::mem::replace(&mut lock(&self.waiting).bytes, bytes);
                lock(&self.waiting).bytes.extend(later);
                self.fail(kept, &error);
            }
        }
    }

    fn fail(&self, kept: &mut Kept, error: &io::Error) {
        kept.failing = Some(Instant::now());
        tracing::error!("jobs may be lost if the server ends: cannot write {}: {error}", self.path.display());
    }

    /// Waits until the lines before a position are as sure as they have to be. Of those who wait, one works for
    /// all. While the disk fails, nobody waits.
    pub(super) fn commit(&self, position: u64) {
        match self.durability {
            Durability::Synced => self.sync(position),
            Durability::Written => self.write(),
        }
    }

    fn sync(&self, position: u64) {
        let mut synced = lock(&self.synced);
        while synced.end < position {
            if synced.busy {
                synced = self.progress.wait(synced).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            synced.busy = true;
            drop(synced);
            let end = self.sync_now();
            synced = lock(&self.synced);
            synced.busy = false;
            synced.end = synced.end.max(end.unwrap_or(0));
            self.progress.notify_all();
            if end.is_none() {
                return;
            }
        }
    }

    /// The position up to which all is on the disk now.
    fn sync_now(&self) -> Option<u64> {
        let mut kept = lock(&self.kept);
        self.write_to(&mut kept);
        let (file, end) = (kept.file.clone(), kept.end);
        if kept.failing.is_some() {
            return None;
        }
        drop(kept);
        let Err(error) = file.sync_data() else { return Some(end) };
        self.fail(&mut lock(&self.kept), &error);
        None
    }

    /// Puts everything on the disk.
    pub(super) fn sync_all(&self) {
        let end = lock(&self.waiting).end;
        self.sync(end);
    }

    /// Whether the file should be written anew: it has grown, or the disk failed and may work again.
    pub(super) fn is_due(&self) -> bool {
        let kept = lock(&self.kept);
        match kept.failing {
            Some(since) => since.elapsed() > RETRY,
            None => kept.length > 2 * kept.least + SLACK,
        }
    }

    /// Begins to write the file anew. Whoever calls this knows everything that was appended so far, and lets
    /// nobody append meanwhile.
    pub(super) fn mark(&self) -> Mark {
        let mut kept = lock(&self.kept);
        self.write_to(&mut kept);
        if kept.failing.is_some() {
            let mut waiting = lock(&self.waiting);
            waiting.bytes.clear();
            kept.end = waiting.end;
        }
        Mark(kept.length)
    }

    /// Replaces the file by these lines and what was appended since the mark. Until it is done, and if it fails, the
    /// former file goes on.
    pub(super) fn replace(&self, mark: &Mark, lines: impl Iterator<Item = Vec<u8>>) {
        let done = self.try_replace(mark, lines);
        if let Err(error) = done {
            self.fail(&mut lock(&self.kept), &error);
        }
    }

    fn try_replace(&self, mark: &Mark, mut lines: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut file = BufWriter::new(open(&new, OpenOptions::new().create_new(true))?);
        lines.try_for_each(|line| file.write_all(&line))?;
        let mut file = file.into_inner()?;
        file.sync_data()?;
        // Nobody writes from here on; what came meanwhile is little.
        let mut kept = lock(&self.kept);
        self.write_to(&mut kept);
        let mut former = &*kept.file;
        former.seek(SeekFrom::Start(mark.0))?;
        let since = kept.length.saturating_sub(mark.0);
        io::copy(&mut former.take(since), &mut file)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        kept.length = file.metadata()?.len();
        (kept.least, kept.file, kept.failing) = (kept.length, Arc::new(file), None);
        self.write_to(&mut kept);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(folder: &Path) -> (Journal, String) {
        let (journal, there) = Journal::open(folder, Durability::Synced).expect("a journal");
        (journal, String::from_utf8(there).expect("text"))
    }

    fn content(folder: &Path) -> String {
        std::fs::read_to_string(folder.join(FILE)).expect("a file")
    }

    #[test]
    fn lines_are_in_the_file_when_they_are_committed_whoever_does_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (journal, _) = journal(folder.path());
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (journal, folder) = (&journal, folder.path());
                scope.spawn(move || {
                    for number in 0..20 {
                        let line = format!("{thread} {number}\n");
                        journal.commit(journal.append(line.as_bytes()));
                        assert!(content(folder).contains(&line));
                    }
                });
            }
        });
        assert_eq!(content(folder.path()).lines().count(), 160);
    }

    #[test]
    fn what_comes_while_the_file_is_written_anew_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, _) = journal(folder.path());
        first.commit(first.append(b"old\n"));
        let mark = first.mark();
        first.commit(first.append(b"meanwhile\n"));
        first.append(b"waiting\n");
        first.replace(&mark, [b"new\n".to_vec()].into_iter());
        assert_eq!(content(folder.path()), "new\nmeanwhile\nwaiting\n");
        first.commit(first.append(b"later\n"));
        drop(first);
        assert_eq!(journal(folder.path()).1, "new\nmeanwhile\nwaiting\nlater\n");
    }

    #[test]
    fn a_disk_that_failed_gets_everything_once_it_works() {
        let folder = tempfile::tempdir().expect("a folder");
        let (journal, _) = journal(folder.path());
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
        lock(&journal.kept).file = Arc::new(full);
        journal.commit(journal.append(b"lost to the disk\n"));
        let mark = journal.mark();
        journal.commit(journal.append(b"meanwhile\n"));
        journal.replace(&mark, [b"all that was known\n".to_vec()].into_iter());
        journal.commit(journal.append(b"later\n"));
        assert_eq!(content(folder.path()), "all that was known\nmeanwhile\nlater\n");
    }

    #[test]
    fn two_servers_do_not_share_a_journal() {
        let folder = tempfile::tempdir().expect("a folder");
        let _first = journal(folder.path());
        let second = Journal::open(folder.path(), Durability::Synced);
        assert!(second.err().expect("refused").to_string().contains("another server"));
    }
}
