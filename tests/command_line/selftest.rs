//! `comfyd selftest` on a machine without a graphics card.

use std::process::Command;

use super::{Ended, ended};

fn selftest(device: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
    ended(command.args(["selftest", "--device", device]).current_dir(folder.path()))
}

#[test]
fn without_a_card_it_says_so_and_nothing_is_wrong() {
    if std::path::Path::new("/dev/nvidiactl").exists() {
        return;
    }
    for device in ["cuda", "cuda:1"] {
        let ended = selftest(device);
        assert_eq!((ended.code, ended.complaint.as_str()), (Some(0), ""));
        assert!(ended.told.starts_with("no card was checked: "), "{}", ended.told);
    }
}

#[test]
fn only_cards_are_checked() {
    let processor = selftest("cpu");
    assert_eq!(processor.code, Some(2));
    assert!(
        processor.complaint.ends_with("hint: comfyd selftest --device cuda\n"),
        "{}",
        processor.complaint
    );
    let nothing = selftest("gpu");
    assert_eq!(nothing.code, Some(2));
    assert!(
        nothing.complaint.contains("there are cpu, cuda, and cuda:N for card N"),
        "{}",
        nothing.complaint
    );
}
