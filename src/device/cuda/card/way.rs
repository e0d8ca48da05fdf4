//! Copies to a card on a stream of their own, through memory that the card reads by itself.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaStream, PinnedHostSlice, result,
};

use super::{driver, event};
use crate::device::cuda::Result;
use crate::device::cuda::launch::Address;
use crate::device::cuda::machine::{Mark, Way};

/// Bytes of one slot, and how many there are: one is filled while others are read.
const SLOT: usize = 16 << 20;
const SLOTS: usize = 4;

/// What the copies are called where they fail.
const DOING: &str = "copying to the card";

pub struct PinnedWay {
    stream: Arc<CudaStream>,
    slots: Vec<Slot>,
    /// The one that is filled, how far, and where its bytes go.
    at: usize,
    filled: usize,
    to: u64,
}

/// Memory of the host that a copy is read from.
struct Slot {
    memory: Memory,
    /// When the card has read it.
    read: CudaEvent,
}

enum Memory {
    Pinned(PinnedHostSlice<u8>),
    /// Where the system lets nobody have such memory: slower, and the driver makes a copy of it first.
    Pageable(Vec<u8>),
}

impl Memory {
    fn new(context: &Arc<CudaContext>) -> Self {
        // SAFETY: bytes may hold anything; what is read has been written.
        match unsafe { context.alloc_pinned::<u8>(SLOT) } {
            Ok(pinned) => Self::Pinned(pinned),
            Err(error) => {
                tracing::warn!(
                    "weights go to the graphics card slower: there is no pinned memory ({:?})",
                    error.0
                );
                Self::Pageable(vec![0; SLOT])
            }
        }
    }

    fn bytes(&mut self) -> Result<&mut [u8]> {
        match self {
            Self::Pinned(pinned) => pinned.as_mut_slice().map_err(driver(DOING)),
            Self::Pageable(bytes) => Ok(bytes),
        }
    }
}

impl PinnedWay {
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let slot = |_| {
            let read =
                context.new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC)).map_err(driver(DOING))?;
            Ok(Slot { memory: Memory::new(context), read })
        };
        let slots = (0..SLOTS).map(slot).collect::<Result<_>>()?;
        let stream = context.new_stream().map_err(driver(DOING))?;
        Ok(Self { stream, slots, at: 0, filled: 0, to: 0 })
    }

    /// Sends what is in the slot that is filled, and goes on to the next one, which the card has read.
    fn send(&mut self) -> Result {
        if self.filled == 0 {
            return Ok(());
        }
        let Slot { memory, read } = &mut self.slots[self.at];
        let bytes = &memory.bytes()?[..self.filled];
        self.stream.context().bind_to_thread().map_err(driver(DOING))?;
        // SAFETY: the room at `to` is as large, by whoever asked for the copy, and nobody writes to the slot before the
        // event after the copy.
        unsafe { result::memcpy_htod_async(self.to, bytes, self.stream.cu_stream()) }
            .map_err(driver(DOING))?;
        read.record(&self.stream).map_err(driver(DOING))?;
        self.to += self.filled as u64;
        self.filled = 0;
        self.at = (self.at + 1) % SLOTS;
        self.slots[self.at].read.synchronize().map_err(driver(DOING))
    }
}

impl Way for PinnedWay {
    fn wait(&mut self, mark: &Mark) -> Result {
        self.send()?;
        self.stream.wait(event(mark)?).map_err(driver(DOING))
    }

    fn copy(&mut self, mut bytes: &[u8], to: Address) -> Result {
        if self.to + self.filled as u64 != to.0 {
            self.send()?;
            self.to = to.0;
        }
        while !bytes.is_empty() {
            let room = &mut self.slots[self.at].memory.bytes()?[self.filled..];
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == SLOT {
                self.send()?;
            }
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<Mark> {
        self.send()?;
        let event = self.stream.record_event(None).map_err(driver(DOING))?;
        Ok(Mark(Arc::new(event)))
    }
}

impl Drop for PinnedWay {
    fn drop(&mut self) {
        // Slots are read until then. If the card is gone, nothing is read.
        let _ = self.stream.synchronize();
    }
}
