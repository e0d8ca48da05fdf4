//! `comfyd validate`: what a server would answer to a graph, without running it.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::client::{Client, ServerArgs};
use super::folders::FolderArgs;
use super::{Failure, Result, graph_file, print, warn};
use crate::api;
use crate::nodes::{self, Services};

/// Judge a graph as `POST /prompt` would, without running it
///
/// Without --url it is judged here, against the models and pictures in the folders; with --url by that comfyd.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
EXIT STATUS
  0  the server would run it, be it in part
  1  the server would refuse it, or it cannot be read
  2  bad usage

EXAMPLES
  comfyd validate workflow.json
  comfyd validate workflow.json --json | jq .node_errors")]
pub struct Args {
    /// The graph: in API format, as the editor saves it, or inside a PNG
    pub graph: PathBuf,
    /// Print `error` and `node_errors` as the server would
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub folders: FolderArgs,
    #[command(flatten)]
    pub server: ServerArgs,
}

pub(super) fn run(args: &Args) -> Result {
    let (registry, services) = (nodes::registry(), Services::new(args.folders.folders()?));
    let graph = graph_file::read(&args.graph, &registry, &services)?;
    if graph.converted {
        warn(
            "this is a file of ComfyUI's editor: it is judged as converted, and refused if it is posted as it is",
        );
    }
    let judged = match args.server.url {
        Some(_) => Client::new(&args.server)?.judge(&json!({"prompt": graph.prompt}))?,
        None => api::judge(graph.prompt.into(), &registry, &services),
    };
    let (Ok(answer) | Err(answer)) = &judged;
    if args.json {
        print(&format!("{answer:#}\n"));
    } else {
        print(&told(answer));
    }
    match judged {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::from("the server would refuse this graph")),
    }
}

/// The answer for people to read.
fn told(answer: &Json) -> String {
    let word = |value: &Json, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let mut told = match &answer["error"] {
        Json::Null => String::new(),
        error => {
            format!("{}: {}  ({})\n", word(error, "message"), word(error, "details"), word(error, "type"))
        }
    };
    // Writing to a text cannot fail.
    for (node, complaints) in answer["node_errors"].as_object().into_iter().flatten() {
        let _ = writeln!(told, "node {node} ({})", word(complaints, "class_type"));
        for complaint in complaints["errors"].as_array().into_iter().flatten() {
            let (message, details) = (word(complaint, "message"), word(complaint, "details"));
            let _ = writeln!(told, "  {message}: {details}  ({})", word(complaint, "type"));
        }
    }
    if told.is_empty() { "nothing is wrong with it\n".to_owned() } else { told }
}
