//! `comfyd fetch-models`: shows what a set needs, and downloads what is missing.

mod screen;

use std::path::PathBuf;

use indicatif::DecimalBytes;
use serde_json::{Value as Json, json};

use super::folders::FolderArgs;
use super::{Failure, Result, print};
use crate::fetch::{
    self, Error, Hub, Item, Options, PUBLIC_HUB, Patience, Plan, Search, Set, State, USUAL_SET,
};
use screen::Screen;

/// Download model files into ComfyUI's folders; what was interrupted goes on where it was
#[derive(Debug, clap::Args)]
#[command(
    after_help = "TOKEN\n  taken from HF_TOKEN, or from where `hf auth login` put it\n\nEXIT STATUS\n  0  every file is there\n  1  something is missing\n  2  bad usage\n\nEXAMPLES\n  comfyd fetch-models --list\n  comfyd fetch-models --dry-run\n  comfyd fetch-models qwen-image-edit-2509 qwen-image-edit-2509-lightning --dir /data/ComfyUI/models"
)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of the command line")]
pub struct Args {
    /// Sets by their names, or files that describe one
    #[arg(value_name = "SET", default_value = USUAL_SET)]
    sets: Vec<String>,
    /// Show the sets there are
    #[arg(long)]
    list: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// The models folder to put files into [default: models, below the base directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The hub, or a mirror of it
    #[arg(long, value_name = "URL", env = "HF_ENDPOINT", default_value = PUBLIC_HUB)]
    endpoint: String,
    /// Connections for one file at once
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    connections: u8,
    /// Read files that are there already, and compare their digest
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    folders: FolderArgs,
}

/// An error with the advice that belongs to it.
fn failure(error: Error) -> Failure {
    let mend = error.mend();
    match error {
        Error::NoSet { .. } | Error::Set { .. } | Error::Endpoint(_) => Failure::usage(error),
        _ => Failure::from(error),
    }
    .hint(mend)
}

pub(super) fn run(args: Args) -> Result {
    if args.list {
        return list(args.json);
    }
    let sets = args.sets.iter().map(|name| Set::find(name)).collect::<fetch::Result<Vec<_>>>();
    let sets = sets.map_err(failure)?;
    let mut folders = args.folders.folders()?;
    if let Some(dir) = &args.dir {
        folders.models = std::path::absolute(dir)?;
    }
    let hub = Hub::new(&args.endpoint, token()).map_err(failure)?;
    let options = Options { connections: args.connections.into(), verify: args.verify, ..Options::default() };
    // A hub that is away at the start is told of soon; one that goes away on the way is waited for.
    let patience = Patience { tries: 3, ..options.patience };
    let search = Search { folders: &folders, hub: &hub, patience, verify: args.verify };
    let plan = Plan::new(&sets, search).map_err(failure)?;
    let free = plan.free().map_err(failure)?;
    if !args.json {
        print(&shown(&plan, &hub, free));
    }
    plan.check_room().map_err(failure)?;
    if !args.dry_run {
        let screen = Screen::new(&plan);
        let done = fetch::fetch(&hub, &plan, options, &|step| screen.show(step));
        screen.end();
        done.map_err(failure)?;
    }
    match (args.json, args.dry_run) {
        (true, _) => print(&format!("{:#}\n", document(&plan, &hub, free, !args.dry_run))),
        (false, true) => {}
        (false, false) => print("every file is there\n"),
    }
    Ok(())
}

/// The user's token for the hub.
fn token() -> Option<String> {
    let given = std::env::var("HF_TOKEN").ok().filter(|token| !token.trim().is_empty());
    given.or_else(|| {
        // The crate ends the process where there is no home.
        let has_home = std::env::var_os("HF_HOME").is_some() || std::env::home_dir().is_some();
        has_home.then(hf_hub::Cache::from_env)?.token()
    })
}

fn list(as_json: bool) -> Result {
    let sets = Set::shipped().map_err(failure)?;
    if as_json {
        let all: Vec<_> = sets
            .iter()
            .map(|set| {
                let files: Vec<_> = set.files.iter().map(|file| {
                    json!({"repository": file.repository, "path": file.path, "folder": file.folder, "size": file.size, "sha256": file.sha256})
                }).collect();
                json!({"name": set.name, "about": set.about, "licence": set.licence, "size": set.size(), "files": files})
            })
            .collect();
        print(&format!("{:#}\n", Json::Array(all)));
        return Ok(());
    }
    for set in sets {
        let size = set.size().map_or_else(String::new, |size| format!("{}, ", DecimalBytes(size)));
        print(&format!("{}\n  {}; {size}{}\n", set.name, set.about, set.licence));
        for file in &set.files {
            print(&format!("  {}/{}  from {}\n", file.folder, file.name(), file.repository));
        }
    }
    Ok(())
}

/// What a person should know before anything is downloaded.
fn shown(plan: &Plan, hub: &Hub, free: u64) -> String {
    let mut lines = Vec::new();
    let mut set = "";
    for item in &plan.items {
        if set != item.set {
            set = &item.set;
            lines.push(format!("{set}, licence {}, from {}", item.licence, hub.address()));
        }
        let size = DecimalBytes(item.size).to_string();
        lines.push(format!("  {size:>10}  {} {}", item.file.repository, item.file.path));
        lines.push(match &item.state {
            State::Present(path) => format!("{:14}is there: {}", "", path.display()),
            State::Missing { there: 0, .. } => format!("{:14}goes to {}", "", item.target.display()),
            State::Missing { there, .. } => {
                format!("{:14}goes to {}, {} are there", "", item.target.display(), DecimalBytes(*there))
            }
        });
    }
    lines.push(format!("{} to download, {} free\n", DecimalBytes(plan.needed()), DecimalBytes(free)));
    lines.join("\n")
}

fn document(plan: &Plan, hub: &Hub, free: u64, done: bool) -> Json {
    let file = |item: &Item| {
        let (state, place) = match &item.state {
            State::Present(path) => ("present", path),
            State::Missing { .. } => (if done { "fetched" } else { "missing" }, &item.target),
        };
        json!({
            "set": item.set, "licence": item.licence, "repository": item.file.repository, "path": item.file.path,
            "folder": item.file.folder, "size": item.size, "sha256": item.sha256, "needed": item.needed(),
            "state": state, "place": place,
        })
    };
    let files: Vec<_> = plan.items.iter().map(file).collect();
    json!({"endpoint": hub.address(), "token": hub.has_token(), "needed": plan.needed(), "free": free, "files": files})
}
