//! Folders and the rights on them, the space that is left, models, and the web interface.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use indicatif::DecimalBytes;

use crate::cli::models::inventory;
use crate::cli::report::Line;
use crate::paths::Folders;
use crate::{device, frontend};

/// Less free space than this holds up the next pictures, and the next day.
const FULL: u64 = 64 << 20;
const NEARLY_FULL: u64 = 2 << 30;

pub(super) fn lines(folders: &Folders) -> Vec<Line> {
    let written = [
        ("base folder", &folders.base),
        ("input folder", &folders.input),
        ("output folder", &folders.output),
        ("temp folder", &folders.temp),
        ("user folder", &folders.user),
        ("cache folder", &folders.cache),
    ];
    let mut lines: Vec<_> = written.into_iter().filter_map(|(name, path)| writable(name, path)).collect();
    if lines.is_empty() {
        lines.push(Line::ok("folders", format!("those below {} can be written to", folders.base.display())));
    }
    if let Some(there) = folders.output.ancestors().find(|path| path.is_dir())
        && let Ok(free) = fs4::available_space(there)
    {
        lines.push(space(there, free));
    }
    lines.push(interface(folders));
    lines.extend(models(folders));
    lines
}

/// What keeps a server from writing to a folder, which it makes where it is not there.
fn writable(name: &str, path: &Path) -> Option<Line> {
    let place = format!("{name} {}", path.display());
    let there = path.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        let found = format!("{} is no folder", there.display());
        return Some(Line::fail(place, found, "move it away, or name another folder"));
    }
    let tried = tempfile::Builder::new().prefix(".comfyd-doctor-").tempfile_in(there);
    match tried.and_then(|file| Ok((file.as_file().metadata()?.uid(), there.metadata()?.uid()))) {
        Err(error) => {
            let found = format!("cannot be written to: {error}");
            Some(Line::fail(place, found, "give the server's user the right to, or name another folder"))
        }
        Ok((us, owner)) if us != owner && path == there && name != "temp folder" => {
            let found =
                format!("it belongs to user {owner}, and what a server makes there would to user {us}");
            Some(Line::warn(place, found, format!("run the server as user {owner}, or chown the folder")))
        }
        Ok(_) => None,
    }
}

fn space(there: &Path, free: u64) -> Line {
    let place = format!("disk of {}", there.display());
    let found = format!("{} free", DecimalBytes(free));
    let mend = "make room, or name another folder with --output-directory";
    match free {
        0..FULL => Line::fail(place, found, mend),
        FULL..NEARLY_FULL => Line::warn(place, found, mend),
        _ => Line::ok(place, found),
    }
}

fn interface(folders: &Folders) -> Line {
    let place = "web interface";
    if let Some(active) = frontend::active(&folders.web) {
        return Line::ok(place, format!("version {}", active.version));
    }
    // Something is there, and none of it can be served.
    if folders.web.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        let found = format!("{} holds no complete version that is in use", folders.web.display());
        return Line::warn(place, found, "`comfyd frontend install` puts one there");
    }
    Line::ok(place, "comfyd's own page; `comfyd frontend install` adds ComfyUI's")
}

fn models(folders: &Folders) -> Vec<Line> {
    let entries = inventory::read(folders);
    let mut lines = inventory::faults(&entries, folders);
    let memory = device::memory().total;
    if let Some(largest) =
        entries.iter().max_by_key(|entry| entry.size).filter(|largest| largest.size > memory)
    {
        let found = format!("{} is larger than the memory of this machine", DecimalBytes(largest.size));
        let mend =
            "it runs, and is read from the disk again in every step; a smaller file or more memory helps";
        lines.push(Line::warn(largest.path.display().to_string(), found, mend));
    }
    if lines.is_empty() {
        lines.push(Line::ok(
            "models",
            match entries.len() {
                0 => "none but the tiny one inside the binary; `comfyd fetch-models` gets more".to_owned(),
                count => format!("{count} files, nothing wrong with them"),
            },
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::Level;

    #[test]
    fn a_full_disk_is_told() {
        for (free, level) in [(0, Level::Fail), (1 << 30, Level::Warn), (1 << 40, Level::Ok)] {
            assert_eq!(space(Path::new("/x"), free).level, level);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_judged_by_the_one_above() {
        let base = tempfile::tempdir().expect("a folder");
        assert!(writable("output folder", &base.path().join("a/b/c")).is_none());
        std::fs::write(base.path().join("file"), "").expect("written");
        let line = writable("output folder", &base.path().join("file/x")).expect("a line");
        assert!(line.level == Level::Fail && line.found.contains("is no folder"), "{line:?}");
        assert_eq!(base.path().read_dir().expect("a folder").count(), 1, "nothing is left behind");
    }
}
