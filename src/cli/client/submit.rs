//! `comfyd submit` and `comfyd wait`: a graph to a server, and its pictures back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value as Json, json};

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
    /// The graph: in API format, as the editor saves it, or inside a PNG
    pub graph: PathBuf,
    /// Upload FILE and give it to node NODE (its input `image`); may be repeated
    #[arg(long, value_name = "NODE=FILE", value_parser = parse_image)]
    pub image: Vec<(NodeId, PathBuf)>,
    /// Set an input of a node; VALUE is JSON, or else plain text; may be repeated
    #[arg(long, value_name = "NODE.INPUT=VALUE", value_parser = parse_setting)]
    pub set: Vec<Setting>,
    /// Wait until the job has ended
    #[arg(long)]
    pub wait: bool,
    /// Wait, and write the pictures here
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub server: ServerArgs,
}

pub(in crate::cli) fn submit(args: SubmitArgs) -> Result {
    let client = Client::new(&args.server)?;
    let services = Services::new(Folders::below("."));
    let mut graph = graph_file::read(&args.graph, &nodes::registry(), &services)?.prompt;
    for setting in args.set {
        setting.apply(&mut graph)?;
    }
    for (node, file) in &args.image {
        let name = client.upload(file)?;
        *input_of(&mut graph, node, "image")? = Json::String(name);
    }
    let answer = client.post("/prompt", &json!({"prompt": graph}))?;
    let id = answer["prompt_id"].as_str().unwrap_or_default();
    print(&format!("{id}\n"));
    if args.wait || args.output.is_some() {
        follow(&client, id, args.output.as_deref())?;
    }
    Ok(())
}

/// Wait for a job to end, and fetch its pictures
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    /// The id of the job
    pub id: String,
    /// Write the pictures here
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub server: ServerArgs,
}

pub(in crate::cli) fn wait(args: &WaitArgs) -> Result {
    follow(&Client::new(&args.server)?, &args.id, args.output.as_deref())
}

fn follow(client: &Client, id: &str, output: Option<&Path>) -> Result {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    let bar =
        ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(100));
    let entry = ended(client, id, &bar);
    bar.finish_and_clear();
    let entry = entry?;
    let status = &entry["status"];
    if status["status_str"] != "success" {
        return Err(reason(status).into());
    }
    for outputs in entry["outputs"].as_object().into_iter().flat_map(serde_json::Map::values) {
        for picture in outputs["images"].as_array().into_iter().flatten() {
            show(client, picture, output)?;
        }
    }
    Ok(())
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
fn reason(status: &Json) -> String {
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

/// Names a picture, and writes it where it is wanted.
fn show(client: &Client, picture: &Json, output: Option<&Path>) -> Result {
    let name = picture["filename"].as_str().unwrap_or_default();
    let Some(folder) = output else {
        print(&format!("{name}\n"));
        return Ok(());
    };
    // A server must not choose a place outside the folder.
    let name = Path::new(name).file_name().ok_or("the server named a picture without a name")?;
    let path = folder.join(name);
    let unwritable = |source| Error::Write { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(unwritable)?;
    std::fs::write(&path, client.picture(picture)?).map_err(unwritable)?;
    print(&format!("{}\n", path.display()));
    Ok(())
}
