//! Where settings come from: flags, then the environment, then a file, then the defaults; for every subcommand alike.
//!
//! The command line is the one list of settings. What a file says takes the place of the defaults in it, so whatever is
//! a flag of `serve` is a key of the file, is checked the same way, and is shown by `comfyd config show`.

mod environment;
mod file;
pub(super) mod show;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::{Arg, Command};
use clap::{ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _};

use super::{Cli, Failure, Result};

pub(super) use environment::ignored;

use file::File;

/// The file that is read without being named, below the base directory.
const NAME: &str = "comfyd.toml";

/// A command line that was understood, and where its settings come from.
pub(super) struct Parsed {
    pub cli: Cli,
    pub sources: Sources,
}

/// Everything there is to say about settings.
pub(super) struct Sources {
    command: Command,
    matches: ArgMatches,
    file: Option<File>,
}

/// A command line that was not understood; clap words its own errors, help among them.
pub(super) enum Refused {
    Usage(clap::Error),
    File(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::File(failure)
    }
}

/// Reads a command line, the program's name first.
pub(super) fn parse(arguments: &[OsString]) -> Result<Parsed, Refused> {
    let bare = Cli::command();
    let file = match find(arguments)? {
        Some(path) => Some(File::read(&path, settings(&bare))?),
        None => None,
    };
    let mut command = with_environment(bare);
    if let Some(file) = &file {
        command = with_defaults(command, file);
    }
    let matches = command.try_get_matches_from_mut(arguments).map_err(Refused::Usage)?;
    let cli = Cli::from_arg_matches(&matches).map_err(Refused::Usage)?;
    Ok(Parsed { cli, sources: Sources { command, matches, file } })
}

/// The file to read: the one that is named, or else the one that is there.
fn find(arguments: &[OsString]) -> Result<Option<PathBuf>> {
    let named = |flag, variable| given(arguments, flag).or_else(|| environment::value(variable));
    if let Some(path) = named("--config", "COMFYD_CONFIG") {
        return Ok(Some(path.into()));
    }
    let base = named("--base-directory", "COMFYD_BASE_DIRECTORY").unwrap_or_else(|| ".".into());
    let usual = Path::new(&base).join(NAME);
    match usual.try_exists() {
        Ok(exists) => Ok(exists.then_some(usual)),
        Err(error) => Err(Failure::usage(format!("cannot read {}: {error}", usual.display()))),
    }
}

/// The value of a flag, before the whole line can be read.
fn given(arguments: &[OsString], flag: &str) -> Option<OsString> {
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        match text.strip_prefix(flag) {
            Some("") => return rest.next().cloned(),
            Some(value) if value.starts_with('=') => return Some(value[1..].into()),
            _ => {}
        }
    }
    None
}

/// What may be set: the flags of `serve`.
fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    let serve = command.find_subcommand("serve");
    serve.into_iter().flat_map(Command::get_arguments).filter(|arg| is_setting(arg))
}

fn is_setting(arg: &Arg) -> bool {
    arg.get_long().is_some() && !matches!(arg.get_action(), ArgAction::Help | ArgAction::Version)
}

/// Lets other names of the environment count, and lets a variable that is set to nothing count as not set, which is
/// how compose files pass on what they were not given.
fn with_environment(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let Some(own) = arg.get_env().filter(|own| environment::value(own).is_none()) else { return arg };
        let is_empty = std::env::var_os(own).is_some();
        let alias = environment::alias(arg.get_id().as_str());
        match alias.filter(|alias| environment::value(alias).is_some()) {
            Some(alias) => arg.env(alias),
            None if is_empty => arg.env(None::<&'static str>),
            None => arg,
        }
    });
    command.mut_subcommands(with_environment)
}

/// Lets the file's values be the defaults of every subcommand that knows the flag.
fn with_defaults(command: Command, file: &File) -> Command {
    let command = command.mut_args(|arg| match arg.get_long().and_then(|name| file.get(name)) {
        Some(values) => arg.default_values(values.to_vec()),
        None => arg,
    });
    command.mut_subcommands(|command| with_defaults(command, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn serve(parsed: Parsed) -> crate::cli::serve::Args {
        match parsed.cli.command {
            crate::cli::Command::Serve(args) => *args,
            _ => panic!("another command"),
        }
    }

    fn parsed(text: &str) -> Parsed {
        match parse(&line(text)) {
            Ok(parsed) => parsed,
            Err(Refused::Usage(error)) => panic!("{error}"),
            Err(Refused::File(failure)) => panic!("{failure}"),
        }
    }

    fn refused(text: &str) -> String {
        match parse(&line(text)) {
            Ok(_) => panic!("accepted"),
            Err(Refused::Usage(error)) => error.to_string(),
            Err(Refused::File(failure)) => failure.to_string(),
        }
    }

    /// A folder with a file of settings.
    fn folder(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(NAME), text).expect("a file");
        let command = format!("comfyd serve --base-directory {}", folder.path().display());
        (folder, command)
    }

    #[test]
    fn a_file_is_found_and_flags_beat_it() {
        let text = "port = 1234\r\nlisten = \"::1\"\r\nlogin = true\r\nsession_hours = 1.5\r\n";
        let (_folder, command) = folder(&format!("\u{feff}{text}"));
        let args = serve(parsed(&command));
        assert_eq!(
            (args.network.port, args.network.listen.as_str(), args.security.login),
            (1234, "::1", true)
        );
        assert_eq!(args.security.session_hours.as_secs(), 5400);
        assert_eq!(serve(parsed(&format!("{command} --port 5"))).network.port, 5);
    }

    #[test]
    fn paths_are_relative_to_the_file_and_may_be_those_of_windows() {
        let text = "output-directory = \"out\"\ninput-directory = \"C:\\Users\\new\\in\"\n\
                    user-directory = 'D:\\x'\nextra-model-paths-config = [\"a.yaml\", \"E:\\\\b.yaml\"]\n";
        let (folder, command) = folder(text);
        let folders = serve(parsed(&command)).folders;
        assert_eq!(folders.output_directory, Some(folder.path().join("out")));
        assert_eq!(folders.input_directory, Some("/mnt/c/Users/new/in".into()));
        assert_eq!(folders.user_directory, Some("/mnt/d/x".into()));
        let extra = [folder.path().join("a.yaml"), "/mnt/e/b.yaml".into()];
        assert_eq!(folders.extra_model_paths_config, Some(extra.into()));
    }

    #[test]
    fn other_subcommands_read_the_same_file() {
        let (folder, _) = folder("output-directory = \"out\"\nport = 7\n");
        let command = format!("comfyd run x.json --config {}/{NAME}", folder.path().display());
        let parsed = parsed(&command);
        let crate::cli::Command::Run(args) = parsed.cli.command else { panic!("another command") };
        assert_eq!(args.folders.output_directory, Some(folder.path().join("out")));
    }

    #[test]
    fn mistakes_name_the_file_the_key_and_what_was_meant() {
        for (text, words) in [
            ("prot = 1", &["comfyd.toml", "`prot`", "`port`"][..]),
            ("port = 70000", &["comfyd.toml", "port", "70000"]),
            ("port = \"many\"", &["port", "many"]),
            ("verbose = true", &["verbose", "text or a number"]),
            ("login = \"yes please\"", &["login", "true or false"]),
            ("[network]\nport = 1", &["network", "sections"]),
            ("port = ", &["comfyd.toml", "line 1"]),
            ("token = \"s3cret\"", &["`token`", "token-file"]),
            ("config = \"x\"", &["`config`"]),
        ] {
            let (_folder, command) = folder(text);
            let told = refused(&command);
            assert!(words.iter().all(|word| told.contains(word)), "{text}: {told}");
            assert!(!told.contains("s3cret"), "{told}");
        }
        assert!(refused("comfyd serve --config /no/such.toml").contains("/no/such.toml"));
    }

    #[test]
    fn every_setting_can_be_written_in_a_file() {
        let bare = Cli::command();
        assert!(settings(&bare).count() > 25);
        for arg in settings(&bare) {
            assert!(
                arg.get_env().is_some() || arg.get_long() == Some("cache-classic"),
                "{arg} has no variable"
            );
        }
    }
}
