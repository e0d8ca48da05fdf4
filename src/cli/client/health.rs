//! `comfyd health`: the probe of containers, which need no other program for it.

use std::time::Duration;

use serde_json::Value as Json;

use crate::cli::{Failure, Result, print};

/// Ask the server on this machine whether it lives; exit status 0 if so, 1 if not
#[derive(Debug, clap::Args)]
pub struct HealthArgs {
    /// Ask whether it takes and runs jobs
    #[arg(long)]
    pub ready: bool,
    /// Where it listens
    #[arg(long, default_value_t = 8188, env = "COMFYD_PORT")]
    pub port: u16,
    /// How long the answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub timeout: u64,
}

pub(in crate::cli) fn health(args: &HealthArgs) -> Result {
    let url = format!("http://127.0.0.1:{}/{}", args.port, if args.ready { "ready" } else { "health" });
    let patience = Duration::from_secs(args.timeout);
    // No proxy stands between a machine and itself.
    let agent =
        crate::http_client::configure().proxy(None).timeout_global(Some(patience)).build().new_agent();
    let answer = agent
        .get(&url)
        .call()
        .and_then(|mut answer| Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?)));
    let (status, text) = answer.map_err(|error| Failure::from(format!("{url} does not answer: {error}")))?;
    let told: Json = serde_json::from_str(&text).unwrap_or_default();
    let word = told["status"].as_str().unwrap_or("unknown");
    if status == 200 {
        print(&format!("{word}\n"));
        return Ok(());
    }
    Err(format!("{url} answered {status}: {word}").into())
}
