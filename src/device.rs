//! Where tensors live and what the machine has: device choice and memory figures.
//!
//! Deliberately knows no files and no models.

pub mod ops;
mod twister;

pub use twister::MersenneTwister;

use sysinfo::{MemoryRefreshKind, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

/// Bytes of one kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    /// What a new allocation could get.
    pub free: u64,
}

/// A place where tensors can be computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub name: String,
    /// torch's word for the kind: `cpu`, `cuda`.
    pub kind: &'static str,
    pub memory: Memory,
}

/// The main memory as it is now.
pub fn memory() -> Memory {
    let only_memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(only_memory);
    Memory { total: system.total_memory(), free: system.available_memory() }
}

/// What of it this process holds, pages of mapped files included.
pub fn resident() -> Option<u64> {
    let own = sysinfo::get_current_pid().ok()?;
    let mut system = System::new();
    let only_memory = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, only_memory);
    system.process(own).map(sysinfo::Process::memory)
}

/// Hands memory that was freed back to the system; the allocator would keep it for the next job.
#[cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "a call of the C library, which may come at any time")
)]
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it has no preconditions, and locks what it touches.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Every device, the one in use first. Never empty.
pub fn all() -> Vec<Device> {
    vec![Device { name: "cpu".to_owned(), kind: "cpu", memory: memory() }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory() {
        let memory = memory();
        assert!(memory.free > 0 && memory.free <= memory.total, "{memory:?}");
        assert_eq!(all()[0].memory.total, memory.total);
        assert!(resident().is_some_and(|bytes| bytes > 0 && bytes < memory.total));
    }
}
