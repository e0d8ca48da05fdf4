//! `comfyd plan`: what a graph would cost on a device, without computing it.
//!
//! The graph runs for real, over networks that only tell what they would do; what they tell is then played to the owner
//! of memory on a simulated device.

mod machine;
mod replay;
mod table;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;

use super::arithmetic::ArithmeticArgs;
use super::folders::FolderArgs;
use super::memory::MemoryArgs;
use super::models::Needs;
use super::run::{Error, GraphArgs};
use super::{Failure, Result, print, warn};
use crate::graph::{self, CachePolicy, End, Event, Executor, Registry, Request};
use crate::model::dry::Ledger;
use crate::model::estimate::Estimate;
use crate::model::layouts::PUBLISHED;
use crate::nodes::{self, Services};
use crate::paths::Folders;
use crate::stop::Stop;
use crate::weights::Layout;

use machine::Machine;

/// Tell what a graph would cost on a device, without computing it
///
/// Every node runs, but networks give zeros and say what they would have done. Files of Qwen-Image-Edit that are not here
/// are taken as published. Times are predictions; what they assume is told below them.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLES\n  comfyd plan workflows/qwen_image_edit_2509.json --device rtx3090\n  comfyd plan workflow.json --device rtx3090 --memory-budget 12GiB --set 3.steps=8 --json"
)]
pub struct Args {
    #[command(flatten)]
    graph: GraphArgs,
    /// The device: cpu, which is measured for a moment, or rtx3090
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = machine::NAMES)]
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folders: FolderArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    arithmetic: ArithmeticArgs,
}

pub(super) fn run(args: Args) -> Result {
    let scratch = tempfile::tempdir().map_err(Error::Scratch)?;
    let registry = nodes::registry();
    let (graph, mut folders) = args.graph.prepare(&args.folders, scratch.path(), &registry)?;
    folders.output = scratch.path().join("output");
    supply(&mut folders, scratch.path(), &graph, &registry)?;
    let arithmetic = args.arithmetic.arithmetic();
    let mut machine = Machine::named(&args.device, arithmetic.diffusion, scratch.path())?;
    if let Some(budget) = args.memory.memory_budget {
        machine.memory = budget;
    }
    let ledger = Ledger::default();
    let services = Services { arithmetic, ledger: Some(ledger.clone()), ..Services::new(folders) };
    rehearse(Json::Object(graph), registry, services)?;
    let entries: Vec<Estimate> = ledger.entries();
    if entries.is_empty() {
        return Err(Failure::from(
            "no network is used by what this graph makes, so there is nothing to plan",
        ));
    }
    let played = replay::play(&entries, &machine)?;
    let told = if args.json {
        format!("{:#}\n", table::document(&played, &machine))
    } else {
        table::told(&played, &machine)
    };
    print(&told);
    Ok(())
}

/// Makes files for what a graph names and the folders lack, as far as it is known what they hold.
fn supply(
    folders: &mut Folders,
    scratch: &Path,
    graph: &serde_json::Map<String, Json>,
    registry: &Registry<Services>,
) -> Result {
    let services = Services::new(folders.clone());
    let mut supplied = serde_json::Map::new();
    for need in Needs::of(graph, registry, &services).files.into_iter().filter(|need| need.mend.is_some()) {
        let published = PUBLISHED.iter().find(|published| published.folder == need.folder);
        let (layout, taken) = match published {
            Some(published) => (published.layout()?, format!("taken as {} is published", published.name)),
            // A file without tensors changes nothing.
            None if need.folder == "loras" => (Layout::parse("")?, "its cost is left out".to_owned()),
            None => continue,
        };
        warn(&format!("{}/{} is not here; {taken}", need.folder, need.name));
        let path = scratch.join(need.folder).join(&need.name);
        let written = std::fs::create_dir_all(path.parent().unwrap_or(scratch))
            .and_then(|()| layout.write_empty(&path));
        written.map_err(Error::Scratch)?;
        supplied.insert(need.folder.to_owned(), Json::from(need.folder));
    }
    if !supplied.is_empty() {
        // JSON is YAML as well.
        let file = scratch.join("supplied.yaml");
        let text = serde_json::json!({ "supplied": supplied }).to_string();
        std::fs::write(&file, text).map_err(Error::Scratch)?;
        folders.add_extra_paths(&file)?;
    }
    Ok(())
}

/// Runs the graph over networks that give zeros.
fn rehearse(graph: Json, registry: Registry<Services>, services: Services) -> Result {
    let (registry, services) = (Arc::new(registry), Arc::new(services));
    let checked =
        graph::check(graph, &registry, services.as_ref(), None).map_err(|refusal| match refusal {
            graph::Refusal::OutputsFailed(problems) => Error::Problems(problems),
            other => Error::Refused(other),
        })?;
    let mut failure = None;
    let mut executor = Executor::new(services, registry, CachePolicy::None);
    let outcome = executor.run(&checked.plan, &Request::default(), &Stop::new(), &mut |event| {
        if let Event::Failed(failed) = event {
            failure = Some(failed);
        }
    });
    match (outcome.end, failure) {
        (End::Succeeded, _) => Ok(()),
        (_, Some(failure)) => Err(Error::Failed(Box::new(failure)).into()),
        _ => Err(Error::Interrupted.into()),
    }
}
