//! The package index that pip is set up to use, so that a mirror need not be named twice.

use std::path::{Path, PathBuf};

/// The `index-url` of pip's configuration files, the first of those that have one. pip's own variable,
/// `PIP_INDEX_URL`, is a flag's business.
pub(super) fn index() -> Option<String> {
    files().iter().find_map(|path| index_in(&std::fs::read_to_string(path).ok()?))
}

/// Where pip looks, the strongest first.
fn files() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("HOME");
    let below = |folder: Option<PathBuf>, file: &str| folder.map(|folder| folder.join(file));
    let config = set("XDG_CONFIG_HOME").or_else(|| below(home.clone(), ".config"));
    [
        set("PIP_CONFIG_FILE"),
        below(set("VIRTUAL_ENV"), "pip.conf"),
        below(config, "pip/pip.conf"),
        below(home, ".pip/pip.conf"),
        Some(Path::new("/etc/xdg/pip/pip.conf").to_owned()),
        Some(Path::new("/etc/pip.conf").to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The address under `index-url` in a file of sections; `[install]` counts more than `[global]`.
fn index_in(text: &str) -> Option<String> {
    let mut section = "";
    let (mut global, mut install) = (None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.trim();
        } else if let Some((key, value)) = line.split_once(['=', ':'])
            && key.trim().replace('_', "-") == "index-url"
        {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match section {
                "global" => global = value,
                "install" => install = value,
                _ => {}
            }
        }
    }
    install.or(global)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pips_files_name_the_index() {
        let text =
            "# ours\n[global]\ntimeout = 9\nindex_url: https://a.example/simple\n[list]\nindex-url = no\n";
        assert_eq!(index_in(text).as_deref(), Some("https://a.example/simple"));
        let text = format!("[install]\nindex-url = https://b.example/simple\n{text}");
        assert_eq!(index_in(&text).as_deref(), Some("https://b.example/simple"));
        assert_eq!(index_in("[global]\nindex-url =\n"), None);
    }
}
