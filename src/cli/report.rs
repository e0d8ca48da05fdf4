//! What was looked at and found well, doubtful or broken: one way to tell it, for every subcommand that checks.

use serde_json::{Value as Json, json};

use super::{Result, print};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Ok,
    /// Something works, and could be meant otherwise.
    Warn,
    /// Something cannot work.
    Fail,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) place: String,
    pub(super) found: String,
    /// What helps; empty where nothing has to.
    pub(super) mend: String,
}

impl Line {
    pub(super) fn ok(place: impl Into<String>, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, place: place.into(), found: found.into(), mend: String::new() }
    }

    pub(super) fn warn(place: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Warn, place: place.into(), found: found.into(), mend: mend.into() }
    }

    pub(super) fn fail(place: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::warn(place, found, mend) }
    }

    pub(super) fn tell(&self) {
        let mend = if self.mend.is_empty() { String::new() } else { format!("      {}\n", self.mend) };
        print(&format!("{:4}  {}: {}\n{mend}", self.level.word(), self.place, self.found));
    }

    pub(super) fn document(&self) -> Json {
        json!({"level": self.level.word(), "place": self.place, "problem": self.found, "mend": self.mend})
    }
}

/// Tells all lines and ends with a failure if any of them is one.
pub(super) fn conclude(lines: &[Line], as_json: bool) -> Result {
    let count = |level| lines.iter().filter(|line| line.level == level).count();
    let (warnings, faults) = (count(Level::Warn), count(Level::Fail));
    if as_json {
        let told: Json = lines.iter().map(Line::document).collect();
        print(&format!(
            "{:#}\n",
            json!({"ok": faults == 0, "faults": faults, "warnings": warnings, "checks": told})
        ));
    } else {
        lines.iter().for_each(Line::tell);
    }
    if faults == 0 { Ok(()) } else { Err(format!("to mend: {faults}; warnings: {warnings}").into()) }
}
