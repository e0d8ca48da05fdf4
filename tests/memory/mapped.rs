//! Weights in mapped files: which of their pages are in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comfyd::device;
use comfyd::device::residency::Use;
use comfyd::weights::{File, Layout, Memory, Pages, Resident, Weights};

const PARTS: usize = 24;
/// Bytes of a part.
const PART: u64 = 16 << 20;

/// A file of some blocks, and the network that it is.
fn network(path: &Path, memory: &Arc<Memory>, used: Use) -> (Weights, Resident) {
    let list = format!("F8_E4M3 4096x4096 block.{{0..{}}}.weight", PARTS - 1);
    Layout::parse(&list).unwrap().write_empty(path).unwrap();
    let weights = Weights::new(File::open_in(memory, path).unwrap(), "");
    let names = (0..PARTS).map(|index| format!("block {index}")).collect();
    let resident =
        weights.resident("the blocks", names, 0, used, |name| name.split('.').nth(1)?.parse().ok());
    (weights, resident)
}

/// Bytes of a file's pages that are in this process's memory.
fn in_memory(file: &str) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let rest = maps.lines().skip_while(|line| !line.ends_with(file));
    let line = rest.skip(1).find(|line| line.starts_with("Rss:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what} never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What is counted for the program itself.
const PROGRAM: u64 = 64 << 20;

#[test]
fn parts_are_read_ahead_and_leave_when_others_need_the_room() {
    const FILE: &str = "blocks.safetensors";
    let folder = tempfile::tempdir().unwrap();
    // Room for six of 24 parts. Other tests take memory meanwhile, so the rest has much of it.
    let rest = device::usage().own + PROGRAM + (512 << 20);
    let memory = Arc::new(Memory::new(Pages::new(rest + 6 * PART)));
    let (weights, resident) = network(&folder.path().join(FILE), &memory, Use::Often);
    assert_eq!(in_memory(FILE) / PART, 0);
    for round in 0..2 {
        let stay = resident.visit(512 << 20).unwrap();
        for part in 0..PARTS {
            let _lease = stay.part(part).unwrap();
            weights.stored(&format!("block.{part}.weight"), &[4096, 4096]).unwrap().to_vec();
            if part == 0 && round == 0 {
                wait_until("reading ahead", || in_memory(FILE) >= 2 * PART);
            }
            // What is being read may have been let go of a moment ago.
            wait_until("letting go", || in_memory(FILE) <= 7 * PART);
        }
    }
    let held = &memory.held()[0];
    assert!(held.here > PART && held.here <= 6 * PART && held.staying < PARTS, "{held:?}");
    memory.clear();
    wait_until("letting go of all", || in_memory(FILE) < PART / 4);
}

#[test]
fn what_is_used_seldom_never_is_in_memory_as_a_whole() {
    const FILE: &str = "layers.safetensors";
    let folder = tempfile::tempdir().unwrap();
    let memory = Arc::new(Memory::new(Pages::of_the_machine()));
    let (weights, resident) = network(&folder.path().join(FILE), &memory, Use::Seldom);
    for _ in 0..2 {
        let stay = resident.visit(0).unwrap();
        for part in 0..PARTS {
            let _lease = stay.part(part).unwrap();
            weights.stored(&format!("block.{part}.weight"), &[4096, 4096]).unwrap().to_vec();
            wait_until("letting go", || in_memory(FILE) <= 3 * PART);
        }
    }
}

#[test]
fn what_was_let_go_comes_back_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("random.safetensors");
    let layout = Layout::parse("F8_E4M3 999x1001 {a,b}.weight").unwrap();
    layout.write_random(&path, 1, &mut |_| Ok(())).unwrap();
    let memory = Arc::new(Memory::new(Pages::of_the_machine()));
    let weights = Weights::new(File::open_in(&memory, &path).unwrap(), "");
    let names = ["a", "b"].map(str::to_owned).to_vec();
    let resident =
        weights.resident("both", names, 0, Use::Often, |name| Some(usize::from(name.starts_with('b'))));
    let read = || {
        let stay = resident.visit(0).unwrap();
        let lease = stay.part(1).unwrap();
        let values = weights.stored("b.weight", &[999, 1001]).unwrap().to_vec();
        drop(lease);
        values
    };
    let first = read();
    memory.clear();
    assert_eq!(memory.held()[0].here, 0);
    assert!(read() == first && first.iter().any(|value| *value != 0.0));
}

#[test]
fn networks_over_the_same_tensors_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Arc::new(Memory::new(Pages::of_the_machine()));
    let (weights, resident) = network(&folder.path().join("blocks.safetensors"), &memory, Use::Often);
    let again = weights.clone().patched(Arc::default());
    let again = again.resident("the blocks", Vec::new(), 0, Use::Often, |_| None);
    assert!(Arc::ptr_eq(resident.network(), again.network()));
    assert_eq!(resident.network().bytes(), PARTS as u64 * PART);
}

#[test]
fn a_file_without_an_owner_is_left_to_the_system() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("free.safetensors");
    Layout::parse("F8_E4M3 64x64 weight").unwrap().write_empty(&path).unwrap();
    let weights = Weights::new(File::open(&path).unwrap(), "");
    let resident = weights.resident("it", vec!["all".to_owned()], 1, Use::Often, |_| Some(0));
    assert!(resident.visit(u64::MAX).unwrap().part(0).unwrap().is_none());
}
