//! `comfyd config show`: every setting, its value, and where that comes from.

use std::ffi::OsStr;

use clap::builder::Arg;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};
use serde_json::{Map, Value as Json, json};

use super::{Sources, ignored, is_setting};
use crate::cli::{print, serve, warn};

/// Look at the settings
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
    Show(Box<ShowArgs>),
}

/// Print every setting that `serve` would use, and where it comes from
///
/// Flags count before the environment, the environment before the file, the file before the defaults. The file is the
/// one named by --config, or comfyd.toml below the base directory. What is printed can be such a file.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub serve: serve::Args,
}

/// A setting as it is.
struct Setting {
    name: String,
    /// None if it is not set and has no default.
    value: Option<Json>,
    source: String,
}

pub(in crate::cli) fn show(args: &ShowArgs, sources: &Sources) {
    for oddity in ignored() {
        warn(&oddity);
    }
    let settings = sources.settings();
    if args.json {
        let told: Map<String, Json> = (settings.into_iter())
            .map(|setting| (setting.name, json!({"value": setting.value, "source": setting.source})))
            .collect();
        print(&format!("{:#}\n", Json::from(told)));
        return;
    }
    let lines: Vec<_> = settings.iter().map(|setting| (line(setting), &setting.source)).collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or_default().min(48);
    for (line, source) in lines {
        print(&format!("{line:width$}  # {source}\n"));
    }
}

/// In TOML; a setting without a value is a comment.
fn line(Setting { name, value, .. }: &Setting) -> String {
    match value {
        // JSON's texts, numbers and lists of these are TOML as well.
        Some(value) => format!("{name} = {value}"),
        None => format!("# {name} ="),
    }
}

impl Sources {
    fn settings(&self) -> Vec<Setting> {
        let mut level = Some((&self.command, &self.matches));
        let mut settings = Vec::new();
        while let Some((command, matches)) = level {
            level = matches
                .subcommand()
                .and_then(|(name, matches)| Some((command.find_subcommand(name)?, matches)));
            let own = command.get_arguments().filter(|arg| is_setting(arg) && is_known(arg));
            settings.extend(own.map(|arg| self.setting(arg, matches)));
        }
        settings
    }

    fn setting(&self, arg: &Arg, matches: &ArgMatches) -> Setting {
        let (id, name) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
        let values: Vec<Json> =
            matches.get_raw(id).into_iter().flatten().map(|raw| typed(arg, raw)).collect();
        let several = arg.get_num_args().is_some_and(|count| count.max_values() > 1);
        let value = match values.len() {
            0 => None,
            1 if !several => values.into_iter().next(),
            _ => Some(values.into()),
        };
        let variable = || arg.get_env().map(OsStr::to_string_lossy).unwrap_or_default();
        let source = match (matches.value_source(id), &self.file) {
            (Some(ValueSource::CommandLine), _) => format!("flag --{name}"),
            (Some(ValueSource::EnvVariable), _) => format!("environment {}", variable()),
            (Some(_), Some(file)) if file.get(name).is_some() => format!("file {}", file.path.display()),
            (Some(_), _) => "default".to_owned(),
            (None, _) => "not set".to_owned(),
        };
        Setting { name: name.to_owned(), value, source }
    }
}

/// Flags of `config show` itself are no settings.
fn is_known(arg: &Arg) -> bool {
    !["json", "config"].contains(&arg.get_id().as_str())
}

/// A number or switch as such, the rest as text.
fn typed(arg: &Arg, raw: &OsStr) -> Json {
    let (text, is_switch) = (raw.to_string_lossy(), matches!(arg.get_action(), ArgAction::SetTrue));
    match serde_json::from_str(&text) {
        Ok(value @ Json::Number(_)) => value,
        Ok(value @ Json::Bool(_)) if is_switch => value,
        _ => Json::from(&*text),
    }
}
