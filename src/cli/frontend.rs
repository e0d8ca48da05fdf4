//! `comfyd frontend`: installs, lists and removes versions of the official web interface.

mod pip;

use std::path::{Path, PathBuf};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{Failure, Result, print};
use crate::frontend::{self, Done, Error, Index, LICENCE, PACKAGE, Step, VERSION, Wanted};
use crate::paths::Folders;

/// Install the official web interface, which `serve` then shows
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES\n  comfyd frontend install\n  comfyd frontend install latest --index https://mirror.example/simple"
)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// The folder that is the server's --base-directory
    #[arg(long, global = true, value_name = "DIR", default_value = ".", env = "COMFYD_BASE_DIRECTORY")]
    base_directory: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Download a version, check it and put it in use; a running server shows it without a restart
    Install {
        /// Such as 1.27.10, or `latest`
        #[arg(default_value = VERSION)]
        version: String,
        /// The package index [default: pip's, or the public one]
        #[arg(long, value_name = "URL", env = "PIP_INDEX_URL", hide_env_values = true)]
        index: Option<String>,
    },
    /// Show the installed versions; the one in use has a star
    List,
    /// Delete an installed version
    Remove { version: String },
}

/// An error with the advice that belongs to it.
fn failure(error: Error) -> Failure {
    let mend = error.mend();
    match error {
        Error::NoVersion(_) | Error::Address(_) => Failure::usage(error),
        _ => Failure::from(error),
    }
    .hint(mend)
}

pub(super) fn run(args: Args) -> Result {
    let base = std::path::absolute(&args.base_directory)?;
    let folder = Folders::below(base).web;
    match args.action {
        Action::Install { version, index } => install(&folder, &version, index),
        Action::List => {
            list(&folder);
            Ok(())
        }
        Action::Remove { version } => {
            frontend::remove(&folder, &version).map_err(failure)?;
            print(&format!("removed {version}\n"));
            if frontend::active(&folder).is_none() {
                print("no version is in use; `comfyd serve` shows its own page\n");
            }
            Ok(())
        }
    }
}

fn list(folder: &Path) {
    let all = frontend::all(folder);
    let active = frontend::active(folder);
    for found in &all {
        let mark = if active.as_ref() == Some(found) { '*' } else { ' ' };
        print(&format!("{mark} {}  {}\n", found.version, found.root.display()));
    }
    if all.is_empty() {
        print("none is installed; `comfyd frontend install` installs one\n");
    }
}

fn install(folder: &Path, version: &str, index: Option<String>) -> Result {
    let wanted: Wanted = version.parse().map_err(failure)?;
    let address = index.or_else(pip::index).unwrap_or_else(|| frontend::PUBLIC_INDEX.to_owned());
    let index = Index::new(&address).map_err(failure)?;
    let mut screen = Screen::new(index.address());
    let done = frontend::install(&index, &wanted, folder, &mut |step| screen.show(step));
    screen.bar.finish_and_clear();
    let Done { version, root, unpacked } = done.map_err(failure)?;
    let root = root.display();
    print(&match unpacked {
        Some((files, bytes)) => {
            format!("installed {version} in {root}: {files} files, {}\n", HumanBytes(bytes))
        }
        None => format!("{version} was installed already in {root}\n"),
    });
    print("`comfyd serve` shows it at /; a running server does so from now on\n");
    Ok(())
}

/// What a person sees: what is downloaded from where, and one bar.
struct Screen {
    index: String,
    bar: ProgressBar,
}

impl Screen {
    fn new(index: String) -> Self {
        let bar = ProgressBar::new_spinner().with_message("asking the index");
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        Self { index, bar }
    }

    fn show(&mut self, step: Step<'_>) {
        match step {
            Step::Found(release) => {
                let size = release
                    .size
                    .map_or_else(|| "size unknown".to_owned(), |size| HumanBytes(size).to_string());
                let (version, digest) = (&release.version, &release.sha256);
                self.bar.suspend(|| {
                    print(&format!(
                        "{PACKAGE} {version} from {}\n  {size}, licence {LICENCE}, SHA-256 {digest}\n",
                        self.index
                    ));
                });
                self.style("{spinner} {msg:12} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
                self.bar.set_message("downloading");
            }
            Step::Received { bytes, of } => {
                self.bar.set_length(of.unwrap_or(bytes).max(bytes));
                self.bar.set_position(bytes);
            }
            Step::Unpacked { files, of } => {
                if files == 1 {
                    self.style("{spinner} {msg:12} {bar:30} {pos}/{len} files");
                    self.bar.set_message("unpacking");
                }
                self.bar.set_length(of as u64);
                self.bar.set_position(files as u64);
            }
        }
    }

    fn style(&self, template: &str) {
        let style = ProgressStyle::with_template(template);
        self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    }
}
