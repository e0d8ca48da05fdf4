//! Weights in main memory: pages of mapped files, read ahead of their use and let go of after it.
//!
//! Nothing is copied: room for a part is the promise that its pages may be in memory, and sending it away is telling
//! the system that they need not be. What the system keeps of them in its cache, it gives to whoever asks.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};

use super::{File, Result, Weights};
use crate::device;
use crate::device::residency::{self, Full, Network, Part, Residency, Store, Use};

/// The owner of the memory that weights take.
pub type Memory = Residency<Pages>;

/// Main memory as a device: everything is there already, on the disk.
pub struct Pages {
    budget: u64,
    /// To the thread that reads ahead, once there was something to read.
    reader: Option<mpsc::Sender<Arc<Loan>>>,
}

/// Where the tensors of a part lie in their file.
pub struct Span {
    file: Arc<File>,
    places: Vec<Range<usize>>,
}

/// A part that may be in memory, until it ends.
#[derive(Default)]
pub struct Loan {
    span: OnceLock<Arc<Span>>,
    ended: AtomicBool,
}

impl Loan {
    fn let_go(&self) {
        let Some(span) = self.span.get() else { return };
        // Where the system's cache cannot hold the whole file, it would give up pages that stay for those that leave.
        let is_tight = device::memory().free < span.file.length();
        for place in &span.places {
            span.file.let_go(place);
            if is_tight {
                span.file.drop_from_cache(place);
            }
        }
    }
}

impl Pages {
    /// Memory of so many bytes for everything that this process does.
    pub fn new(budget: u64) -> Self {
        Self { budget, reader: None }
    }

    /// The memory of this machine, or of the container that this process is in.
    pub fn of_the_machine() -> Self {
        Self::new(device::limit())
    }
}

impl Store for Pages {
    type Source = Arc<Span>;
    type Room = Arc<Loan>;
    type Error = Full;

    fn budget(&self) -> u64 {
        self.budget
    }

    /// In the cache of the system.
    fn keeps_close(&self) -> bool {
        true
    }

    fn overhead(&self) -> u64 {
        // The program itself is a mapped file too.
        const PROGRAM: u64 = 64 << 20;
        device::usage().own + PROGRAM
    }

    fn excess(&mut self, held: u64) -> u64 {
        let usage = device::usage();
        // What is held may not be there yet, and what is there may be held by nobody: adapters, for one.
        usage.resident.max(usage.own + held).saturating_sub(self.budget)
    }

    fn allocate(&mut self, _bytes: u64) -> Result<Option<Arc<Loan>>, Full> {
        Ok(Some(Arc::default()))
    }

    fn bring(&mut self, source: &Arc<Span>, room: &Arc<Loan>) -> Result<(), Full> {
        // Nobody else has seen the room yet, so it is empty.
        let _ = room.span.set(source.clone());
        let reader = self.reader.get_or_insert_with(|| {
            let (sender, loans) = mpsc::channel();
            std::thread::spawn(move || read_ahead(&loans));
            sender
        });
        // Without a reader pages come when they are touched.
        let _ = reader.send(room.clone());
        Ok(())
    }

    /// Whoever touches a page that is not there waits by that.
    fn wait(&mut self, _room: &Arc<Loan>) -> Result<(), Full> {
        Ok(())
    }

    fn free(&mut self, room: Arc<Loan>) {
        room.ended.store(true, Ordering::Relaxed);
        room.let_go();
    }
}

/// Bytes that are read between two looks at whether they are still wanted.
const PIECE: usize = 4 << 20;

fn read_ahead(loans: &mpsc::Receiver<Arc<Loan>>) {
    for loan in loans {
        let Some(span) = loan.span.get() else { continue };
        let pieces = span
            .places
            .iter()
            .flat_map(|place| place.clone().step_by(PIECE).map(|first| first..place.end.min(first + PIECE)));
        for piece in pieces {
            if loan.ended.load(Ordering::Relaxed) {
                break;
            }
            span.file.read_ahead(&piece);
        }
        // It may have ended in between.
        if loan.ended.load(Ordering::Relaxed) {
            loan.let_go();
        }
    }
}

/// A network whose weights come and leave as its parts are used.
#[derive(Clone)]
pub struct Resident {
    memory: Option<Arc<Memory>>,
    network: Arc<Parts>,
}

/// A network as the owner of main memory knows it.
pub type Parts = Network<Arc<Span>>;

impl Weights {
    /// The network at this place, in parts: `part_of` tells the part of each tensor, if anybody manages it. The first
    /// `kept` parts are needed during all of its work. Made once for all networks over the same tensors.
    pub fn resident(
        &self,
        name: &str,
        parts: Vec<String>,
        kept: usize,
        used: Use,
        part_of: impl Fn(&str) -> Option<usize>,
    ) -> Resident {
        let make = || {
            let mut places = vec![Vec::new(); parts.len()];
            for (tensor, _) in self.tensors() {
                let entry = self.header().get(&self.full_name(&tensor));
                if let Some(entry) = entry
                    && let Some(part) = part_of(&tensor).and_then(|part| places.get_mut(part))
                {
                    part.push(entry.bytes.clone());
                }
            }
            let part = |(name, places): (String, Vec<Range<usize>>)| Part {
                name,
                bytes: places.iter().map(|place| place.len() as u64).sum(),
                source: Arc::new(Span { file: self.file().clone(), places: joined(places) }),
            };
            let parts = parts.into_iter().zip(places).map(part).collect();
            Arc::new(Network { name: name.to_owned(), parts, kept, used })
        };
        Resident { memory: self.file().memory().cloned(), network: self.network_or(make) }
    }
}

/// Places that follow each other as one.
fn joined(mut places: Vec<Range<usize>>) -> Vec<Range<usize>> {
    places.sort_by_key(|place| place.start);
    let mut joined: Vec<Range<usize>> = Vec::new();
    for place in places.into_iter().filter(|place| !place.is_empty()) {
        match joined.last_mut() {
            Some(last) if last.end == place.start => last.end = place.end,
            _ => joined.push(place),
        }
    }
    joined
}

impl Resident {
    /// What the owner of memory knows about it.
    pub fn network(&self) -> &Arc<Parts> {
        &self.network
    }

    /// Begins its use by work that takes so many bytes; what other networks hold leaves if it has to.
    pub fn visit(&self, work: u64) -> Result<Stay<'_>, Full> {
        let memory = self.memory.as_ref();
        Ok(Stay(memory.map(|memory| memory.visit(&self.network, work)).transpose()?))
    }
}

/// Some parts in a row of a network in use.
#[derive(Clone, Copy)]
pub struct Row<'s, 'a> {
    stay: &'s Stay<'a>,
    first: usize,
}

impl<'a> Row<'_, 'a> {
    /// [`Stay::part`], counted from the first of the row.
    pub fn part(self, index: usize) -> Result<Option<residency::Lease<'a, Pages>>, Full> {
        self.stay.part(self.first + index)
    }
}

/// A network in use.
pub struct Stay<'a>(Option<residency::Visit<'a, Pages>>);

impl<'a> Stay<'a> {
    /// The parts from `first` on.
    pub fn from(&self, first: usize) -> Row<'_, 'a> {
        Row { stay: self, first }
    }

    /// Has a part, and soon the ones after it, in memory until what is returned is dropped.
    pub fn part(&self, index: usize) -> Result<Option<residency::Lease<'a, Pages>>, Full> {
        self.0.as_ref().map(|visit| visit.part(index)).transpose()
    }
}
