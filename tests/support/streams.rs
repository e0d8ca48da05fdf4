//! The memory of a card, and the two orders of work on it, without the work: launches and copies beside them.
//!
//! A clock goes with each order, and each knows how far it has waited for the other. What a real card would do wrong
//! only now and then is noticed always: bytes that are read before their copy is known to be over, bytes that are copied
//! to where earlier launches may still read, memory that is returned while a copy may go on, and what is returned twice.
#![allow(clippy::unwrap_used, dead_code, reason = "test code; not every test binary uses all of it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use comfyd::device::cuda::launch::Address;
use comfyd::device::cuda::machine::{Mark, Way};
use comfyd::device::cuda::{Fault, Result};

/// Shared by a machine, its way, and whoever looks on.
#[derive(Clone)]
pub struct Streams(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// Bytes that are taken, and the most there were.
    pub held: u64,
    pub peak: u64,
    /// Pieces of memory that were asked for, of which so many were refused, and so many are still taken.
    pub asked: u64,
    pub refused: u64,
    pub rooms: usize,
    pub copied: u64,
    /// Kernels and products.
    pub launched: u64,
    /// Seconds since the beginning, and what of them launches only waited.
    pub seconds: f64,
    pub waited: f64,
}

struct State {
    memory: u64,
    bandwidth: f64,
    /// The piece of memory that is refused, counted from 0, although it would be there.
    failing: Option<u64>,
    /// The launch that fails, counted from 0.
    breaking: Option<u64>,
    count: Count,
    launches: Order,
    copies: Order,
    rooms: BTreeMap<u64, Room>,
    next: u64,
}

#[derive(Clone, Copy, Default)]
struct Order {
    /// What was done so far.
    done: u64,
    /// How much of the other order is known to be over.
    seen: u64,
    seconds: f64,
}

struct Room {
    bytes: u64,
    /// The launches that may have used it before.
    since: u64,
    /// The last copy into it.
    written: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Launches,
    Copies,
}

struct Point {
    side: Side,
    done: u64,
    seconds: f64,
}

fn wrong<T>(told: &str) -> Result<T> {
    Err(Fault::new("the order of work", told))
}

impl Streams {
    /// So many bytes of memory, so many bytes per second on the way there.
    pub fn new(memory: u64, bandwidth: f64) -> Self {
        Self(Arc::new(Mutex::new(State {
            memory,
            bandwidth,
            failing: None,
            breaking: None,
            count: Count::default(),
            launches: Order::default(),
            copies: Order::default(),
            rooms: BTreeMap::new(),
            next: 1 << 40,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Refuses a piece of memory, counted from the next one as 0.
    pub fn refuse(&self, number: u64) {
        let mut state = self.state();
        state.failing = Some(state.count.asked + number);
    }

    /// Lets a launch fail, counted from the next one as 0.
    pub fn break_launch(&self, number: u64) {
        let mut state = self.state();
        state.breaking = Some(state.count.launched + number);
    }

    /// A kernel or a product begins.
    pub fn launch(&self) -> Result {
        let mut state = self.state();
        let number = state.count.launched;
        state.count.launched += 1;
        if state.breaking == Some(number) { Err(Fault::new("a launch", "it was to fail")) } else { Ok(()) }
    }

    /// Somebody else takes so many bytes.
    pub fn shrink(&self, bytes: u64) {
        self.state().memory -= bytes;
    }

    pub fn count(&self) -> Count {
        let state = self.state();
        Count { rooms: state.rooms.len(), seconds: state.launches.seconds, ..state.count }
    }

    /// Launches work for so long.
    pub fn work(&self, seconds: f64) {
        self.state().launches.seconds += seconds;
    }

    /// Whether so much memory is there.
    pub fn ask(&self, bytes: usize) -> Result {
        let mut state = self.state();
        let number = state.count.asked;
        state.count.asked += 1;
        if state.failing == Some(number) || state.count.held + bytes as u64 > state.memory {
            state.count.refused += 1;
            return Err(Fault::refused(bytes));
        }
        Ok(())
    }

    /// Takes memory, at an address of its own or where a machine has it.
    pub fn take(&self, bytes: usize, at: Option<Address>) -> Address {
        let mut state = self.state();
        let bytes = bytes as u64;
        let at = at.map_or(state.next, |at| at.0);
        state.next = state.next.max(at + bytes).next_multiple_of(256);
        state.launches.done += 1;
        let since = state.launches.done;
        state.rooms.insert(at, Room { bytes, since, written: 0 });
        state.count.held += bytes;
        state.count.peak = state.count.peak.max(state.count.held);
        Address(at)
    }

    /// A launch uses an address.
    pub fn touch(&self, at: Address) -> Result {
        let mut state = self.state();
        state.launches.done += 1;
        let seen = state.launches.seen;
        match state.room(at.0) {
            Some(room) if room.written > seen => wrong("bytes are read that may not have arrived"),
            Some(_) => Ok(()),
            None => wrong("there is no memory at this address"),
        }
    }

    /// Whether there is memory at an address.
    pub fn knows(&self, at: Address) -> bool {
        self.state().room(at.0).is_some()
    }

    pub fn release(&self, at: Address) -> Result {
        let mut state = self.state();
        let seen = state.launches.seen;
        let Some(room) = state.rooms.remove(&at.0) else {
            return wrong("there is nothing to give back here");
        };
        state.count.held -= room.bytes;
        if room.written > seen { wrong("memory is given back while a copy may go on") } else { Ok(()) }
    }

    /// A mark after all launches.
    pub fn mark(&self) -> Mark {
        self.state().mark(Side::Launches)
    }

    /// Launches wait for a mark.
    pub fn wait(&self, mark: &Mark) -> Result {
        let before = self.count().seconds;
        self.state().wait(Side::Launches, mark)?;
        let mut state = self.state();
        state.count.waited += state.launches.seconds - before;
        Ok(())
    }

    /// The way there; `write` is told every copy.
    pub fn way(&self, write: impl FnMut(&[u8], Address) + Send + 'static) -> Box<dyn Way> {
        Box::new(Lane { streams: self.clone(), write: Box::new(write) })
    }
}

impl State {
    fn room(&mut self, at: u64) -> Option<&mut Room> {
        let (first, room) = self.rooms.range_mut(..=at).next_back()?;
        (at < first + room.bytes.max(1)).then_some(room)
    }

    fn order(&mut self, side: Side) -> &mut Order {
        match side {
            Side::Launches => &mut self.launches,
            Side::Copies => &mut self.copies,
        }
    }

    fn mark(&mut self, side: Side) -> Mark {
        let Order { done, seconds, .. } = *self.order(side);
        Mark(Arc::new(Point { side, done, seconds }))
    }

    fn wait(&mut self, side: Side, mark: &Mark) -> Result {
        let Some(point) = mark.0.downcast_ref::<Point>() else { return wrong("a mark of another machine") };
        let order = self.order(side);
        if point.side != side {
            order.seen = order.seen.max(point.done);
        }
        order.seconds = order.seconds.max(point.seconds);
        Ok(())
    }
}

/// Told every copy.
type Told = dyn FnMut(&[u8], Address) + Send;

struct Lane {
    streams: Streams,
    write: Box<Told>,
}

impl Way for Lane {
    fn wait(&mut self, mark: &Mark) -> Result {
        self.streams.state().wait(Side::Copies, mark)
    }

    fn copy(&mut self, bytes: &[u8], to: Address) -> Result {
        let mut state = self.streams.state();
        let length = bytes.len() as u64;
        state.copies.done += 1;
        let Order { done, seen, .. } = state.copies;
        let Some(room) = state.room(to.0) else { return wrong("there is no memory to copy to") };
        if room.since > seen {
            return wrong("bytes are copied to where launches may still read");
        }
        room.written = done;
        state.copies.seconds += length as f64 / state.bandwidth;
        state.count.copied += length;
        (self.write)(bytes, to);
        Ok(())
    }

    fn mark(&mut self) -> Result<Mark> {
        Ok(self.streams.state().mark(Side::Copies))
    }
}
