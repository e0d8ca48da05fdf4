//! Where tensors live and what the machine has: device choice and memory figures.
//!
//! Deliberately knows no files and no models.

pub mod ops;
mod twister;

pub use twister::MersenneTwister;

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

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
    }
}
