//! What every request passes before it reaches a route: origin, token, size; and cache headers on the way out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tracing::Instrument as _;

use super::App;
use super::reply::{Error, done};
use super::request::Query;
use crate::auth::{Credentials, Denied};

/// Gives every line that is logged for a request the request's name, without its query, which may hold a token.
pub(super) async fn trace(request: Request, next: Next) -> Response {
    let span = tracing::info_span!("request", method = %request.method(), path = request.uri().path());
    let answer = async move {
        let begun = Instant::now();
        let response = next.run(request).await;
        tracing::debug!(status = response.status().as_u16(), took = ?begun.elapsed(), "answered");
        response
    };
    answer.instrument(span).await
}

/// Turns pages of other sites away from a server on this machine, or, with `--enable-cors-header`, invites
/// them. Answers every OPTIONS by itself.
pub(super) async fn origin(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let cors = app.settings.cors_origin.as_deref();
    if cors.is_none() && is_foreign(request.headers()) {
        tracing::warn!("refused a page of another origin; --enable-cors-header would allow it");
        return Error::empty(StatusCode::FORBIDDEN).into_response();
    }
    let mut response = if request.method() == Method::OPTIONS { done() } else { next.run(request).await };
    // The two statuses that ComfyUI raises past this point go without.
    let passed_by = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::FOUND].contains(&response.status());
    if let Some(Ok(origin)) = cors.map(HeaderValue::from_str)
        && !passed_by
    {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, DELETE, PUT, OPTIONS"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type, Authorization"),
            (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// Whether a page of another site sends a request to this machine's own address.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let (Some(host), Some(origin)) = (text(header::HOST), text(header::ORIGIN)) else { return false };
    // `null` and other origins without a host pass.
    let Some((_, origin)) = origin.split_once("://") else { return false };
    let (host, host_port) = split_port(host);
    let (origin, origin_port) = split_port(origin.split('/').next().unwrap_or_default());
    if !is_loopback(&host) || origin.is_empty() {
        return false;
    }
    // Some browsers leave the port out on one side; then it counts on neither.
    let ports_differ = host_port.is_some() && origin_port.is_some() && host_port != origin_port;
    host != origin || ports_differ
}

/// Host in lower case without brackets, and the port.
fn split_port(authority: &str) -> (String, Option<&str>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, Some(port))
        }
        _ => (authority, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase(), port)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Asks for the token, before anything is routed, parsed or refused for another reason.
pub(super) async fn authenticate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let reading = [Method::GET, Method::HEAD].contains(request.method());
    if reading && app.open_paths.contains(request.uri().path()) {
        return next.run(request).await;
    }
    let query = Query::of(request.uri());
    let header = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    match app.gate.admit(Credentials { header, query: query.get("token") }) {
        Ok(()) => next.run(request).await,
        Err(denied) => refuse(&request, reading, denied),
    }
}

fn refuse(request: &Request, reading: bool, denied: Denied) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
    let peer = peer.map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(peer, "401: {denied}");
    let accepts_pages = request
        .headers()
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("text/html")));
    // ComfyUI-Login redirects every method; a script that follows would take the page for an answer.
    if reading && accepts_pages {
        return (StatusCode::FOUND, [(header::LOCATION, "/login")]).into_response();
    }
    let mut response = Error::words(StatusCode::UNAUTHORIZED, "Authentication required.").into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Refuses bodies that announce to be too large, before reading them.
pub(super) async fn limit_size(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let limit = app.settings.max_upload_bytes;
    if announced.is_some_and(|length| length > limit as u64) {
        return Error::too_large(limit).into_response();
    }
    next.run(request).await
}

/// Cache headers by the look of the path, as ComfyUI sets them.
pub(super) async fn cache_control(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    if let Some(value) = caching(&path, response.status()) {
        let value = HeaderValue::from_static(value);
        response.headers_mut().entry(header::CACHE_CONTROL).or_insert(value);
    }
    response
}

const NO_CACHE: &str = "no-cache";
const A_DAY: &str = "public, max-age=86400";
const AN_HOUR: &str = "public, max-age=3600";

fn caching(path: &str, status: StatusCode) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let (_, suffix) = name.rsplit_once('.')?;
    if matches!(suffix, "js" | "css") || (name.starts_with("index") && suffix == "json") {
        return Some(NO_CACHE);
    }
    if !is_picture(suffix) {
        return None;
    }
    match status.as_u16() {
        404 => Some(AN_HOUR),
        200..=206 | 301 | 308 => Some(A_DAY),
        302 | 303 | 307 => Some(NO_CACHE),
        _ => None,
    }
}

/// The suffixes that get cache headers of their own.
pub(super) fn is_picture(suffix: &str) -> bool {
    const PICTURES: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];
    PICTURES.iter().any(|picture| suffix.eq_ignore_ascii_case(picture))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_sites_are_foreign_only_to_this_machine() {
        for (host, origin, foreign) in [
            ("127.0.0.1:8188", "http://evil.example", true),
            ("127.0.0.1:8188", "http://127.0.0.1:8188", false),
            ("127.0.0.1:8188", "http://127.0.0.1:9000", true),
            ("127.0.0.1:8188", "http://127.0.0.1", false),
            ("LOCALHOST:8188", "http://localhost:8188", false),
            ("[::1]:8188", "http://[::1]:8188", false),
            ("localhost", "http://localhost:8188", false),
            ("127.0.0.1:8188", "null", false),
            ("gpu.example:8188", "http://evil.example", false),
        ] {
            let headers = [(header::HOST, host), (header::ORIGIN, origin)]
                .into_iter()
                .map(|(name, value)| (name, HeaderValue::from_static(value)))
                .collect();
            assert_eq!(is_foreign(&headers), foreign, "{host} {origin}");
        }
    }

    #[test]
    fn caching_follows_the_look_of_the_path() {
        assert_eq!(caching("/x.css", StatusCode::NOT_FOUND), Some(NO_CACHE));
        assert_eq!(caching("/templates/index_logo.json", StatusCode::OK), Some(NO_CACHE));
        assert_eq!(caching("/a.PNG", StatusCode::OK), Some(A_DAY));
        assert_eq!(caching("/queue", StatusCode::OK), None);
    }
}
