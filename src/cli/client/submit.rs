//! `comfyd submit` and `comfyd wait`: a graph to a server, and its pictures back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value as Json, json};

use super::{Client, Error, ServerArgs};
use crate::cli::run::{Setting, input_of, parse_image, parse_setting};
use crate::cli::{Result, graph_file, print};
use crate::graph::NodeId;
use crate::nodes::{self, Services};
use crate::paths::Folders;

/// How often a job is asked for.
const INTERVAL: Duration = Duration::from_millis(250);

/// Queue a graph on a running server
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE\n  comfyd submit workflow.json --image 78=photo.jpg --set '111.prompt=make it sepia' --output ."
)]
pub struct SubmitArgs {
    #[command(flatten)]
    graph: Graph,
    /// Wait until the job has ended
    #[arg(long)]
    pub wait: bool,
    /// Wait, and write the pictures here
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// A graph and what shall be different in it.
#[derive(Debug, clap::Args)]
pub(super) struct Graph {
    /// The graph: in API format, as the editor saves it, or inside a PNG
    #[arg(id = "graph", value_name = "GRAPH")]
    pub(super) file: PathBuf,
    /// Upload FILE and give it to node NODE (its input `image`); may be repeated
    #[arg(long, value_name = "NODE=FILE", value_parser = parse_image)]
    image: Vec<(NodeId, PathBuf)>,
    /// Set an input of a node; VALUE is JSON, or else plain text; may be repeated
    #[arg(long, value_name = "NODE.INPUT=VALUE", value_parser = parse_setting)]
    set: Vec<Setting>,
}

impl Graph {
    /// Uploads the pictures; the graph as it shall run.
    pub(super) fn prepare(&self, client: &Client) -> Result<Map<String, Json>> {
        let services = Services::new(Folders::below("."));
        let mut graph = graph_file::read(&self.file, &nodes::registry(), &services)?.prompt;
        for setting in &self.set {
            setting.clone().apply(&mut graph)?;
        }
        for (node, file) in &self.image {
            let name = client.upload(file)?;
            *input_of(&mut graph, node, "image")? = Json::String(name);
        }
        Ok(graph)
    }
}

pub(in crate::cli) fn submit(args: SubmitArgs) -> Result {
    let client = Client::new(&args.server)?;
    let graph = args.graph.prepare(&client)?;
    let answer = client.post("/prompt", &json!({"prompt": graph}))?;
    let id = answer["prompt_id"].as_str().unwrap_or_default();
    let wait = args.wait || args.output.is_some();
    match (args.json, wait) {
        (true, false) => print(&format!("{answer:#}\n")),
        (true, true) => {}
        (false, _) => print(&format!("{id}\n")),
    }
    if wait { follow(&client, id, args.output.as_deref(), args.json) } else { Ok(()) }
}

/// Wait for a job to end, and fetch its pictures
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    /// The id of the job
    pub id: String,
    /// Write the pictures here
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

pub(in crate::cli) fn wait(args: &WaitArgs) -> Result {
    follow(&Client::new(&args.server)?, &args.id, args.output.as_deref(), args.json)
}

fn follow(client: &Client, id: &str, output: Option<&Path>, as_json: bool) -> Result {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    let bar =
        ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(100));
    let entry = ended(client, id, &bar);
    bar.finish_and_clear();
    let entry = entry?;
    let status = &entry["status"];
    let mut pictures = Vec::new();
    for outputs in entry["outputs"].as_object().into_iter().flat_map(Map::values) {
        for picture in outputs["images"].as_array().into_iter().flatten() {
            pictures.push(fetch(client, picture, output)?);
        }
    }
    if as_json {
        let told =
            json!({"prompt_id": id, "status": status, "outputs": entry["outputs"], "pictures": pictures});
        print(&format!("{told:#}\n"));
    }
    if status["status_str"] != "success" {
        return Err(reason(status).into());
    }
    if !as_json {
        for picture in pictures {
            print(&format!("{picture}\n"));
        }
    }
    Ok(())
}

/// The entry of a job that is about to be in the history.
pub(super) fn ended_entry(client: &Client, id: &str) -> Result<Json> {
    ended(client, id, &ProgressBar::hidden())
}

/// Waits for the entry of the history.
fn ended(client: &Client, id: &str, bar: &ProgressBar) -> Result<Json> {
    loop {
        let history = client.get(&format!("/history/{id}"))?;
        if let Some(entry) = history.get(id) {
            return Ok(entry.clone());
        }
        let queue = client.get("/queue")?;
        let place = |key: &str| {
            let mut jobs = queue[key].as_array().into_iter().flatten();
            jobs.position(|job| job[1] == id)
        };
        match (place("queue_running"), place("queue_pending")) {
            (Some(_), _) => bar.set_message("running"),
            (None, Some(_)) => bar.set_message("waiting"),
            // It may have ended between the two questions.
            (None, None) => match client.get(&format!("/history/{id}"))?.get(id) {
                Some(entry) => return Ok(entry.clone()),
                None => return Err(format!("the server knows no job {id}").into()),
            },
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Why a job did not succeed.
pub(super) fn reason(status: &Json) -> String {
    let mut messages = status["messages"].as_array().into_iter().flatten().rev();
    let failed = messages.find(|message| message[0] == "execution_error").map(|message| &message[1]);
    failed.map_or_else(
        || "the job was interrupted".to_owned(),
        |error| {
            let word = |key: &str| error[key].as_str().unwrap_or_default().trim_end().to_owned();
            format!("node {} ({}) failed: {}", word("node_id"), word("node_type"), word("exception_message"))
        },
    )
}

/// The name of a picture, or where it was written to.
fn fetch(client: &Client, picture: &Json, output: Option<&Path>) -> Result<String> {
    let name = picture["filename"].as_str().unwrap_or_default();
    let Some(folder) = output else { return Ok(name.to_owned()) };
    // A server must not choose a place outside the folder.
    let name = Path::new(name).file_name().ok_or("the server named a picture without a name")?;
    let path = folder.join(name);
    let unwritable = |source| Error::Write { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(unwritable)?;
    std::fs::write(&path, client.picture(picture)?).map_err(unwritable)?;
    Ok(path.display().to_string())
}
