//! Accepting connections: what one of them may take, in time and bytes, before others suffer.
//!
//! Deliberately knows nothing of what is asked; that is the router's business.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::Service as _;

/// The most bytes the head of a request may have.
const LARGEST_HEAD: usize = 64 << 10;

/// How long to wait when the machine lends no more sockets.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// Lets the process open as many sockets as the machine allows it; by default it may open about a thousand.
pub(super) fn allow_many() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(count) => tracing::debug!(count, "sockets and files may be open at once"),
        Err(error) => tracing::warn!("cannot raise the number of sockets that may be open: {error}"),
    }
}

/// Serves every connection of a socket until `end` says so, then lets those that are open finish.
///
/// `head` is how long the head of a request may take.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    head: Duration,
    mut end: watch::Receiver<bool>,
) {
    let mut http = Builder::new();
    // Most answers are small: one buffer costs less than a call with two.
    http.writev(false);
    http.timer(TokioTimer::new()).header_read_timeout(head).max_header_size(LARGEST_HEAD);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = asked(&mut end) => break,
        };
        match accepted {
            Ok((socket, peer)) => {
                connections.spawn(converse(http.clone(), socket, peer, router.clone(), end.clone()));
            }
            Err(error) if is_peers_fault(&error) => {}
            Err(error) => {
                tracing::error!("cannot accept a connection: {error}");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Waits for the wish to end.
async fn asked(end: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is such a wish as well.
    let _ = end.wait_for(|end| *end).await;
}

fn is_peers_fault(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One connection from its first request to its last.
async fn converse(
    http: Builder,
    socket: TcpStream,
    peer: SocketAddr,
    router: Router,
    mut end: watch::Receiver<bool>,
) {
    // Websocket messages are small and must not wait for each other.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%peer, "cannot send small messages at once: {error}");
    }
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        answer(router.clone(), request)
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = asked(&mut end) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, "a connection broke off: {error}");
    }
}

async fn answer(mut router: Router, request: Request<Incoming>) -> Result<Response, Infallible> {
    router.call(request.map(Body::new)).await
}
