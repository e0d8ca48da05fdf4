//! Networks on a graphics card: who works there, and in what memory.
//!
//! One network works at a time. Its weights are where the owner of the card's memory has them; what it works in is taken
//! for one attempt at a step and given back.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Error, Result};
use crate::device::cuda::machine::{Buffer, Machine};
use crate::device::cuda::store::{Cargo, Limits, OnCard, Parcel, Shared, Write};
use crate::device::cuda::{self, launch::Address};
use crate::device::residency::{self, Network, Part, Residency};
use crate::weights::Resident;

/// The card, shared by the networks that compute on it.
#[derive(Clone)]
pub struct Card(Arc<Inner>);

struct Inner {
    machine: Shared,
    owner: Residency<OnCard>,
    turn: Mutex<()>,
}

/// A network as the owner of the card's memory knows it.
pub type Parts = Network<Arc<dyn Cargo>>;

/// Lays a part out; what it does has to be the same each time.
pub type Pack = Box<dyn Fn(&mut Parcel<'_, '_>) -> cuda::Result + Send + Sync>;

/// A network of parts that are laid out so. Each has the number of the part in main memory that it is made of.
pub fn parts(resident: &Resident, rows: impl IntoIterator<Item = (usize, Pack)>) -> cuda::Result<Arc<Parts>> {
    let known = resident.network();
    let part = |(part, pack): (usize, Pack)| {
        let mut parcel = Parcel::at(Address(0));
        pack(&mut parcel)?;
        let source: Arc<dyn Cargo> = Arc::new(Load { pack, resident: resident.clone(), part });
        Ok(Part { name: known.parts[part].name.clone(), bytes: parcel.bytes(), source })
    };
    let parts = rows.into_iter().map(part).collect::<cuda::Result<_>>()?;
    let name = format!("{} on the graphics card", known.name);
    Ok(Arc::new(Network { name, parts, kept: 0, used: known.used }))
}

/// A part on its way from the file to a card.
struct Load {
    pack: Pack,
    resident: Resident,
    part: usize,
}

impl Cargo for Load {
    fn load(&self, write: &mut Write<'_>) -> cuda::Result {
        let failed = |full| cuda::Fault::new("reading weights", full);
        let stay = self.resident.visit(0).map_err(failed)?;
        let _lease = stay.part(self.part).map_err(failed)?;
        (self.pack)(&mut Parcel::written_by(write))
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Card")
    }
}

impl Card {
    /// A card of which so much may be taken.
    pub fn new(machine: impl Machine + 'static, limits: Limits) -> Self {
        let machine = Shared::new(machine);
        let owner = Residency::new(OnCard::new(machine.clone(), limits));
        Self(Arc::new(Inner { machine, owner, turn: Mutex::default() }))
    }

    /// Begins a step of a network that works in so many bytes.
    pub fn sit<'a>(&'a self, network: &'a Arc<Parts>, work: u64) -> Result<Sitting<'a>> {
        let turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Sitting { card: self, visit: self.0.owner.visit(network, work)?, _turn: turn })
    }

    /// Takes everything of a network away that is not needed any more.
    pub fn forget(&self, network: &Arc<Parts>) {
        self.0.owner.forget(network);
    }
}

/// A network at a step.
pub struct Sitting<'a> {
    card: &'a Card,
    visit: residency::Visit<'a, OnCard>,
    _turn: MutexGuard<'a, ()>,
}

/// A part of the network while it is used.
pub type Lease<'a> = residency::Lease<'a, OnCard>;

impl<'a> Sitting<'a> {
    /// Does the step, again and again with fewer weights there, as long as the card refuses memory for it.
    pub fn retry<T>(&self, step: impl FnMut() -> Result<T>) -> Result<T> {
        let refused = |error: &Error| match error {
            Error::Card(fault) => fault.refused,
            _ => None,
        };
        self.card.0.owner.retry(refused, step)
    }

    /// Has a part there until what is returned is dropped.
    pub fn part(&self, index: usize) -> Result<Lease<'a>> {
        Ok(self.visit.part(index)?)
    }

    /// A desk with nothing on it.
    pub fn desk(&self) -> Desk<'a> {
        Desk { machine: &self.card.0.machine, passing: Vec::new() }
    }
}

/// Memory to work in.
pub struct Desk<'a> {
    machine: &'a Shared,
    passing: Vec<Buffer>,
}

impl Desk<'_> {
    /// The card itself, for a few launches.
    pub fn machine(&self) -> MutexGuard<'_, Box<dyn Machine>> {
        self.machine.lock()
    }

    /// Memory with anything in it.
    pub fn room(&mut self, bytes: usize) -> cuda::Result<Buffer> {
        let buffer = self.machine.lock().blank(bytes.max(1))?;
        self.passing.push(buffer);
        Ok(buffer)
    }

    /// Memory with these bytes.
    pub fn lay(&mut self, bytes: &[u8]) -> cuda::Result<Buffer> {
        let buffer = self.machine.lock().upload(bytes)?;
        self.passing.push(buffer);
        Ok(buffer)
    }

    /// Gives some of it back before all else.
    pub fn clear_away(&mut self, buffer: Buffer) {
        self.passing.retain(|kept| kept.at != buffer.at);
        self.machine.lock().release(buffer);
    }
}

impl Drop for Desk<'_> {
    fn drop(&mut self) {
        let mut machine = self.machine.lock();
        for buffer in std::mem::take(&mut self.passing) {
            machine.release(buffer);
        }
    }
}
