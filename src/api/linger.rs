//! Lets a refusal arrive while the client is still sending.
//!
//! A client that is busy sending a large body does not read. If the server answered and closed, the client
//! would see a broken connection in place of the 401 or 413; so the rest is read and thrown away for a while.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use futures_util::{Stream, StreamExt as _};

/// How long the rest of an unread body is awaited.
const PATIENCE: Duration = Duration::from_secs(10);

/// A layer around everything that may refuse.
pub(super) async fn linger(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let sends = parts.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
        || parts.headers.contains_key(header::TRANSFER_ENCODING);
    // Who expects `100 Continue` waits for the answer before sending.
    let waits = parts.headers.contains_key(header::EXPECT);
    let body = if sends && !waits {
        Body::from_stream(Unread { rest: Some(body.into_data_stream()) })
    } else {
        body
    };
    next.run(Request::from_parts(parts, body)).await
}

/// A body whose unread rest is drained when nobody wants it any more.
struct Unread {
    /// `None` once the end was seen.
    rest: Option<BodyDataStream>,
}

impl Stream for Unread {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        let polled = rest.poll_next_unpin(context);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.rest = None;
        }
        polled
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if let (Some(mut rest), Ok(runtime)) = (self.rest.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(PATIENCE, async move {
                while let Some(Ok(_)) = rest.next().await {}
            }));
        }
    }
}
