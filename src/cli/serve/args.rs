//! The flags of `serve`: ComfyUI's names, each also readable from the environment.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::FalseyValueParser;
use tracing::level_filters::LevelFilter;

use crate::auth::Policy;
use crate::cli::arithmetic::{ArithmeticArgs, DeviceArgs};
use crate::cli::folders::FolderArgs;
use crate::cli::log::Format;
use crate::cli::memory::MemoryArgs;
use crate::queue::Durability;

/// Serve ComfyUI's HTTP and websocket API.
///
/// Flags have ComfyUI's names; those of its flags that mean nothing here are accepted with a warning. Each can also be
/// set in the environment, or without its dashes in a file of settings: comfyd.toml below the base directory, or the one
/// named by --config. Flags count before the environment, the environment before the file.
///
/// Scripts authenticate with `Authorization: Bearer TOKEN` or `?token=TOKEN`, browsers at /login with the password.
/// The token is the first line of the file named by --token-file; else, below the base directory, of login/PASSWORD
/// as ComfyUI-Login writes it, the `bcrypt_hash` in .secrets/comfyui_auth_tokens.conf, or the first line of
/// .secrets/qwen-api-user.token or another .secrets/*.token: the first of these that is there counts, and is read
/// again when it changes. Without a token the server listens on this machine only, unless --login is given.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub network: Network,
    #[command(flatten)]
    pub security: Security,
    #[command(flatten)]
    pub folders: FolderArgs,
    #[command(flatten)]
    pub running: Running,
    #[command(flatten)]
    pub memory: MemoryArgs,
    #[command(flatten)]
    pub arithmetic: ArithmeticArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Network")]
pub struct Network {
    /// Addresses to listen on, separated by commas; without a value, all of this machine
    #[arg(long, value_name = "IP", env = "COMFYD_LISTEN")]
    #[arg(default_value = "127.0.0.1", num_args = 0..=1, default_missing_value = "0.0.0.0,::")]
    pub listen: String,
    /// Port to listen on
    #[arg(long, default_value_t = 8188, env = "COMFYD_PORT")]
    pub port: u16,
    /// Let pages of this origin use the server; without a value, pages of any origin
    #[arg(long, value_name = "ORIGIN", env = "COMFYD_ENABLE_CORS_HEADER")]
    #[arg(num_args = 0..=1, default_missing_value = "*")]
    pub enable_cors_header: Option<String>,
    /// The most a request may carry, in megabytes
    #[arg(long, value_name = "MB", default_value_t = 100.0, env = "COMFYD_MAX_UPLOAD_SIZE")]
    pub max_upload_size: f64,
    /// Compress JSON and text for clients that can read that
    #[arg(long, env = "COMFYD_ENABLE_COMPRESS_RESPONSE_BODY")]
    pub enable_compress_response_body: bool,
    /// Folder with a web interface to serve at / instead of the one that `comfyd frontend install` installs
    #[arg(long, value_name = "DIR", env = "COMFYD_FRONT_END_ROOT")]
    pub front_end_root: Option<PathBuf>,
}

impl Network {
    pub fn max_upload_bytes(&self) -> usize {
        (self.max_upload_size * 1024.0 * 1024.0).round().max(0.0) as usize
    }
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Security")]
pub struct Security {
    /// File whose first line is the token that clients send [default: see above]
    #[arg(long, value_name = "FILE", env = "COMFYD_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Let nobody in before a password is set at /login: from this machine, or with the setup code that the log
    /// tells at start. The default where a folder `login` is there
    #[arg(long, env = "COMFYUI_LOGIN_ENABLED", value_parser = FalseyValueParser::new())]
    pub login: bool,
    /// Let everybody read /metrics, where there is a token too
    #[arg(long, env = "COMFYD_OPEN_METRICS", value_parser = FalseyValueParser::new())]
    pub open_metrics: bool,
    /// How long a login lasts
    #[arg(long, value_name = "HOURS", default_value = "24", env = "SESSION_EXPIRE_HOURS", value_parser = hours)]
    pub session_hours: Duration,
    /// Wrong passwords that an address may try at once; then it has one more every 30 seconds
    #[arg(long, value_name = "N", default_value_t = 10, env = "MAX_LOGIN_ATTEMPTS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub max_login_attempts: u32,
}

impl Security {
    pub fn policy(&self) -> Policy {
        Policy {
            login: self.login,
            session_life: self.session_hours,
            login_attempts: self.max_login_attempts,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.trim().parse().map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "time does not run backwards, nor for ever".to_owned())
}

fn hours(text: &str) -> Result<Duration, String> {
    let hours: f64 = text.trim().parse().map_err(|_| "expected a number of hours".to_owned())?;
    match Duration::try_from_secs_f64(hours * 3600.0) {
        Ok(life) if !life.is_zero() => Ok(life),
        _ => Err("a login must last longer than no time".to_owned()),
    }
}

/// How the samplers show what they are working on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PreviewMethod {
    None,
    /// The best there is, which is latent2rgb
    Auto,
    Latent2rgb,
    /// By a small decoder in models/vae_approx, for Qwen-Image `lighttaew2_1` or `taew2_1`; else as latent2rgb
    Taesd,
}

/// Where a job is before its client is told that it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JournalMode {
    Synced,
    Written,
    Off,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Running")]
pub struct Running {
    /// Previews that samplers send while they work
    #[arg(long, value_name = "METHOD", default_value = "none", env = "COMFYD_PREVIEW_METHOD")]
    pub preview_method: PreviewMethod,
    /// Longest side of a preview, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 512, env = "COMFYD_PREVIEW_SIZE")]
    pub preview_size: usize,
    /// Keep the results that the next prompt needs again; the default
    #[arg(long, conflicts_with_all = ["cache_lru", "cache_none"])]
    pub cache_classic: bool,
    /// Keep the last N results over all prompts
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        conflicts_with = "cache_none",
        env = "COMFYD_CACHE_LRU"
    )]
    pub cache_lru: usize,
    /// Keep no results
    #[arg(long, env = "COMFYD_CACHE_NONE")]
    pub cache_none: bool,
    /// When a prompt that was accepted is safe: on the disk, or with the operating system, which a power cut may
    /// take; with `off`, the end of the server is the end of its queue and history
    #[arg(long, value_name = "WHEN", default_value = "synced", env = "COMFYD_JOURNAL")]
    pub journal: JournalMode,
    /// Free the memory of models and results after so long without a job; 0 is never
    #[arg(long, value_name = "SECONDS", default_value = "0", env = "COMFYD_IDLE_UNLOAD", value_parser = seconds)]
    pub idle_unload: Duration,
    /// How long the running job may go on when the server is told to end; then it runs again after the next start
    #[arg(long, value_name = "SECONDS", default_value = "6", env = "COMFYD_DRAIN", value_parser = seconds)]
    pub drain: Duration,
    /// Compute on the CPU even if there is a GPU
    #[arg(long, env = "COMFYD_CPU")]
    pub cpu: bool,
}

impl Running {
    /// Whether samplers show what they work on, where a prompt does not say.
    pub fn previews(&self) -> bool {
        self.preview_method != PreviewMethod::None
    }

    pub fn durability(&self) -> Option<Durability> {
        match self.journal {
            JournalMode::Synced => Some(Durability::Synced),
            JournalMode::Written => Some(Durability::Written),
            JournalMode::Off => None,
        }
    }

    /// Whether a small decoder makes them.
    pub fn decoded_previews(&self) -> bool {
        self.preview_method == PreviewMethod::Taesd
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    // The other words are those of VERBOSE_LOGGING.
    #[value(aliases = ["true", "1"])]
    Debug,
    #[value(aliases = ["false", "0"])]
    Info,
    Warning,
    Error,
    Critical,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// What is worth a line in the log; COMFYD_LOG selects more finely, as in `comfyd::api=debug`
    #[arg(long, value_name = "LEVEL", ignore_case = true, env = "COMFYD_VERBOSE")]
    #[arg(default_value = "info", num_args = 0..=1, default_missing_value = "debug")]
    pub verbose: Level,
    /// How lines of the log look
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "COMFYD_LOG_FORMAT")]
    pub log_format: Format,
}

impl LogArgs {
    pub fn level(&self) -> LevelFilter {
        match self.verbose {
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warning => LevelFilter::WARN,
            Level::Error | Level::Critical => LevelFilter::ERROR,
        }
    }
}
