//! `comfyd queue` and `comfyd cancel`: the jobs of a server.

use serde_json::{Value as Json, json};

use super::{Client, ServerArgs};
use crate::cli::{Failure, Result, print};

/// List the jobs that run and wait
#[derive(Debug, clap::Args)]
pub struct QueueArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

pub(in crate::cli) fn queue(args: &QueueArgs) -> Result {
    let queue = Client::new(&args.server)?.get("/queue")?;
    if args.json {
        print(&format!("{queue:#}\n"));
        return Ok(());
    }
    let mut waiting: Vec<&Json> = queue["queue_pending"].as_array().into_iter().flatten().collect();
    // The server keeps them as a heap.
    waiting.sort_by(|one, other| number(one).total_cmp(&number(other)));
    let running = queue["queue_running"].as_array().into_iter().flatten();
    let lines = running.map(|job| ("running", job)).chain(waiting.into_iter().map(|job| ("waiting", job)));
    let mut empty = true;
    for (state, job) in lines {
        empty = false;
        let nodes = job[2].as_object().map_or(0, serde_json::Map::len);
        print(&format!("{state}  {}  {nodes} nodes\n", job[1].as_str().unwrap_or_default()));
    }
    if empty {
        print("nothing runs or waits\n");
    }
    Ok(())
}

fn number(job: &Json) -> f64 {
    job[0].as_f64().unwrap_or(f64::INFINITY)
}

/// Stop jobs, or take them out of the queue
#[derive(Debug, clap::Args)]
pub struct CancelArgs {
    /// The ids of the jobs
    #[arg(required_unless_present = "all")]
    pub ids: Vec<String>,
    /// Stop everything
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

pub(in crate::cli) fn cancel(args: &CancelArgs) -> Result {
    let client = Client::new(&args.server)?;
    if args.all {
        client.post("/queue", &json!({"clear": true}))?;
        client.post("/interrupt", &json!({}))?;
        return Ok(());
    }
    let queue = client.get("/queue")?;
    let known = |key: &str, id: &str| {
        let mut jobs = queue[key].as_array().into_iter().flatten();
        jobs.any(|job| job[1] == id)
    };
    for id in &args.ids {
        if known("queue_running", id) {
            client.post("/interrupt", &json!({"prompt_id": id}))?;
        } else if known("queue_pending", id) {
            client.post("/queue", &json!({"delete": [id]}))?;
        } else {
            let unknown = format!("no job {id} runs or waits");
            return Err(Failure::usage(unknown).hint("`comfyd queue` lists the jobs"));
        }
        print(&format!("cancelled {id}\n"));
    }
    Ok(())
}
