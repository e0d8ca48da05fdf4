//! `comfyd serve`: the server, from flags to a listening socket.

mod args;
mod connections;
pub(super) mod flags;
mod server;
mod work;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use crate::api::{self, Logs};
use crate::auth::{Gate, Source};
use crate::cli::{Failure, Result, log};
use crate::graph::CachePolicy;
use crate::nodes;

pub use args::Args;
pub use server::{Error, Server, Setup};

use server::Signals;

const TOKEN_HINT: &str = "write a token into login/PASSWORD below the base directory, name a file with \
                          --token-file, or listen on 127.0.0.1";

/// Serves until the process is asked to end.
pub(super) fn run(args: Args, foreign: &[String], arguments: &[OsString]) -> Result {
    let logs = Logs::default();
    let listen = addresses(&args.network.listen, args.network.port)?;
    let (gate, guarded) = gate(&args)?;
    if !guarded && let Some(open) = listen.iter().find(|address| !address.ip().is_loopback()) {
        let refusal = format!("refusing to listen on {} without a token", open.ip());
        return Err(Failure::usage(refusal).hint(TOKEN_HINT));
    }
    let folders = args.folders.folders()?;
    log::start(args.log.level(), &logs);
    connections::allow_many();
    tell_oddities(&args, &gate, foreign, guarded);
    let setup = Setup {
        listen,
        settings: api::Settings {
            patience: api::Patience::default(),
            max_upload_bytes: args.network.max_upload_bytes(),
            cors_origin: args.network.enable_cors_header.clone(),
            compress: args.network.enable_compress_response_body,
            web_root: args.network.front_end_root.clone(),
            argv: arguments.iter().map(|text| text.to_string_lossy().into_owned()).collect(),
        },
        gate,
        registry: nodes::registry(),
        services: nodes::Services {
            preview_size: args.running.preview_size(),
            arithmetic: args.arithmetic.arithmetic(),
            folders,
        },
        cache: cache_policy(&args),
        logs,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let signals = Signals::catch()?;
        let server = Server::start(setup).await?;
        for address in server.addresses() {
            tracing::info!("listening on http://{address}");
        }
        server.until(signals).await;
        Ok::<_, Error>(())
    });
    // A request that hangs on the disk must not hold up the end.
    runtime.shutdown_background();
    Ok(served?)
}

/// The addresses behind `--listen`.
fn addresses(listen: &str, port: u16) -> Result<Vec<SocketAddr>> {
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

/// Who may come in, and whether that takes a token at this moment.
fn gate(args: &Args) -> Result<(Gate, bool)> {
    let source = match &args.security.token_file {
        Some(path) => Source::file(path),
        None => Source::file_if_there(&password_file(&args.folders.base_directory)),
    };
    let source =
        source.map_err(|error| Failure::usage(error).hint("the first line of the file is the token"))?;
    let gate = Gate::Token(source);
    let guarded = !gate.is_open();
    Ok((gate, guarded))
}

/// Where ComfyUI-Login keeps the token.
fn password_file(base: &Path) -> PathBuf {
    base.join("login").join("PASSWORD")
}

fn cache_policy(args: &Args) -> CachePolicy {
    match args.running.cache_lru {
        0 if args.running.cache_none => CachePolicy::None,
        0 => CachePolicy::Classic,
        count => CachePolicy::Lru(count),
    }
}

/// Warns about whatever is accepted but not as the user may think.
fn tell_oddities(args: &Args, gate: &Gate, foreign: &[String], guarded: bool) {
    if !foreign.is_empty() {
        tracing::warn!("these flags of ComfyUI mean nothing here: {}", foreign.join(" "));
    }
    if let Gate::Token(source) = gate
        && args.security.token_file.is_none()
        && let Some(oddity) = source.current().and_then(|token| token.oddity())
    {
        let path = password_file(&args.folders.base_directory);
        tracing::warn!("the token in {} looks wrong: {oddity}", path.display());
    }
    if !guarded {
        tracing::warn!("there is no token: every program on this machine may use the server");
    }
}
