//! `comfyd models`: what lies in the model folders, what is wrong with it, and what graphs lack.

pub(super) mod inventory;
mod needs;

use std::path::{Path, PathBuf};

use indicatif::DecimalBytes;
use serde_json::{Value as Json, json};

use super::folders::FolderArgs;
use super::report::{Level, Line};
use super::{Result, print};
use crate::nodes::{self, Services};
use inventory::Entry;
pub(super) use needs::Needs;

/// List the model files there are, or check them and what graphs need
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXIT STATUS\n  0  all is well; warnings do not count\n  1  a file cannot work, or a graph lacks something\n  2  bad usage\n\nEXAMPLES\n  comfyd models list\n  comfyd models check workflows/qwen_image_edit_2509.json"
)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Every file in the model folders: what it is, its types, numbers and size
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        folders: Box<FolderArgs>,
    },
    /// What is wrong with the files, and what graphs need and lack
    Check {
        /// Graphs in any form
        graphs: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        folders: Box<FolderArgs>,
    },
}

pub(super) fn run(args: Args) -> Result {
    match args.action {
        Action::List { json, folders } => {
            list(&inventory::read(&folders.folders()?), json);
            Ok(())
        }
        Action::Check { graphs, json, folders } => check(&graphs, json, &folders),
    }
}

fn list(entries: &[Entry], as_json: bool) {
    if as_json {
        print(&format!("{:#}\n", entries.iter().map(document).collect::<Json>()));
        return;
    }
    for entry in entries {
        let place = format!("{}/{}", entry.folder, entry.name);
        let size = DecimalBytes(entry.size).to_string();
        let about = match &entry.content {
            Ok(content) => {
                let dtypes: Vec<_> = content.dtypes.iter().map(|(name, _)| *name).collect();
                format!("{}, {} in {}", content.identity.kind, count(content.parameters), dtypes.join(" "))
            }
            Err(_) => "cannot be used, see `comfyd models check`".to_owned(),
        };
        print(&format!("{place}\n  {size}, {about}\n"));
    }
    if entries.is_empty() {
        print("there are none; `comfyd fetch-models` gets some\n");
    }
}

/// `20.4 billion numbers`.
fn count(parameters: u64) -> String {
    match parameters {
        0..1_000_000 => format!("{parameters} numbers"),
        1_000_000..1_000_000_000 => format!("{:.1} million numbers", parameters as f64 / 1e6),
        _ => format!("{:.1} billion numbers", parameters as f64 / 1e9),
    }
}

fn document(entry: &Entry) -> Json {
    let content = entry.content.as_ref().ok();
    let dtypes = content.map(|content| {
        content
            .dtypes
            .iter()
            .map(|(name, count)| ((*name).to_owned(), json!(count)))
            .collect::<serde_json::Map<_, _>>()
    });
    json!({
        "folder": entry.folder, "name": entry.name, "path": entry.path, "size": entry.size,
        "families": content.map(|content| &content.identity.families),
        "kind": content.map(|content| &content.identity.kind),
        "parameters": content.map(|content| content.parameters), "dtypes": dtypes,
        "problem": entry.content.as_ref().err().map(ToString::to_string),
    })
}

fn check(graphs: &[PathBuf], as_json: bool, folders: &FolderArgs) -> Result {
    let folders = folders.folders()?;
    let entries = inventory::read(&folders);
    let faults = inventory::faults(&entries, &folders);
    let (registry, services) = (nodes::registry(), Services::new(folders));
    let needs: Vec<_> =
        graphs.iter().map(|graph| (graph.as_path(), Needs::read(graph, &registry, &services))).collect();
    if as_json {
        print(&format!("{:#}\n", report(&entries, &faults, &needs)));
    } else {
        print(&format!("{} files in the model folders\n", entries.len()));
        faults.iter().for_each(Line::tell);
        for (graph, needs) in &needs {
            tell_needs(graph, needs);
        }
    }
    let fatal = faults.iter().filter(|fault| fault.level == Level::Fail).count();
    let unmet = needs.iter().filter(|(_, needs)| !needs.as_ref().is_ok_and(Needs::are_met)).count();
    match (fatal, unmet) {
        (0, 0) => Ok(()),
        (0, _) => Err(format!("{unmet} of {} graphs cannot run here", graphs.len()).into()),
        _ => {
            Err(format!("to mend in the model folders: {fatal}; graphs that cannot run here: {unmet}").into())
        }
    }
}

fn tell_needs(graph: &Path, needs: &Result<Needs>) {
    let needs = match needs {
        Ok(needs) => needs,
        Err(failure) => {
            let told = failure.to_string();
            print(&format!("fail  {}: {}\n", graph.display(), told.trim_end().replace('\n', ";")));
            return;
        }
    };
    let level = if needs.are_met() { "ok  " } else { "fail" };
    print(&format!("{level}  {}\n", graph.display()));
    for need in &needs.files {
        let state =
            need.mend.as_ref().map_or_else(|| "is there".to_owned(), |mend| format!("is not there: {mend}"));
        print(&format!("      {}/{} {state}\n", need.folder, need.name));
    }
    if !needs.unknown.is_empty() {
        print(&format!("      this server lacks the nodes {}\n", needs.unknown.join(", ")));
    }
}

fn report(entries: &[Entry], faults: &[Line], needs: &[(&Path, Result<Needs>)]) -> Json {
    let graph = |(path, needs): &(&Path, Result<Needs>)| {
        let mut told = match needs {
            Ok(needs) => needs.document(),
            Err(failure) => json!({"ok": false, "error": failure.to_string()}),
        };
        told["graph"] = json!(path);
        told
    };
    let faults: Vec<_> = faults.iter().map(Line::document).collect();
    json!({"files": entries.len(), "faults": faults, "graphs": needs.iter().map(graph).collect::<Json>()})
}
