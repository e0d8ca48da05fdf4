//! How much memory may be used, shared by every subcommand that runs graphs.

use std::sync::Arc;

use crate::device;
use crate::weights::{Memory, Pages};

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Memory")]
pub struct MemoryArgs {
    /// The most memory to take, as in 12GB, 8GiB, 900M or 50% of the machine's: weights that do not fit come from the
    /// disk while those before them are at work [default: what the machine, or the container, has]
    #[arg(long, value_name = "SIZE", env = "COMFYD_MEMORY_BUDGET", value_parser = budget)]
    pub memory_budget: Option<u64>,
}

impl MemoryArgs {
    /// The owner of memory.
    pub(super) fn memory(&self) -> Arc<Memory> {
        let pages = self.memory_budget.map_or_else(Pages::of_the_machine, Pages::new);
        Arc::new(Memory::new(pages))
    }
}

/// Bytes of a share of the machine's memory, or of a size.
fn budget(text: &str) -> Result<u64, String> {
    let Some(percent) = text.trim().strip_suffix('%') else { return size(text) };
    match percent.trim().parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => {
            Ok((device::limit() as f64 * percent / 100.0) as u64)
        }
        _ => Err("expected a share of more than 0% and at most 100%".to_owned()),
    }
}

/// Bytes of a size in words: `8GiB` and `8G` are of 1024, as for containers, `8GB` is of 1000.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 14] = [
        ("", 1),
        ("b", 1),
        ("k", 1 << 10),
        ("kib", 1 << 10),
        ("kb", 1000),
        ("m", 1 << 20),
        ("mib", 1 << 20),
        ("mb", 1_000_000),
        ("g", 1 << 30),
        ("gib", 1 << 30),
        ("gb", 1_000_000_000),
        ("t", 1 << 40),
        ("tib", 1 << 40),
        ("tb", 1_000_000_000_000),
    ];
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = UNITS.iter().find(|(name, _)| *name == unit.trim());
    match (number.parse::<f64>(), unit) {
        (Ok(number), Some((_, bytes))) if number > 0.0 => Ok((number * *bytes as f64) as u64),
        _ => Err("expected a size such as 12GB, 8GiB or 900M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_the_units_people_write() {
        for (text, bytes) in [
            ("8GiB", 8 << 30),
            ("8g", 8 << 30),
            ("8 GB", 8_000_000_000),
            ("1.5M", 3 << 19),
            ("900MB", 900_000_000),
            ("12345", 12345),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(budget(text), Ok(bytes), "{text}");
        }
        assert_eq!(budget("50%"), Ok(device::limit() / 2));
        for text in ["", "GB", "8XB", "-1G", "0", "0%", "120%", "8GiBB"] {
            assert!(budget(text).is_err(), "{text}");
        }
    }
}
