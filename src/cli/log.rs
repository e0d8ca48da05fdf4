//! Where the log goes: to stderr, and to the clients that ask for it.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::api::Logs;

/// The variable that selects lines more finely than a level does.
pub(super) const VARIABLE: &str = "COMFYD_LOG";

/// How lines look on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// Begins to log. `level` holds for this program; the libraries below it only warn. Clients are shown text.
pub(super) fn start(level: LevelFilter, format: Format, logs: &Logs) {
    let quiet = level.min(LevelFilter::WARN);
    let filter = EnvFilter::try_from_env(VARIABLE)
        .unwrap_or_else(|_| EnvFilter::new(format!("{quiet},comfyd={level}")));
    let kept = logs.clone();
    let lines = layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let started = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(layer().with_writer(move || kept.clone()).with_ansi(false))
        .try_init();
    // Only the first subscriber of a process counts; a second server in one process shares it.
    drop(started);
}
