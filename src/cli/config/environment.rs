//! Names under which the environment of containers keeps settings, besides our own.

use std::ffi::{OsStr, OsString};

/// Settings by the id of their flag, and the name that the containers of ComfyUI's users have for them.
const ALIASES: &[(&str, &str)] = &[
    ("idle_unload", "IDLE_TIMEOUT"),
    ("listen", "COMFYUI_LISTEN"),
    ("port", "COMFYUI_PORT"),
    ("verbose", "VERBOSE_LOGGING"),
];

/// What such containers set besides, and why it changes nothing here.
const IGNORED: &[(&str, &str)] = &[
    ("API_TIMEOUT", "prompts are answered at once, and jobs may last as long as they do"),
    ("CHECK_INTERVAL", "idleness is not looked for, it is noticed"),
    ("CIVITAI_TOKEN", "nothing is fetched from there"),
    ("CORS_ENABLED", "--enable-cors-header names the pages that may use the server"),
    ("GUEST_MODE_ENABLED", "guests are let in by a file login/GUEST_MODE"),
    ("SECRET_KEY", "sessions are kept in memory and need no key"),
];

/// The value of a variable, unless it is empty.
pub(super) fn value(name: impl AsRef<OsStr>) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

pub(super) fn alias(id: &str) -> Option<&'static str> {
    ALIASES.iter().find(|(setting, _)| *setting == id).map(|(_, name)| *name)
}

/// Variables that are set and change nothing, in sentences.
pub(in crate::cli) fn ignored() -> Vec<String> {
    let asks = |name: &str| {
        value(name).is_some_and(|value| !["false", "0", "no"].iter().any(|no| value.eq_ignore_ascii_case(no)))
    };
    let set = IGNORED.iter().filter(|(name, _)| asks(name));
    set.map(|(name, why)| format!("{name} is set and means nothing here: {why}")).collect()
}
