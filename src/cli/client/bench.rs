//! `comfyd bench`: how long a server takes for a graph, in all, node by node and step by step.

mod figures;
mod picture;
mod run;

use serde_json::{Map, Value as Json, json};

use super::submit::Graph;
use super::{Client, ServerArgs};
use crate::cli::make_checkpoint::{self, MakeArgs};
use crate::cli::{Failure, Result, print, print_progress, warn};

use figures::Figures;
use run::Watch;

/// Measure how long a running server takes for a graph
///
/// Each run gets other seeds, so that the server's cache does not answer; models stay loaded. Times are those of the
/// websocket's messages, and of the server's history.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE\n  comfyd bench workflow.json --count 10 --warm 2 --set 3.steps=8")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    with: Option<With>,
    #[command(flatten)]
    graph: Option<Graph>,
    /// Runs that are measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Runs before, which load models and are not measured
    #[arg(long, value_name = "N", default_value_t = 1)]
    warm: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// What else one needs for measuring.
#[derive(Debug, clap::Subcommand)]
enum With {
    MakeCheckpoint(MakeArgs),
}

pub(in crate::cli) fn bench(args: BenchArgs) -> Result {
    match (&args.with, &args.graph) {
        (Some(With::MakeCheckpoint(make)), _) => make_checkpoint::run(make),
        (None, Some(graph)) => measure(graph, &args),
        // clap lets nobody leave the graph out.
        (None, None) => Err(Failure::usage("expected a graph")),
    }
}

fn measure(asked: &Graph, args: &BenchArgs) -> Result {
    let client = Client::new(&args.server)?;
    let mut graph = asked.prepare(&client)?;
    let mut watch = Watch::open(&client)?;
    let mut seeds = Seeds::find(&graph);
    if seeds.0.is_empty() {
        warn("no node of this graph has a seed, so that the cache may answer instead of the nodes");
    }
    for number in 1..=args.warm {
        seeds.next(&mut graph);
        let run = watch.run(&client, &graph)?;
        print_progress(&format!("warm-up {number}: {:.3} s", run.total.as_secs_f64()));
    }
    let mut figures = Figures::default();
    let mut made = Vec::new();
    for number in 1..=args.count {
        seeds.next(&mut graph);
        let run = watch.run(&client, &graph)?;
        print_progress(&format!("run {number}: {:.3} s", run.total.as_secs_f64()));
        made.clone_from(&run.pictures);
        figures.add(run);
    }
    let classes = |node: &str| graph[node]["class_type"].as_str().unwrap_or_default().to_owned();
    if args.json {
        let mut told = figures.document(&classes);
        told["url"] = json!(client.url());
        told["graph"] = json!(asked.file);
        told["warm"] = json!(args.warm);
        print(&format!("{told:#}\n"));
    } else {
        print(&figures.table(&classes));
    }
    if decodes(&graph) { look_at(&client, &made) } else { Ok(()) }
}

/// Whether the pictures of a graph come out of a network; others may be as flat as they like.
fn decodes(graph: &Map<String, Json>) -> bool {
    let mut classes = graph.values().filter_map(|node| node["class_type"].as_str());
    classes.any(|class| class.starts_with("VAEDecode"))
}

/// Time is well spent only where something is to be seen.
fn look_at(client: &Client, pictures: &[Json]) -> Result {
    for picture in pictures {
        if picture::is_flat(&client.picture(picture)?) {
            let name = picture["filename"].as_str().unwrap_or_default();
            let flat = Failure::from(format!("{name} shows nothing but one colour"));
            return Err(flat.hint("`comfyd models check GRAPH` looks whether the files belong together"));
        }
    }
    Ok(())
}

/// Inputs that only make a result another one.
const SEEDS: [&str; 2] = ["seed", "noise_seed"];

/// The seeds of a graph, and how far they have been moved.
struct Seeds(Vec<(String, &'static str)>, u64);

impl Seeds {
    fn find(graph: &Map<String, Json>) -> Self {
        let of = |(node, content): (&String, &Json)| {
            let there = SEEDS.into_iter().filter(|input| content["inputs"][*input].is_number());
            there.map(|input| (node.clone(), input)).collect::<Vec<_>>()
        };
        // Another bench may have run before: its seeds must not be met again.
        let start = u64::from(uuid::Uuid::new_v4().as_fields().0);
        Self(graph.iter().flat_map(of).collect(), start)
    }

    fn next(&mut self, graph: &mut Map<String, Json>) {
        self.1 += 1;
        for (node, input) in &self.0 {
            graph[node]["inputs"][*input] = self.1.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_that_is_a_number_moves() {
        let graph = json!({
            "a": {"class_type": "KSampler", "inputs": {"seed": 7, "steps": 3}},
            "b": {"class_type": "RandomNoise", "inputs": {"noise_seed": 7}},
            "c": {"class_type": "KSampler", "inputs": {"seed": ["b", 0]}},
            "d": {"class_type": "PreviewImage"},
        });
        let mut graph = graph.as_object().expect("an object").clone();
        let mut seeds = Seeds::find(&graph);
        seeds.next(&mut graph);
        let first = graph["a"]["inputs"]["seed"].clone();
        assert_eq!(first, graph["b"]["inputs"]["noise_seed"]);
        seeds.next(&mut graph);
        assert_ne!(first, graph["a"]["inputs"]["seed"]);
        assert_eq!(graph["a"]["inputs"]["steps"], 3);
        assert!(graph["c"]["inputs"]["seed"].is_array());
    }
}
