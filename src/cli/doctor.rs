//! `comfyd doctor`: what is wrong with this machine, these folders and a running server, and what helps.

mod files;
mod machine;
mod network;
mod server;

use std::path::Path;

use super::client::ServerArgs;
use super::folders::FolderArgs;
use super::report::{self, Line};
use super::{Result, serve, token};
use crate::auth::{Audit, Places};
use crate::paths::Folders;

/// Look whether everything is as a server needs it, and say what helps where it is not
///
/// With --url, or where a comfyd runs at the port already, the server is asked as well: whether it takes the token, and
/// why it refused requests.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
EXIT STATUS
  0  nothing is broken; warnings do not count
  1  something is
  2  bad usage")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Addresses that the server shall listen on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1", env = "COMFYD_LISTEN")]
    pub listen: String,
    /// Port that the server shall listen on
    #[arg(long, default_value_t = 8188, env = "COMFYD_PORT")]
    pub port: u16,
    #[command(flatten)]
    pub folders: FolderArgs,
    #[command(flatten)]
    pub server: ServerArgs,
}

pub(super) fn run(args: &Args) -> Result {
    let folders = args.folders.folders()?;
    let addresses = serve::addresses(&args.listen, args.port)?;
    let places = token::places(&folders.base, args.server.token_file.as_deref());
    let mut lines = machine::lines(Path::new("/"), &folders);
    lines.extend(files::lines(&folders));
    let (audit, told) = tokens(&places, &folders);
    lines.extend(told);
    let open = addresses.iter().any(|address| !address.ip().is_loopback());
    if open && audit.is_none() && !places.password_file().parent().is_some_and(Path::is_dir) {
        let found =
            format!("there is none, and {} is open to other machines: the server refuses that", args.listen);
        lines.push(Line::fail("token", found, "`comfyd token new` makes one"));
    }
    let port = network::port(&addresses);
    let running = port.running.clone();
    lines.extend(port.lines);
    lines.extend(network::proxies(&|name| std::env::var(name).ok()));
    if let Some(url) = args.server.url.clone().or(running) {
        let asked = ServerArgs { url: Some(url), ..args.server.clone() };
        lines.extend(server::lines(&asked, audit.as_ref()));
    }
    report::conclude(&lines, args.json)
}

/// The places of the token and the register of those with names.
fn tokens(places: &Places, folders: &Folders) -> (Option<Audit>, Vec<Line>) {
    let mut lines = Vec::new();
    let audit = match places.audit(None, &[], &token::variables()) {
        Ok(Some(audit)) => {
            lines.extend(token::lines(&audit));
            Some(audit)
        }
        Ok(None) => {
            let found = "there is none: every program on this machine may use the server, and nobody else; nobody at all \
                         where a login is asked for";
            lines.push(Line::ok("token", found));
            None
        }
        Err(error) => {
            let mend =
                "mend the file, or take the token of another place with `comfyd token sync --from FILE`";
            lines.push(Line::fail("token", error.to_string(), mend));
            None
        }
    };
    match places.named() {
        Ok(named) => {
            let over = named.iter().filter(|named| named.has_expired()).count();
            if over > 0 {
                let found = format!("{over} of {} tokens with names have expired", named.len());
                lines.push(Line::warn("named tokens", found, "`comfyd token list` shows whose"));
            }
        }
        Err(error) => {
            let mend = format!("mend or delete it; then make the tokens anew, in {}", folders.base.display());
            lines.push(Line::fail("named tokens", error.to_string(), mend));
        }
    }
    (audit, lines)
}
