//! Weights on a card: room for the parts of networks, and the thread that brings them there beside the work.
//!
//! Two orders of events meet here, that of launches and that of copies, and each waits for the other where it has to: a
//! copy for the launches that used its room before, a launch for the copies of what it reads, and the return of memory
//! for both.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};

use super::launch::Address;
use super::machine::{Buffer, Machine, Mark, Way};
use super::{Fault, Result};
use crate::device::residency::{Full, Store};

/// A machine that launches and weights share.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Box<dyn Machine>>>);

impl Shared {
    pub fn new(machine: impl Machine + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(machine))))
    }

    pub fn lock(&self) -> MutexGuard<'_, Box<dyn Machine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a part is not there.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Full(#[from] Full),
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Whoever knows the bytes of a part.
pub trait Cargo: Send + Sync {
    /// Writes all of them, in order, on the thread that brings them.
    fn load(&self, write: &mut Write<'_>) -> Result;
}

/// Takes the next bytes of a part.
pub type Write<'a> = dyn FnMut(&[u8]) -> Result + 'a;

/// The bytes of a part as one after another is added: to learn how many there are, where they lie, or to write them.
pub struct Parcel<'a, 'b> {
    base: u64,
    bytes: u64,
    write: Option<&'a mut Write<'b>>,
}

impl Parcel<'_, '_> {
    /// What kernels and products want addresses to be multiples of.
    pub const ALIGNMENT: u64 = 256;

    /// The one that lies at an address, or will.
    pub fn at(base: Address) -> Self {
        Self { base: base.0, bytes: 0, write: None }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Leaves so many bytes as they are; gives where they lie.
    pub fn skip(&mut self, bytes: usize) -> Address {
        let first = self.bytes.next_multiple_of(Self::ALIGNMENT);
        self.bytes = first + bytes as u64;
        Address(self.base + first)
    }

    /// Adds so many bytes, which are made only where they are written; gives where they lie.
    pub fn add<'c>(&mut self, bytes: usize, make: impl FnOnce() -> Cow<'c, [u8]>) -> Result<Address> {
        const NOTHING: [u8; Parcel::ALIGNMENT as usize] = [0; Parcel::ALIGNMENT as usize];
        let before = self.bytes;
        let at = self.skip(bytes);
        if let Some(write) = &mut self.write {
            write(&NOTHING[..(at.0 - self.base - before) as usize])?;
            let made = make();
            if made.len() != bytes {
                let told = format!("{} bytes came instead of {bytes}", made.len());
                return Err(Fault::new("copying to the card", told));
            }
            write(&made)?;
        }
        Ok(at)
    }
}

impl<'a, 'b> Parcel<'a, 'b> {
    /// One that is written.
    pub fn written_by(write: &'a mut Write<'b>) -> Self {
        Self { base: 0, bytes: 0, write: Some(write) }
    }
}

/// Room for a part.
pub struct Place {
    buffer: Buffer,
    /// Nobody wants the part any more.
    ended: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    /// How much of what is done once with the part is done.
    settled: AtomicUsize,
}

/// How far the bytes of a part are.
enum State {
    /// None were sent for.
    Empty,
    /// Some are still to be copied.
    Coming,
    /// All copies are in their order, which comes to this mark; or some are, and this is why not all.
    Sent(Option<Mark>, Result),
    /// Launches wait for all copies.
    There,
}

impl Place {
    /// Where the part begins.
    pub fn at(&self) -> Address {
        self.buffer.at
    }

    /// Does what is to be done once with the part that came, before its first use: each step wholly or not at all. After
    /// a failure, those are left that were not done.
    pub fn once<S, E>(
        &self,
        steps: impl Iterator<Item = S>,
        mut work: impl FnMut(S) -> Result<(), E>,
    ) -> Result<(), E> {
        for step in steps.skip(self.settled.load(Ordering::Relaxed)) {
            work(step)?;
            self.settled.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The state once nothing is coming any more.
    fn settled(&self) -> MutexGuard<'_, State> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_coming = |state: &mut State| matches!(state, State::Coming);
        self.changed.wait_while(state, is_coming).unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_all();
    }
}

/// A part to bring.
struct Order {
    cargo: Arc<dyn Cargo>,
    place: Arc<Place>,
    /// Launches before this mark may still use the room.
    ready: Mark,
}

/// The memory of a card.
pub struct OnCard {
    machine: Shared,
    limits: Limits,
    /// To the thread that copies, once there was something to copy.
    porter: Option<mpsc::Sender<Order>>,
}

/// What may be taken of a card's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub budget: u64,
    /// What of it goes to neither weights nor their work: the driver's own, other programs.
    pub overhead: u64,
}

impl OnCard {
    pub fn new(machine: Shared, limits: Limits) -> Self {
        Self { machine, limits, porter: None }
    }

    fn porter(&mut self) -> Result<&mpsc::Sender<Order>> {
        if self.porter.is_none() {
            let mut way = self.machine.lock().way()?;
            let (sender, orders) = mpsc::channel();
            std::thread::spawn(move || {
                for order in orders {
                    carry(&mut *way, &order);
                }
            });
            self.porter = Some(sender);
        }
        self.porter.as_ref().ok_or_else(gone)
    }
}

fn gone() -> Fault {
    Fault::new("copying to the card", "the thread that copies has ended")
}

/// Brings one part.
fn carry(way: &mut dyn Way, order: &Order) {
    let sent = catch_unwind(AssertUnwindSafe(|| copy(way, order)))
        .unwrap_or_else(|_| Err(Fault::new("copying to the card", "the part cannot be read")));
    // Even of what failed half way some copies may be on their way.
    let (mark, sent) = match way.mark() {
        Ok(mark) => (Some(mark), sent),
        Err(fault) => (None, sent.and(Err(fault))),
    };
    order.place.set(State::Sent(mark, sent));
}

fn copy(way: &mut dyn Way, Order { cargo, place, ready }: &Order) -> Result {
    way.wait(ready)?;
    let mut at = place.buffer.at.0;
    let end = at + place.buffer.bytes as u64;
    cargo.load(&mut |bytes| {
        let next = at + bytes.len() as u64;
        if place.ended.load(Ordering::Relaxed) || next > end {
            return Err(Fault::new("copying to the card", "the part is not wanted, or larger than its room"));
        }
        way.copy(bytes, Address(at))?;
        at = next;
        Ok(())
    })
}

impl Store for OnCard {
    type Source = Arc<dyn Cargo>;
    type Room = Arc<Place>;
    type Error = Error;

    fn budget(&self) -> u64 {
        self.limits.budget
    }

    fn keeps_close(&self) -> bool {
        false
    }

    fn overhead(&self) -> u64 {
        self.limits.overhead
    }

    fn excess(&mut self, _held: u64) -> u64 {
        0
    }

    fn allocate(&mut self, bytes: u64) -> Result<Option<Arc<Place>>, Error> {
        let buffer = match self.machine.lock().blank(bytes as usize) {
            Ok(buffer) => buffer,
            Err(fault) if fault.refused.is_some() => return Ok(None),
            Err(fault) => return Err(fault.into()),
        };
        let state = Mutex::new(State::Empty);
        let (ended, changed, settled) = (AtomicBool::new(false), Condvar::new(), AtomicUsize::new(0));
        Ok(Some(Arc::new(Place { buffer, ended, state, changed, settled })))
    }

    fn bring(&mut self, cargo: &Arc<dyn Cargo>, place: &Arc<Place>) -> Result<(), Error> {
        let ready = self.machine.lock().mark()?;
        let porter = self.porter()?;
        place.set(State::Coming);
        let order = Order { cargo: cargo.clone(), place: place.clone(), ready };
        porter.send(order).map_err(|_| {
            place.set(State::Empty);
            gone()
        })?;
        Ok(())
    }

    fn wait(&mut self, place: &Arc<Place>) -> Result<(), Error> {
        let mut state = place.settled();
        if let State::Sent(mark, sent) = &*state {
            sent.clone()?;
            if let Some(mark) = mark {
                self.machine.lock().wait(mark)?;
            }
            *state = State::There;
        }
        Ok(())
    }

    fn free(&mut self, place: Arc<Place>) {
        place.ended.store(true, Ordering::Relaxed);
        let state = place.settled();
        let mut machine = self.machine.lock();
        if let State::Sent(Some(mark), _) = &*state
            && let Err(fault) = machine.wait(mark)
        {
            tracing::warn!("the graphics card failed at {fault}");
        }
        machine.release(place.buffer);
    }
}
