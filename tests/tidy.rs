//! The shape of the code itself: layers, sizes, leftovers. The table below is the one in
//! `ARCHITECTURE.md` and `src/lib.rs`, as data.

use std::fs;
use std::path::{Path, PathBuf};

/// Bottom first. A module may import from rows before its own, and nothing from its own row.
const LAYERS: &[&[&str]] = &[
    &["stop", "paths", "device", "python_json", "http_client"],
    &["weights", "image", "auth", "frontend", "fetch", "graph"],
    &["model"],
    &["sampling"],
    &["nodes"],
    &["queue"],
    &["api"],
    &["cli"],
];

/// Imports a row would allow but a module's purpose forbids.
const IGNORANT: &[(&str, &[&str])] = &[
    ("graph", &["device", "paths"]),
    ("queue", &["nodes", "sampling", "model", "image", "weights", "auth", "device"]),
    ("api", &["sampling", "model", "weights"]),
    ("sampling", &["graph", "image", "auth", "paths"]),
    ("model", &["graph", "image", "auth", "paths"]),
    ("nodes", &["auth"]),
];

/// No source file grows past this; split by topic instead.
const MOST_LINES: usize = 800;

/// Words that mark unfinished work or debugging.
const LEFTOVERS: &[&str] = &["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The top-level module a file of `src/` belongs to; none for `lib.rs` and `main.rs`.
    fn module(&self) -> Option<String> {
        let first = self.path.strip_prefix("src").ok()?.components().next()?;
        let name = Path::new(first.as_os_str()).file_stem()?.to_str()?.to_owned();
        (!matches!(name.as_str(), "lib" | "main")).then_some(name)
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|suffix| suffix == "rs") {
                let text = fs::read_to_string(&path).expect("readable source");
                found.push(Source { path, text });
            }
        }
    }
    assert!(!found.is_empty(), "no sources under {folder}");
    found
}

fn row(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// The modules a line of code names: `crate::a::..`, `crate::{a, b::c}`.
fn imports(line: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        if line[..at].ends_with('$') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        let group = rest.strip_prefix('{').map_or(rest, |group| group.split('}').next().unwrap_or(group));
        let count = if rest.starts_with('{') { usize::MAX } else { 1 };
        names.extend(group.split(',').take(count).filter_map(|part| {
            part.trim()
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .filter(|name| !name.is_empty())
        }));
    }
    names
}

#[test]
fn modules_import_only_downwards() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let Some(own) = source.module() else { continue };
        let Some(here) = row(&own) else {
            wrong.push(format!("{}: module `{own}` is in no layer", source.path.display()));
            continue;
        };
        let forbidden = IGNORANT.iter().filter(|(module, _)| *module == own).flat_map(|(_, names)| *names);
        let forbidden: Vec<&str> = forbidden.copied().collect();
        for (number, line) in
            source.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            for name in imports(line).into_iter().filter(|name| *name != own) {
                let upward = row(name).is_some_and(|there| there >= here);
                if upward || forbidden.contains(&name) {
                    wrong.push(format!(
                        "{}:{}: `{own}` may not import `{name}`",
                        source.path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn imports_are_read_from_paths_and_groups() {
    assert_eq!(imports("use crate::graph::Node;"), ["graph"]);
    assert_eq!(imports("use crate::{model, sampling::Step};"), ["model", "sampling"]);
    assert_eq!(imports("fn f(x: crate::stop::Stop) -> crate::paths::Kind"), ["stop", "paths"]);
    assert!(imports("$crate::graph::Inputs").is_empty());
}

#[test]
fn every_module_says_what_it_owns() {
    let silent: Vec<_> = sources("src")
        .into_iter()
        .filter(|source| source.path != Path::new("src/main.rs") && !source.text.starts_with("//!"))
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no `//!` at the top of: {}", silent.join(", "));
}

#[test]
fn no_file_is_a_whole_house() {
    let long: Vec<_> = ["src", "tests", "benches"]
        .into_iter()
        .flat_map(sources)
        .filter(|source| source.text.lines().count() > MOST_LINES)
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(long.is_empty(), "over {MOST_LINES} lines, split by topic: {}", long.join(", "));
}

#[test]
fn nothing_unfinished_is_left_lying() {
    let mut found = Vec::new();
    for source in sources("src") {
        for (number, line) in source.text.lines().enumerate() {
            found.extend(
                LEFTOVERS
                    .iter()
                    .filter(|word| line.contains(*word))
                    .map(|word| format!("{}:{}: {word}", source.path.display(), number + 1)),
            );
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_row_names_modules_that_exist() {
    let map = fs::read_to_string("src/lib.rs").expect("src/lib.rs");
    for module in LAYERS.iter().flat_map(|row| *row) {
        assert!(
            map.contains(&format!("pub mod {module};")),
            "`{module}` is in the layer table but not in src/lib.rs"
        );
        assert!(
            map.contains(&format!("[`{module}`]")),
            "the table of src/lib.rs does not mention `{module}`"
        );
    }
}
