//! Networks on a graphics card: who is there, and what computes.
//!
//! One network is on the card at a time. It keeps what it has put there until another one sits down.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::cuda::machine::{Buffer, Machine};
use crate::device::cuda::{self, launch::Address};

/// The card, shared by the networks that compute on it.
#[derive(Clone)]
pub struct Card(Arc<Mutex<Seat>>);

struct Seat {
    machine: Box<dyn Machine>,
    taken_by: Option<Ticket>,
}

/// What a network shows to be known again.
#[derive(Clone, Default)]
pub struct Ticket(Arc<()>);

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Card")
    }
}

impl Card {
    pub fn new(machine: impl Machine + 'static) -> Self {
        Self(Arc::new(Mutex::new(Seat { machine: Box::new(machine), taken_by: None })))
    }

    /// Sits down to work; whoever else sat there has lost what it had on the card.
    pub fn sit(&self, ticket: &Ticket) -> cuda::Result<Sitting<'_>> {
        let mut seat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let anew = !seat.taken_by.as_ref().is_some_and(|other| Arc::ptr_eq(&other.0, &ticket.0));
        if anew {
            seat.taken_by = None;
            seat.machine.clear()?;
            seat.taken_by = Some(ticket.clone());
        }
        Ok(Sitting { seat, anew, passing: Vec::new() })
    }

    /// Takes everything of a network away that is not needed any more.
    pub fn leave(&self, ticket: &Ticket) {
        let mut seat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seat.taken_by.take_if(|other| Arc::ptr_eq(&other.0, &ticket.0)).is_some()
            && let Err(fault) = seat.machine.clear()
        {
            tracing::warn!("the graphics card failed at {fault}");
        }
    }
}

/// A network at work on the card.
pub struct Sitting<'a> {
    seat: MutexGuard<'a, Seat>,
    /// Whether nothing of the network is there yet.
    pub anew: bool,
    /// What goes when the work is done.
    passing: Vec<Buffer>,
}

impl Sitting<'_> {
    pub fn machine(&mut self) -> &mut dyn Machine {
        &mut *self.seat.machine
    }

    /// After a failure half way: whoever sits down next finds the card empty.
    pub fn give_up(&mut self) {
        self.seat.taken_by = None;
    }

    /// Memory until the work is done, with anything in it.
    pub fn room(&mut self, bytes: usize) -> cuda::Result<Address> {
        let buffer = self.machine().blank(bytes.max(1))?;
        self.passing.push(buffer);
        Ok(buffer.at)
    }

    /// Memory until the work is done, with these bytes.
    pub fn lay(&mut self, bytes: &[u8]) -> cuda::Result<Buffer> {
        let buffer = self.machine().upload(bytes)?;
        self.passing.push(buffer);
        Ok(buffer)
    }

    /// Gives such memory back before that.
    pub fn clear_away(&mut self, buffer: Buffer) {
        self.passing.retain(|kept| kept.at != buffer.at);
        self.machine().release(buffer);
    }
}

impl Drop for Sitting<'_> {
    fn drop(&mut self) {
        for buffer in std::mem::take(&mut self.passing) {
            self.seat.machine.release(buffer);
        }
    }
}
