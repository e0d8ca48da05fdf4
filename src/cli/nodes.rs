//! `comfyd nodes`: which nodes exist, and which a graph lacks.

use std::path::PathBuf;

use super::folders::FolderArgs;
use super::{Failure, Result, graph_file, print};
use crate::nodes::{self, Services};

/// List the nodes there are, or those that graphs need and this server lacks
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXIT STATUS\n  0  every node is there\n  1  a graph lacks nodes, or cannot be read\n  2  bad usage"
)]
pub struct Args {
    /// Graphs in any form; for each, the nodes it lacks are told
    pub graphs: Vec<PathBuf>,

    #[command(flatten)]
    pub folders: FolderArgs,
}

pub(super) fn run(args: &Args) -> Result {
    let registry = nodes::registry();
    if args.graphs.is_empty() {
        for node in registry.iter() {
            let card = node.card();
            print(&format!("{:40} {:40} {}\n", card.class, card.shown_title(), card.category));
        }
        return Ok(());
    }
    let services = Services::new(args.folders.folders()?);
    let mut incomplete = 0;
    for path in &args.graphs {
        let told = match graph_file::read(path, &registry, &services) {
            Ok(graph) if graph.unknown.is_empty() => format!("all {} nodes are there", graph.prompt.len()),
            Ok(graph) => {
                incomplete += 1;
                format!("lacks {}", graph.unknown.join(", "))
            }
            Err(error) => {
                incomplete += 1;
                Failure::from(error).to_string().trim_end().replace('\n', ";")
            }
        };
        print(&format!("{}: {told}\n", path.display()));
    }
    match incomplete {
        0 => Ok(()),
        count => Err(format!("{count} of {} graphs cannot run here", args.graphs.len()).into()),
    }
}
