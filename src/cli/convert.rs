//! `comfyd convert`: the prompt inside a workflow file or a picture.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::folders::FolderArgs;
use super::{Result, graph_file, print, warn};
use crate::nodes::{self, Services};

/// Turn a workflow of ComfyUI's editor, or the graph inside a picture, into API format
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE\n  comfyd convert workflow.json --output prompt.json\n  comfyd convert picture.png | comfyd run /dev/stdin"
)]
pub struct Args {
    /// A file that the editor saved, a prompt in API format, or a PNG that carries one of them
    pub graph: PathBuf,

    /// Write here instead of printing
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    #[command(flatten)]
    pub folders: FolderArgs,
}

pub(super) fn run(args: Args) -> Result {
    let services = Services::new(args.folders.folders()?);
    let graph = graph_file::read(&args.graph, &nodes::registry(), &services)?;
    if !graph.unknown.is_empty() {
        warn(&format!("this server lacks the nodes {}", graph.unknown.join(", ")));
    }
    let mut text = serde_json::to_string_pretty(&Json::Object(graph.prompt))?;
    text.push('\n');
    match args.output {
        Some(path) => std::fs::write(path, text)?,
        None => print(&text),
    }
    Ok(())
}
