//! Where tensors live and what the machine has: device choice and memory figures.
//!
//! Deliberately knows no files and no models.

mod choice;
pub mod cuda;
pub mod ops;
pub mod residency;
mod twister;

pub use choice::Choice;
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

/// The most this process may ever have: the memory of the machine, or of the container it is in.
pub fn limit() -> u64 {
    let only_memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(only_memory);
    let container = system.cgroup_limits().map(|limits| limits.total_memory).filter(|total| *total > 0);
    container.map_or(system.total_memory(), |container| container.min(system.total_memory()))
}

/// What this process takes of the main memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// All of it, pages of mapped files included.
    pub resident: u64,
    /// What it has written itself; pages of files are not of these.
    pub own: u64,
}

/// What this process takes now; cheap enough to ask before each block of a network.
pub fn usage() -> Usage {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        let resident = resident().unwrap_or_default();
        return Usage { resident, own: 0 };
    };
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let bytes = |name| kilobytes(name).unwrap_or_default() << 10;
    Usage { resident: bytes("VmRSS"), own: bytes("RssAnon") }
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
        assert!(limit() > 0 && limit() <= memory.total);
        let usage = usage();
        assert!(usage.own < usage.resident && usage.resident < memory.total, "{usage:?}");
    }
}
