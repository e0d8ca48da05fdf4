//! `comfyd serve`: the server, from flags to a listening socket.

mod args;
mod connections;
pub(super) mod flags;
mod server;
mod work;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;

use crate::api::{self, Logs};
use crate::auth::{Gate, Places};
use crate::cli::{Failure, Result, config, log};
use crate::frontend;
use crate::graph::CachePolicy;
use crate::nodes;
use crate::paths::Folders;

pub use args::Args;
pub use server::{Error, Server, Setup};

use server::Signals;

const TOKEN_HINT: &str = "add --login to set a password at /login, write a token into login/PASSWORD below the base \
                          directory, name a file with --token-file, or listen on 127.0.0.1";

/// Serves until the process is asked to end.
pub(super) fn run(args: Args, foreign: &[String], arguments: &[OsString]) -> Result {
    let logs = Logs::default();
    let listen = addresses(&args.network.listen, args.network.port)?;
    let gate = gate(&args)?;
    if gate.is_open()
        && let Some(open) = listen.iter().find(|address| !address.ip().is_loopback())
    {
        let refusal = format!("refusing to listen on {} without a token", open.ip());
        return Err(Failure::usage(refusal).hint(TOKEN_HINT));
    }
    let folders = args.folders.folders()?;
    log::start(args.log.level(), args.log.log_format, &logs);
    connections::allow_many();
    tell_oddities(&gate, foreign);
    args.arithmetic.tell(args.device.device);
    let interface = interface(args.network.front_end_root.as_deref(), &folders)?;
    let setup = Setup {
        listen,
        settings: api::Settings {
            patience: api::Patience::default(),
            max_upload_bytes: args.network.max_upload_bytes(),
            cors_origin: args.network.enable_cors_header.clone(),
            compress: args.network.enable_compress_response_body,
            web_root: args.network.front_end_root.clone(),
            open_metrics: args.security.open_metrics,
            argv: arguments.iter().map(|text| text.to_string_lossy().into_owned()).collect(),
        },
        gate,
        registry: nodes::registry(),
        services: nodes::Services {
            previews: args.running.previews(),
            decoded_previews: args.running.decoded_previews(),
            preview_size: args.running.preview_size,
            arithmetic: args.arithmetic.arithmetic(),
            card: args.device.card(),
            memory: args.memory.memory(),
            ledger: None,
            folders,
        },
        cache: cache_policy(&args),
        logs,
        journal: args.running.durability(),
        idle_unload: Some(args.running.idle_unload).filter(|limit| !limit.is_zero()),
        drain: args.running.drain,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let signals = Signals::catch()?;
        let server = Server::start(setup).await?;
        for address in server.addresses() {
            tracing::info!("listening on http://{address}");
        }
        if let Some(address) = server.addresses().first() {
            tracing::info!("open http://{} in a browser for {interface}", reachable(*address));
        }
        server.until(signals).await;
        Ok::<_, Error>(())
    });
    // A request that hangs on the disk must not hold up the end.
    runtime.shutdown_background();
    Ok(served?)
}

/// The addresses behind `--listen`.
pub(super) fn addresses(listen: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for host in listen.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match host.parse::<IpAddr>() {
            Ok(address) => found.push(SocketAddr::new(address, port)),
            Err(_) => found.extend((host, port).to_socket_addrs().map_err(|error| {
                Failure::usage(format!("--listen: `{host}` is no address and no known host: {error}"))
            })?),
        }
    }
    if found.is_empty() {
        return Err(Failure::usage("--listen names no address").hint("try --listen 127.0.0.1"));
    }
    Ok(found)
}

/// What a browser is shown at `/` for now, in words.
fn interface(given: Option<&Path>, folders: &Folders) -> Result<String> {
    match (given, frontend::active(&folders.web)) {
        (Some(root), _) if !root.join("index.html").is_file() => {
            let problem = format!("--front-end-root: there is no index.html in {}", root.display());
            Err(Failure::usage(problem)
                .hint("leave the flag out to serve what `comfyd frontend install` installs"))
        }
        (Some(root), _) => Ok(format!("the web interface in {}", root.display())),
        (None, Some(active)) => Ok(format!("the ComfyUI web interface {}", active.version)),
        (None, None) => {
            Ok("comfyd's own page; `comfyd frontend install` adds the ComfyUI web interface".to_owned())
        }
    }
}

/// The address under which a browser on this machine finds a server that listens on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

/// Who may come in.
fn gate(args: &Args) -> Result<Gate> {
    let mut places = Places::below(&args.folders.base_directory);
    if let Some(file) = &args.security.token_file {
        places = places.only(file);
    }
    Gate::new(places, args.security.policy())
        .map_err(|error| Failure::usage(error).hint("mend the file, or move it away if it means nothing"))
}

fn cache_policy(args: &Args) -> CachePolicy {
    match args.running.cache_lru {
        0 if args.running.cache_none => CachePolicy::None,
        0 => CachePolicy::Classic,
        count => CachePolicy::Lru(count),
    }
}

/// Warns about whatever is accepted but not as the user may think.
fn tell_oddities(gate: &Gate, foreign: &[String]) {
    if !foreign.is_empty() {
        tracing::warn!("these flags of ComfyUI mean nothing here: {}", foreign.join(" "));
    }
    for oddity in config::ignored() {
        tracing::warn!("{oddity}");
    }
    for oddity in gate.oddities() {
        tracing::warn!("{oddity}");
    }
    if let Some(code) = gate.setup_code() {
        tracing::warn!(
            "no password is set: open /login on this machine to choose one, or /login?setup_code={code} from elsewhere"
        );
    }
    if gate.is_open() {
        tracing::warn!("there is no token: every program on this machine may use the server");
    }
}
