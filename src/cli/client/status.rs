//! `comfyd status` and `comfyd logs`: how a server does, and what it said.

use std::time::Duration;

use indicatif::HumanBytes;
use serde_json::{Value as Json, json};

use super::{Client, ServerArgs};
use crate::cli::{Result, print};

/// Show how a running server does
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

pub(in crate::cli) fn status(args: &StatusArgs) -> Result {
    let client = Client::new(&args.server)?;
    let stats = client.get("/system_stats")?;
    let queue = client.get("/queue")?;
    let count = |key: &str| queue[key].as_array().map_or(0, Vec::len);
    let (running, waiting) = (count("queue_running"), count("queue_pending"));
    if args.json {
        let told = json!({"url": client.url(), "stats": stats, "running": running, "waiting": waiting});
        print(&format!("{told:#}\n"));
        return Ok(());
    }
    let system = &stats["system"];
    let word = |value: &Json| value.as_str().unwrap_or("unknown").to_owned();
    print(&format!("{} speaks ComfyUI {}\n", client.url(), word(&system["comfyui_version"])));
    for device in stats["devices"].as_array().into_iter().flatten() {
        let bytes = |key: &str| HumanBytes(device[key].as_u64().unwrap_or_default());
        print(&format!(
            "device  {}: {} of {} free\n",
            word(&device["name"]),
            bytes("vram_free"),
            bytes("vram_total")
        ));
    }
    print(&format!("queue   {running} running, {waiting} waiting\n"));
    Ok(())
}

/// Show what a running server logged
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Go on showing what it logs, until stopped
    #[arg(long, short)]
    pub follow: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

pub(in crate::cli) fn logs(args: &LogsArgs) -> Result {
    let client = Client::new(&args.server)?;
    let mut shown: Option<Json> = None;
    loop {
        let logs = client.get("/internal/logs/raw")?;
        let entries = logs["entries"].as_array().map_or(&[][..], Vec::as_slice);
        let seen = shown.as_ref().and_then(|last| entries.iter().rposition(|entry| entry == last));
        for entry in &entries[seen.map_or(0, |place| place + 1)..] {
            print(entry["m"].as_str().unwrap_or_default());
        }
        shown = entries.last().cloned().or(shown);
        if !args.follow {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
