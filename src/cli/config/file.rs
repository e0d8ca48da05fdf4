//! The file of settings: TOML, one key for each flag of `serve`.

use std::any::TypeId;
use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ArgAction;
use clap::builder::{Arg, Command};
use toml::{Table, Value};

use crate::cli::{Failure, Result};

/// The settings that a file holds, in its order.
pub(super) struct File {
    pub path: PathBuf,
    settings: Vec<(String, Vec<OsString>)>,
}

impl File {
    /// Reads a file; every value in it must suit the flag of that name.
    pub(super) fn read<'a>(path: &Path, flags: impl Iterator<Item = &'a Arg>) -> Result<Self> {
        let wrong = |problem: String| Failure::usage(format!("{}: {problem}", path.display()));
        let text =
            std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let text = text.trim_start_matches('\u{feff}');
        let table: Table =
            toml::from_str(&with_windows_paths(text)).map_err(|error| wrong(place(&error, text)))?;
        let flags: Vec<&Arg> = flags.collect();
        let folder = std::path::absolute(path)?.parent().map(Path::to_owned).unwrap_or_default();
        let mut settings = Vec::new();
        for (key, value) in &table {
            let name = key.replace('_', "-");
            let flag = flags.iter().find(|flag| flag.get_long() == Some(&name) && name != "config");
            let flag = flag.ok_or_else(|| wrong(unknown(key, value, &flags)))?;
            let values =
                values(flag, value, &folder).map_err(|problem| wrong(format!("{key}: {problem}")))?;
            check(flag, &values).map_err(|problem| wrong(format!("{key}: {problem}")))?;
            settings.push((name, values));
        }
        Ok(Self { path: path.to_owned(), settings })
    }

    pub(super) fn get(&self, name: &str) -> Option<&[OsString]> {
        self.settings.iter().find(|(key, _)| key == name).map(|(_, values)| values.as_slice())
    }
}

/// Where the file is no TOML, and why; its text may hold what nobody should see, so it is not quoted.
fn place(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", before.matches('\n').count() + 1, error.message())
}

fn unknown(key: &str, value: &Value, flags: &[&Arg]) -> String {
    if value.is_table() {
        return format!("[{key}]: settings are not in sections; write each key on its own");
    }
    if ["token", "password", "api-key", "secret"].contains(&key.replace('_', "-").as_str()) {
        return format!("`{key}` does not belong here; `token-file` names the file that holds the token");
    }
    let names = flags.iter().filter_map(|flag| flag.get_long());
    let likeness = |name: &&str| strsim::jaro_winkler(name, &key.replace('_', "-"));
    let nearest = names.max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    match nearest.filter(|name| likeness(name) > 0.75) {
        Some(name) => format!("there is no setting `{key}`; did you mean `{name}`?"),
        None => format!("there is no setting `{key}`; `comfyd config show` names them all"),
    }
}

/// A value as the command line would have it.
fn values(flag: &Arg, value: &Value, folder: &Path) -> Result<Vec<OsString>, String> {
    let is_switch = matches!(flag.get_action(), ArgAction::SetTrue);
    let word = |value: &Value| match value {
        Value::Boolean(on) if is_switch => Ok(on.to_string().into()),
        _ if is_switch => Err("expected true or false".to_owned()),
        Value::String(text) if is_path(flag) => Ok(folder.join(&*local(text)).into()),
        Value::String(text) => Ok(OsString::from(text)),
        Value::Integer(number) => Ok(number.to_string().into()),
        Value::Float(number) => Ok(number.to_string().into()),
        other => Err(format!("expected text or a number, not {}", other.type_str())),
    };
    match value {
        Value::Array(items) => items.iter().map(word).collect(),
        single => Ok(vec![word(single)?]),
    }
}

fn is_path(flag: &Arg) -> bool {
    flag.get_value_parser().type_id() == TypeId::of::<PathBuf>()
}

/// Whether the command line would take these values.
fn check(flag: &Arg, values: &[OsString]) -> Result<(), String> {
    if matches!(flag.get_action(), ArgAction::SetTrue) {
        return Ok(());
    }
    let name = flag.get_long().unwrap_or_default().to_owned();
    // Without what ties it to other flags and to the environment.
    let alone = Arg::new(name.clone())
        .long(name.clone())
        .num_args(flag.get_num_args().unwrap_or_else(|| 1.into()))
        .value_parser(flag.get_value_parser().clone())
        .ignore_case(flag.is_ignore_case_set());
    let command = Command::new("file").no_binary_name(true).arg(alone);
    let line = std::iter::once(format!("--{name}").into()).chain(values.iter().cloned());
    match command.try_get_matches_from(line) {
        Ok(_) => Ok(()),
        Err(error) => {
            let told = error.to_string();
            let told = told.lines().next().unwrap_or_default();
            Err(told.trim_start_matches("error: ").to_owned())
        }
    }
}

/// `C:\models` where Linux has it below Windows.
fn local(text: &str) -> Cow<'_, str> {
    match drive(text) {
        Some(drive) if cfg!(unix) => {
            format!("/mnt/{}/{}", drive.to_ascii_lowercase(), text[3..].replace('\\', "/")).into()
        }
        _ => text.into(),
    }
}

/// The letter of a path that begins as Windows has it.
fn drive(text: &str) -> Option<char> {
    match text.as_bytes() {
        [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic() => Some(char::from(*letter)),
        _ => None,
    }
}

/// Doubles the backslashes of `"C:\new"`, which TOML would read as the beginning of a new line.
fn with_windows_paths(text: &str) -> String {
    let mut fixed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\'', '#']) {
        let (before, found) = rest.split_at(at);
        fixed.push_str(before);
        let mark = &found[..1];
        // A comment ends with its line, text in single quotes with the next quote.
        let inside = &found[1..];
        let raw = drive(inside).is_some() && !inside[2..].starts_with("\\\\");
        let length = match mark {
            "#" => inside.find('\n'),
            "\"" if !raw => closing(inside),
            _ => inside.find(mark).map(|end| end + 1),
        };
        let (body, after) = inside.split_at(length.unwrap_or(inside.len()));
        fixed.push_str(mark);
        if mark == "\"" && raw {
            fixed.push_str(&body.replace('\\', "\\\\"));
        } else {
            fixed.push_str(body);
        }
        rest = after;
    }
    fixed + rest
}

/// The place behind the quote that ends a text whose escapes count.
fn closing(inside: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, character) in inside.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}
