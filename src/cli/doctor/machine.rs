//! The processor, the graphics card and its driver, the memory, and the clock.

use std::path::Path;
use std::time::{Duration, SystemTime};

use indicatif::DecimalBytes;

use crate::cli::report::Line;
use crate::device::{self, Memory};
use crate::paths::Folders;

/// Below `root`, which is `/` on a real machine, lies what the system tells of itself.
pub(super) fn lines(root: &Path, folders: &Folders) -> Vec<Line> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut lines = vec![processor(cores, &features()), card(root), memory(device::memory())];
    lines.extend(clock(SystemTime::now(), newest(folders)));
    lines
}

/// What the arithmetic would like the processor to have, and whether it has.
fn features() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    return vec![
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("f16c", std::is_x86_feature_detected!("f16c")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

fn processor(cores: usize, features: &[(&str, bool)]) -> Line {
    let place = "processor";
    let names = |wanted| {
        features
            .iter()
            .filter(|(_, there)| *there == wanted)
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let missing = names(false);
    if missing.is_empty() {
        return Line::ok(place, format!("{cores} cores, {}", names(true)));
    }
    let found = format!("{cores} cores, without {missing}: pictures take several times as long");
    Line::warn(
        place,
        found,
        "let the virtual machine pass on the features of the processor, or take another machine",
    )
}

/// Where the driver's library for programs lies.
const LIBRARIES: [&str; 7] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/lib/wsl/lib",
    "usr/local/nvidia/lib64",
    "usr/local/cuda/compat",
];

fn card(root: &Path) -> Line {
    let place = "graphics card";
    let under_wsl = root.join("dev/dxg").exists();
    let driver = std::fs::read_to_string(root.join("proc/driver/nvidia/version")).ok();
    let devices: Vec<_> =
        (0..16).map(|at| root.join(format!("dev/nvidia{at}"))).filter(|path| path.exists()).collect();
    let library = LIBRARIES.iter().any(|folder| root.join(folder).join("libcuda.so.1").exists());
    if driver.is_none() && devices.is_empty() && !(under_wsl && library) {
        if has_card(root) {
            let found = "an NVIDIA card is there, and no driver for it; everything runs on the processor";
            return Line::warn(place, found, "install NVIDIA's driver, and restart the machine");
        }
        return Line::ok(place, "no NVIDIA card; everything runs on the processor");
    }
    if devices.is_empty() && !under_wsl {
        let found = "NVIDIA's driver is loaded, and /dev has no nvidia0";
        return Line::warn(
            place,
            found,
            "in a container: start it with `--gpus all`; else run `nvidia-modprobe -u -c 0`",
        );
    }
    if let Some(closed) = devices.iter().find(|path| std::fs::File::open(path).is_err()) {
        let found = format!("no right to open {}", closed.display());
        return Line::warn(place, found, "add the server's user to the group that owns it");
    }
    if !library {
        let found = "NVIDIA's driver is loaded, and its library libcuda.so.1 is nowhere";
        let mend = "install the driver's libraries of the same version; in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility";
        return Line::warn(place, found, mend);
    }
    let version = driver.as_deref().and_then(version).unwrap_or("of Windows");
    Line::ok(place, format!("{} NVIDIA cards, driver {version}", devices.len().max(1)))
}

/// The number in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu ...`.
fn version(text: &str) -> Option<&str> {
    let is_version =
        |word: &&str| word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.split_whitespace().find(is_version)
}

/// Whether the bus has a display adapter of NVIDIA's.
fn has_card(root: &Path) -> bool {
    let devices = std::fs::read_dir(root.join("sys/bus/pci/devices")).into_iter().flatten().flatten();
    let word = |path: &Path, name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
    devices
        .map(|entry| entry.path())
        .any(|path| word(&path, "vendor").trim() == "0x10de" && word(&path, "class").starts_with("0x03"))
}

/// Less than this, and even small pictures do not fit.
const TIGHT: u64 = 2 << 30;

fn memory(Memory { total, free }: Memory) -> Line {
    let found = format!("{} of {} free", DecimalBytes(free), DecimalBytes(total));
    if free < TIGHT {
        return Line::warn("memory", found, "end other programs, or give the machine or container more");
    }
    Line::ok("memory", found)
}

/// How far a clock may be off.
const SLACK: Duration = Duration::from_secs(120);

/// No clock that goes right can show less: the end of 2024, in seconds since 1970.
const EARLIEST: u64 = 1_735_000_000;

/// The latest time at which something below the base folder was changed.
fn newest(folders: &Folders) -> Option<SystemTime> {
    let inside = [&folders.base, &folders.output, &folders.input, &folders.base.join("login")];
    let entries = inside.into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()?.modified().ok()).max()
}

/// Tokens end by the clock, and so do certificates.
fn clock(now: SystemTime, newest: Option<SystemTime>) -> Option<Line> {
    const MEND: &str = "set the clock: `timedatectl set-ntp true`, or on the host of the container";
    if now < SystemTime::UNIX_EPOCH + Duration::from_secs(EARLIEST) {
        return Some(Line::fail("clock", "it shows a day long past", MEND));
    }
    let ahead = newest?.duration_since(now).ok().filter(|ahead| *ahead > SLACK)?;
    let found =
        format!("files were changed {} s in the future: the clock is late, or was ahead", ahead.as_secs());
    Some(Line::warn("clock", found, MEND))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::Level;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("written");
        }
        root
    }

    #[test]
    fn a_card_needs_driver_device_and_library() {
        let driver =
            ("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu");
        let bus =
            [("sys/bus/pci/devices/0/vendor", "0x10de\n"), ("sys/bus/pci/devices/0/class", "0x030000\n")];
        let (device, library) = (("dev/nvidia0", ""), ("usr/lib64/libcuda.so.1", ""));
        let wsl = [("dev/dxg", ""), ("usr/lib/wsl/lib/libcuda.so.1", "")];
        for (files, level, words) in [
            (&[][..], Level::Ok, "no NVIDIA card"),
            (&bus[..], Level::Warn, "no driver"),
            (&[bus[0], bus[1], driver], Level::Warn, "nvidia0"),
            (&[driver, device], Level::Warn, "libcuda.so.1"),
            (&[driver, device, library], Level::Ok, "550.54.14"),
            (&wsl[..], Level::Ok, "driver of Windows"),
        ] {
            let line = card(machine(files).path());
            assert!(line.level == level && line.found.contains(words), "{line:?}");
            assert_eq!(line.mend.is_empty(), level == Level::Ok, "{line:?}");
        }
    }

    #[test]
    fn little_memory_and_an_old_processor_are_told() {
        assert_eq!(memory(Memory { total: 8 << 30, free: 1 << 30 }).level, Level::Warn);
        assert_eq!(memory(Memory { total: 8 << 30, free: 4 << 30 }).level, Level::Ok);
        let line = processor(2, &[("avx2", false), ("fma", true)]);
        assert!(line.level == Level::Warn && line.found.contains("without avx2"), "{line:?}");
    }

    #[test]
    fn a_clock_that_is_off_is_told() {
        let now = SystemTime::now();
        assert!(clock(now, Some(now)).is_none() && clock(now, None).is_none());
        assert!(clock(now, Some(now + SLACK * 2)).is_some_and(|line| line.level == Level::Warn));
        assert!(clock(SystemTime::UNIX_EPOCH, None).is_some_and(|line| line.level == Level::Fail));
    }
}
