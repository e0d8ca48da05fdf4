//! A device that does nothing but keep count: of bytes, and of the time that moving and working would take.

use super::{Full, Store};

/// A device of one memory, one way there, and one unit that works; way and unit are busy side by side.
#[derive(Debug)]
pub struct Simulated {
    budget: u64,
    overhead: u64,
    keeps_close: bool,
    /// Bytes per second on the way there.
    bandwidth: f64,
    /// The allocation that fails, counted from 0.
    failing: Option<u64>,
    count: Count,
    /// When the way is free again, in seconds.
    way: f64,
    /// When the part in each room is there.
    arrivals: Vec<f64>,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// Bytes taken by parts now, and the most there were.
    pub held: u64,
    pub peak: u64,
    pub allocations: u64,
    /// Parts that were brought, and their bytes.
    pub arrivals: u64,
    pub moved: u64,
    /// Seconds since the beginning, and what of them the unit only waited.
    pub seconds: f64,
    pub waited: f64,
}

/// Room on a [`Simulated`] device.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    bytes: u64,
    /// Where the device keeps when the part is there.
    number: usize,
}

impl Simulated {
    /// A device of so many bytes, `overhead` of which are never free.
    pub fn new(budget: u64, overhead: u64, bandwidth: f64) -> Self {
        Self {
            budget,
            overhead,
            keeps_close: false,
            bandwidth,
            failing: None,
            count: Count::default(),
            way: 0.0,
            arrivals: Vec::new(),
        }
    }

    /// Whether parts that leave come again at next to no cost; here they always take the time of the way.
    #[must_use]
    pub fn keeping_close(self, keeps_close: bool) -> Self {
        Self { keeps_close, ..self }
    }

    /// Lets one allocation fail, counted from 0, although there would be room.
    pub fn fail_allocation(&mut self, number: u64) {
        self.failing = Some(number);
    }

    pub fn count(&self) -> Count {
        self.count
    }

    /// Works for so long.
    pub fn work(&mut self, seconds: f64) {
        self.count.seconds += seconds;
    }
}

impl Store for Simulated {
    type Source = ();
    type Room = Room;
    type Error = Full;

    fn budget(&self) -> u64 {
        self.budget
    }

    fn keeps_close(&self) -> bool {
        self.keeps_close
    }

    fn overhead(&self) -> u64 {
        self.overhead
    }

    fn excess(&mut self, _held: u64) -> u64 {
        0
    }

    fn allocate(&mut self, bytes: u64) -> Result<Option<Room>, Full> {
        let number = self.count.allocations;
        self.count.allocations += 1;
        if self.failing == Some(number) || self.count.held + bytes + self.overhead > self.budget {
            return Ok(None);
        }
        self.count.held += bytes;
        self.count.peak = self.count.peak.max(self.count.held);
        self.arrivals.push(0.0);
        Ok(Some(Room { bytes, number: self.arrivals.len() - 1 }))
    }

    fn bring(&mut self, (): &(), room: &Room) -> Result<(), Full> {
        self.way = self.way.max(self.count.seconds) + room.bytes as f64 / self.bandwidth;
        self.arrivals[room.number] = self.way;
        self.count.arrivals += 1;
        self.count.moved += room.bytes;
        Ok(())
    }

    fn wait(&mut self, room: &Room) -> Result<(), Full> {
        let wait = (self.arrivals[room.number] - self.count.seconds).max(0.0);
        self.count.seconds += wait;
        self.count.waited += wait;
        Ok(())
    }

    fn free(&mut self, room: Room) {
        self.count.held -= room.bytes;
    }
}
