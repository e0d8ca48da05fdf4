//! A running server: sockets, worker thread, and how both end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connections;
use super::work::Runner;
use crate::api::{App, Logs, Settings, router};
use crate::auth::Gate;
use crate::graph::{CachePolicy, Registry};
use crate::nodes::Services;
use crate::paths::Folders;
use crate::queue::{Durability, Queue, Restored, Worker};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Folders(#[from] crate::paths::Error),
    #[error("cannot start the worker thread: {0}")]
    Worker(std::io::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
}

/// All that makes up a server.
pub struct Setup {
    /// Port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    pub settings: Settings,
    pub gate: Gate,
    pub registry: Registry<Services>,
    pub services: Services,
    pub cache: CachePolicy,
    pub logs: Logs,
    /// How the queue survives the end of the process, if it does.
    pub journal: Option<Durability>,
    /// After so long without a job, memory is freed.
    pub idle_unload: Option<Duration>,
    /// How long the running job may go on once the server is asked to end.
    pub drain: Duration,
}

/// How long requests, and a job that was told to stop, have to end.
const PATIENCE: Duration = Duration::from_secs(2);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A server that listens. Dropping it ends it at once.
pub struct Server {
    app: Arc<App>,
    worker: Worker,
    addresses: Vec<SocketAddr>,
    sockets: JoinSet<()>,
    /// What goes on until all sockets are closed.
    _chores: JoinSet<()>,
    /// How long the head of a request may take.
    head: Duration,
    drain: Duration,
    end: watch::Sender<bool>,
}

impl Server {
    /// Opens the sockets, makes the folders and starts the worker.
    ///
    /// Boxed, as [`end`](Self::end) is: what an `async fn` does is compiled anew in each crate that waits for it, and
    /// this one, with all of a server below it, in each crate of tests.
    pub fn start(setup: Setup) -> Boxed<Result<Self, Error>> {
        Box::pin(Self::started(setup))
    }

    async fn started(setup: Setup) -> Result<Self, Error> {
        // First of all, so that a second server in one folder finds the port taken before it empties anything.
        let listeners = listen(&setup.listen).await?;
        prepare(&setup.services.folders)?;
        let services = Arc::new(setup.services);
        let registry = Arc::new(setup.registry);
        let runner = Runner::new(services.clone(), registry.clone(), setup.cache);
        let (head, drain) = (setup.settings.patience.head, setup.drain);
        let state = services.folders.state();
        let app = App::new(setup.settings, setup.gate, services, registry, setup.logs);
        if let Some(durability) = setup.journal {
            keep(app.queue(), &state, durability);
        }
        if let Some(limit) = setup.idle_unload {
            app.queue().unload_when_idle(limit);
        }
        let worker = app.queue().work(runner).map_err(Error::Worker)?;
        let (end, _) = watch::channel(false);
        let mut chores = JoinSet::new();
        let attended = app.clone();
        chores.spawn(async move { attended.attend().await });
        let (addresses, sockets) = (Vec::new(), JoinSet::new());
        let mut server = Self { app, worker, addresses, sockets, _chores: chores, head, drain, end };
        for listener in listeners {
            server.open(listener);
        }
        Ok(server)
    }

    fn open(&mut self, listener: TcpListener) {
        self.addresses.extend(listener.local_addr());
        let (router, end) = (router(&self.app), self.end.subscribe());
        self.sockets.spawn(connections::serve(listener, router, self.head, end));
    }

    /// Where the server listens, with the ports it got.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until a signal; a second one ends without waiting.
    pub(super) async fn until(self, mut signals: Signals) {
        // Not among the words of the line, which are not evaluated where nobody wants the line.
        let signal = signals.next().await;
        tracing::info!("{signal}: ending; a second signal ends at once");
        let app = self.app.clone();
        tokio::select! {
            () = self.end() => {}
            _ = signals.next() => app.queue().close(),
        }
    }

    /// Takes no more jobs, gives the running one its time, lets requests finish, and closes the sockets.
    pub fn end(self) -> Boxed<()> {
        Box::pin(self.ended())
    }

    async fn ended(mut self) {
        let queue = self.app.queue().clone();
        queue.drain();
        let mut worker = tokio::task::spawn_blocking(|| self.worker.join());
        let ended = tokio::time::timeout(self.drain, &mut worker).await.is_ok();
        queue.close();
        self.app.close();
        self.end.send_replace(true);
        let sockets = async { while self.sockets.join_next().await.is_some() {} };
        let worker = async { if ended { Ok(()) } else { worker.await } };
        let (sockets, worker) =
            tokio::join!(tokio::time::timeout(PATIENCE, sockets), tokio::time::timeout(PATIENCE, worker));
        if sockets.is_err() {
            tracing::warn!("requests were still open after {} s", PATIENCE.as_secs());
        }
        if worker.is_err() {
            tracing::warn!("the running job did not stop within {} s", PATIENCE.as_secs());
        }
        tracing::info!("ended");
    }
}

/// Lets the queue go on where it was. A server whose queue does not survive is better than none.
fn keep(queue: &Queue, folder: &Path, durability: Durability) {
    match queue.keep(folder, durability) {
        Ok(found) if found == Restored::default() => {}
        Ok(Restored { waiting, given_up, remembered }) => {
            tracing::info!(waiting, given_up, remembered, "the queue goes on where it was");
        }
        Err(error) => {
            tracing::warn!("jobs do not survive a restart: cannot use {}: {error}", folder.display());
        }
    }
}

/// The signals that ask the process to end. While they exist, no signal kills it.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn catch() -> Result<Self, Error> {
        let catch = |kind| signal(kind).map_err(Error::Signals);
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    /// Waits for one; its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Makes what is missing; previews of former runs go.
fn prepare(folders: &Folders) -> Result<(), Error> {
    let emptied = std::fs::remove_dir_all(&folders.temp);
    if let Err(error) = emptied
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("cannot empty {}: {error}", folders.temp.display());
    }
    folders.create()?;
    tracing::info!("pictures are saved in {}", folders.output.display());
    Ok(())
}

/// One socket per address. Where both wildcards are asked for, one socket serves both kinds of address.
async fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, Error> {
    let wildcard4 = |address: &SocketAddr| address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let wildcard6 = |address: &SocketAddr| address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let both = addresses.iter().any(wildcard4) && addresses.iter().any(wildcard6);
    let mut listeners = Vec::new();
    for address in addresses.iter().filter(|address| !(both && wildcard6(address))) {
        // The wildcard of IPv6 takes both kinds, but this machine may have no IPv6.
        let dual = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port());
        let first = if both && wildcard4(address) { dual } else { *address };
        let opened = match TcpListener::bind(first).await {
            Err(_) if first != *address => TcpListener::bind(address).await,
            opened => opened,
        };
        listeners.push(opened.map_err(|source| Error::Listen { address: *address, source })?);
    }
    Ok(listeners)
}
