//! Assembles all of it: one file per subcommand.
//!
//! Owns the command line, the environment, exit codes, and how a failure is told: its chain of causes, then a
//! hint. Nothing below reads the environment or ends the process.

mod arithmetic;
mod client;
mod config;
mod convert;
mod doctor;
mod fetch_models;
mod folders;
mod frontend;
mod graph_file;
mod log;
mod make_checkpoint;
mod memory;
mod models;
mod nodes;
mod plan;
mod report;
mod run;
mod selftest;
pub mod serve;
mod token;
mod validate;

use std::error::Error;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use config::show::ConfigCommand;
use config::{Parsed, Refused};

/// A native ComfyUI-compatible inference server.
#[derive(Debug, Parser)]
#[command(name = "comfyd", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// File of settings [default: comfyd.toml in the base directory, if it is there]
    #[arg(long, global = true, value_name = "FILE", env = "COMFYD_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Args>),
    Run(Box<run::Args>),
    Plan(Box<plan::Args>),
    Convert(convert::Args),
    Nodes(nodes::Args),
    Frontend(frontend::Args),
    Submit(Box<client::submit::SubmitArgs>),
    Wait(client::submit::WaitArgs),
    Queue(client::jobs::QueueArgs),
    Cancel(client::jobs::CancelArgs),
    Status(client::status::StatusArgs),
    Health(client::health::HealthArgs),
    Logs(client::status::LogsArgs),
    FetchModels(fetch_models::Args),
    Models(models::Args),
    Config(config::show::ConfigArgs),
    Token(token::Args),
    Doctor(Box<doctor::Args>),
    Selftest(selftest::Args),
    Validate(Box<validate::Args>),
    Bench(Box<client::bench::BenchArgs>),
}

/// Runs the program with these arguments, its own name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let (known, foreign) = serve::flags::separate(arguments.clone());
    let done = match config::parse(&known) {
        Ok(parsed) => run_command(parsed, &foreign, &arguments),
        Err(Refused::File(failure)) => Err(failure),
        Err(Refused::Usage(error)) => {
            // Help and version go to stdout, the rest to stderr; a closed pipe is no failure of ours.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = std::io::stderr().write_all(failure.to_string().as_bytes());
            ExitCode::from(failure.code)
        }
    }
}

fn run_command(Parsed { cli, sources }: Parsed, foreign: &[String], arguments: &[OsString]) -> Result {
    match cli.command {
        Command::Serve(args) => serve::run(*args, foreign, arguments),
        Command::Run(args) => run::run(*args),
        Command::Plan(args) => plan::run(*args),
        Command::Convert(args) => convert::run(args),
        Command::Nodes(args) => nodes::run(&args),
        Command::Frontend(args) => frontend::run(args),
        Command::Submit(args) => client::submit::submit(*args),
        Command::Wait(args) => client::submit::wait(&args),
        Command::Queue(args) => client::jobs::queue(&args),
        Command::Cancel(args) => client::jobs::cancel(&args),
        Command::Status(args) => client::status::status(&args),
        Command::Health(args) => client::health::health(&args),
        Command::Logs(args) => client::status::logs(&args),
        Command::FetchModels(args) => fetch_models::run(args),
        Command::Models(args) => models::run(args),
        Command::Config(args) => match args.command {
            ConfigCommand::Show(args) => {
                config::show::show(&args, &sources);
                Ok(())
            }
        },
        Command::Token(args) => token::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Bench(args) => client::bench::bench(*args),
    }
}

/// Tells what the user should know besides the result.
fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "warning: {text}");
}

/// Tells how something goes on; results stay alone on stdout.
fn print_progress(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a result; a reader that went away is no failure of ours.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// Why a subcommand ends without success: the cause, and what the user can do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    cause: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// What the user asked for makes no sense: exit code 2.
    pub(crate) fn usage(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { cause: cause.into(), hint: None, code: 2 }
    }

    /// What went wrong, on one line.
    fn told(&self) -> String {
        let mut told = self.cause.to_string();
        let mut cause = self.cause.source();
        while let Some(deeper) = cause {
            let text = deeper.to_string();
            if !told.contains(&text) {
                told = format!("{told}: {text}");
            }
            cause = deeper.source();
        }
        told.trim_end().replace('\n', ";")
    }

    fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Adds advice.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Any other error is a failure of the work itself: exit code 1.
impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(cause: E) -> Self {
        Self { cause: cause.into(), hint: None, code: 1 }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut told = self.cause.to_string();
        writeln!(f, "error: {told}")?;
        let mut cause = self.cause.source();
        while let Some(deeper) = cause {
            // Many messages quote their cause already.
            let text = deeper.to_string();
            if !told.contains(&text) {
                writeln!(f, "  because: {text}")?;
            }
            told = text;
            cause = deeper.source();
        }
        match &self.hint {
            Some(hint) => writeln!(f, "hint: {hint}"),
            None => Ok(()),
        }
    }
}
