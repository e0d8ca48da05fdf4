//! Bodies that come slowly, and bodies that nobody wants any more.
//!
//! A client that is busy sending a large body does not read. If the server answered and closed, the client
//! would see a broken connection in place of the 401 or 413; so the rest is read and thrown away for a while.
//! And a body of which nothing arrives for long is given up, so that its request ends.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::header;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::time::{Sleep, sleep};

use super::App;

/// How long the rest of an unread body is awaited.
const PATIENCE: Duration = Duration::from_secs(10);

/// The request with patience for its body.
pub(super) fn over(app: &App, request: Request) -> Request {
    let headers = request.headers();
    let sends = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
        || headers.contains_key(header::TRANSFER_ENCODING);
    if !sends {
        return request;
    }
    // Who expects `100 Continue` waits for the answer before sending.
    let drains = !headers.contains_key(header::EXPECT);
    let patience = app.settings.patience.body;
    request.map(|body| {
        let rest = Some(body.into_data_stream());
        Body::from_stream(Slow { rest, patience, stall: None, drains })
    })
}

/// A body that is given up when it stalls, and whose unread rest is drained when nobody wants it any more.
struct Slow {
    /// `None` once the end was seen.
    rest: Option<BodyDataStream>,
    patience: Duration,
    /// Runs while more is awaited.
    stall: Option<Pin<Box<Sleep>>>,
    drains: bool,
}

/// Why a body was given up.
#[derive(Debug, thiserror::Error)]
#[error("nothing of the request body arrived for {} s", .0.as_secs())]
struct Stalled(Duration);

impl Stream for Slow {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { rest, stall, patience, .. } = &mut *self;
        let Some(body) = rest else { return Poll::Ready(None) };
        let mut polled = body.poll_next_unpin(context);
        if polled.is_pending() {
            let stall = stall.get_or_insert_with(|| Box::pin(sleep(*patience)));
            if stall.poll_unpin(context).is_ready() {
                polled = Poll::Ready(Some(Err(axum::Error::new(Stalled(*patience)))));
            }
        } else {
            *stall = None;
        }
        if let Poll::Ready(None | Some(Err(_))) = polled {
            *rest = None;
        }
        polled
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        if let (Some(mut rest), Ok(runtime)) = (self.rest.take(), tokio::runtime::Handle::try_current())
            && self.drains
        {
            runtime.spawn(tokio::time::timeout(PATIENCE, async move {
                while let Some(Ok(_)) = rest.next().await {}
            }));
        }
    }
}
