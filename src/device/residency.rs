//! Which weights are on a device: the one owner of its memory.
//!
//! A network is a row of [`Part`]s that it uses in order, time and again. Whoever is about to use it pays a
//! [`Visit`] and takes a [`Lease`] on each part. What does not fit leaves: networks that are not in use first, then,
//! by a [`Plan`], parts of the network itself, which come back while the parts before them are at work. The owner
//! knows neither what a part is made of nor how it is moved; a [`Store`] does.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

mod books;
mod plan;
mod simulated;

use books::Books;
pub use plan::Plan;
pub use simulated::{Count, Simulated};

/// The memory of a device, and the way there.
pub trait Store {
    /// Where a part comes from.
    type Source;
    /// Where a part is put.
    type Room: Clone;
    /// What can go wrong.
    type Error: From<Full>;

    /// The bytes that everything on the device may take together.
    fn budget(&self) -> u64;

    /// Whether a part that was sent away comes again at next to no cost.
    fn keeps_close(&self) -> bool;

    /// What of them is taken by something else than parts, before the work of a visit begins.
    fn overhead(&self) -> u64;

    /// How many bytes more are taken than the budget allows, of which so many by parts. Devices that refuse what
    /// does not fit have none.
    fn excess(&mut self, held: u64) -> u64;

    /// Room for a part, unless there is none.
    fn allocate(&mut self, bytes: u64) -> Result<Option<Self::Room>, Self::Error>;

    /// Begins to bring a part into its room, beside the work that goes on.
    fn bring(&mut self, source: &Self::Source, room: &Self::Room) -> Result<(), Self::Error>;

    /// Makes the work that comes next wait until a part has arrived.
    fn wait(&mut self, room: &Self::Room) -> Result<(), Self::Error>;

    /// Gives room back, once the work that was begun before is done.
    fn free(&mut self, room: Self::Room);
}

/// What comes and leaves as a whole: a block, a layer.
#[derive(Debug)]
pub struct Part<P> {
    /// Of its network: `block 3`.
    pub name: String,
    pub bytes: u64,
    pub source: P,
}

/// How often a network is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// In every step of a job.
    Often,
    /// Once for a job, or for several. Where parts come again at next to no cost, each leaves after its use.
    Seldom,
}

/// The parts of a network in the order in which they are used.
#[derive(Debug)]
pub struct Network<P> {
    pub name: String,
    pub parts: Vec<Part<P>>,
    /// How many of the first parts are needed during all of its work.
    pub kept: usize,
    pub used: Use,
}

impl<P> Network<P> {
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The same parts, coming from nowhere.
    pub fn without_sources(&self) -> Network<()> {
        let part = |part: &Part<P>| Part { name: part.name.clone(), bytes: part.bytes, source: () };
        let parts = self.parts.iter().map(part).collect();
        Network { name: self.name.clone(), parts, kept: self.kept, used: self.used }
    }
}

/// Memory that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Full {
    /// What it was wanted for.
    pub what: String,
    pub bytes: u64,
    pub budget: u64,
    /// Taken by weights that are in use.
    pub weights: u64,
    /// Taken by, or kept for, the work itself and everything else.
    pub work: u64,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, bytes, budget, weights, work } = self;
        let [bytes, budget, weights, work] = [bytes, budget, weights, work].map(|bytes| megabytes(*bytes));
        write!(
            f,
            "out of memory: {what} needs {bytes}, but of the budget of {budget}, {weights} hold weights in use and \
             {work} are for the work itself, and nothing is left that could leave; make the picture or the number of \
             references smaller, or the memory budget larger"
        )
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// How much of a network is on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub network: String,
    /// In bytes, as the next.
    pub here: u64,
    pub whole: u64,
    /// Parts that stay once they are here, of all.
    pub staying: usize,
    pub parts: usize,
}

/// The owner. Everything about it may be asked from several threads.
pub struct Residency<S: Store>(Mutex<Books<S>>);

impl<S: Store> Residency<S> {
    pub fn new(store: S) -> Self {
        Self(Mutex::new(Books::new(store)))
    }

    fn books(&self) -> MutexGuard<'_, Books<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the use of a network by work that takes so many bytes itself.
    pub fn visit(&self, network: &Arc<Network<S::Source>>, work: u64) -> Result<Visit<'_, S>, Full> {
        self.books().visit(network, work)?;
        Ok(Visit { owner: self, network: network.clone() })
    }

    /// Runs a step that a device may refuse memory to, and runs it anew as long as weights can make room for it.
    /// `refused` tells how many bytes an error is about, if it is about memory.
    pub fn retry<T, E: From<Full>>(
        &self,
        refused: impl Fn(&E) -> Option<u64>,
        mut step: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        loop {
            let error = match step() {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let made = refused(&error).map(|bytes| (bytes, self.books().make_room_for_work(bytes)));
            match made {
                Some((bytes, Ok(()))) => {
                    tracing::warn!("weights made room for {} that the device refused", megabytes(bytes));
                }
                Some((_, Err(full))) => {
                    self.books().trust();
                    return Err(full.into());
                }
                None => {
                    self.books().trust();
                    return Err(error);
                }
            }
        }
    }

    /// Every network that is known, the one used last at the end.
    pub fn held(&self) -> Vec<Held> {
        self.books().held()
    }

    /// Lets go of a network that is not used any more.
    pub fn forget(&self, network: &Arc<Network<S::Source>>) {
        self.books().forget(network);
    }

    /// Lets go of everything that is not in use.
    pub fn clear(&self) {
        self.books().clear();
    }

    /// Looks at the store, or tells it something.
    pub fn with_store<T>(&self, look: impl FnOnce(&mut S) -> T) -> T {
        look(&mut self.books().store)
    }
}

/// A network in use. Several may be, one inside the work of another.
pub struct Visit<'a, S: Store> {
    owner: &'a Residency<S>,
    network: Arc<Network<S::Source>>,
}

impl<'a, S: Store> Visit<'a, S> {
    /// Waits for a part, and lets the next ones come. It stays until the lease is dropped.
    pub fn part(&self, index: usize) -> Result<Lease<'a, S>, S::Error> {
        let room = self.owner.books().lease(&self.network, index)?;
        Ok(Lease { owner: self.owner, network: Arc::downgrade(&self.network), index, room })
    }
}

impl<S: Store> Drop for Visit<'_, S> {
    fn drop(&mut self) {
        self.owner.books().leave(&self.network);
    }
}

/// A part in use.
pub struct Lease<'a, S: Store> {
    owner: &'a Residency<S>,
    network: Weak<Network<S::Source>>,
    index: usize,
    room: S::Room,
}

impl<S: Store> Lease<'_, S> {
    /// Where the part is.
    pub fn room(&self) -> &S::Room {
        &self.room
    }
}

impl<S: Store> Drop for Lease<'_, S> {
    fn drop(&mut self) {
        self.owner.books().end_lease(&self.network, self.index);
    }
}
