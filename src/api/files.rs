//! Sending a file: ranges, validators, content type.

use std::path::Path;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tower_http::services::ServeFile;

use super::reply::{Error, Result};

pub(super) const BINARY: &str = "application/octet-stream";

/// A file as the whole answer, or the part of it that the request asks for.
///
/// Sends `ETag` and `Last-Modified` and honours `Range`, `If-None-Match` and `If-Modified-Since`.
pub(super) async fn send(
    method: &Method,
    headers: &HeaderMap,
    path: &Path,
    content_type: &str,
) -> Result<Response> {
    let tag = tokio::fs::metadata(path).await.ok().and_then(|about| entity_tag(&about));
    if let Some(tag) = &tag
        && headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag)
    {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag.clone())]).into_response());
    }
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method.clone();
    *request.headers_mut() = headers.clone();
    let sent = ServeFile::new(path).try_call(request).await;
    let sent = sent.map_err(|error| Error::internal("reading a file", &error))?;
    let mut response = sent.map(Body::new);
    if response.status() == StatusCode::NOT_FOUND {
        return Err(Error::empty(StatusCode::NOT_FOUND));
    }
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(content_type) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    if let Some(tag) = tag {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Time of change and size, which is enough to tell two states of a file apart.
fn entity_tag(about: &std::fs::Metadata) -> Option<HeaderValue> {
    let changed = about.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos();
    HeaderValue::from_str(&format!("\"{changed:x}-{:x}\"", about.len())).ok()
}

/// The content type by a name's suffix; unknown ones are binary.
pub(super) fn content_type(name: &str) -> &'static str {
    mime_guess::from_path(name).first_raw().unwrap_or(BINARY)
}

/// Whether a type can carry script that would run with the rights of this site.
pub(super) fn is_active(content_type: &str) -> bool {
    ["text/html", "application/xhtml+xml", "text/javascript", "application/javascript", "text/css"]
        .contains(&content_type)
}

/// `filename="NAME"`, the name as raw UTF-8 as ComfyUI sends it; none for names no header can carry.
pub(super) fn disposition(name: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(format!("filename=\"{name}\"").as_bytes()).ok()
}

/// Keeps a file of unknown origin from running script with the rights of this site when it is opened as a page.
pub(super) fn harmless(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    response
}
