//! What every request passes before it reaches a route: origin, token, size; and cache headers on the way out.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tracing::Instrument as _;

use super::App;
use super::linger;
use super::refusals::Asked;
use super::reply::{Error, done, json};
use super::request::Query;
use super::scopes::{forbidden, needed};
use super::sender::{self, accepts_pages, is_cross_site, is_foreign};
use crate::auth::{Credentials, Denied, Pass, Scope};

/// The one layer around every route and the files of the web root. Each layer costs a request copies of all that lie
/// below it, so what every request passes is one after the other in here.
pub(super) async fn pass(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (begun, method) = (Instant::now(), request.method().clone());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let path = request.uri().path();
    // Names the request in every line, but for its query, which may hold a token. It costs as much as a short answer.
    let span = tracing::debug_span!("request", %method, path);
    let look = Look::of(path);
    let answer = async {
        let response = cross(&app, linger::over(&app, request), next).await;
        tracing::debug!(status = response.status().as_u16(), took = ?begun.elapsed(), "answered");
        response
    };
    let mut response = answer.instrument(span).await;
    if let Some(value) = look.and_then(|look| look.caching(response.status())) {
        let value = HeaderValue::from_static(value);
        response.headers_mut().entry(header::CACHE_CONTROL).or_insert(value);
    }
    app.metrics.answered(&method, route.as_ref(), response.status(), begun.elapsed());
    response
}

/// Turns pages of other sites away from a server on this machine, or, with `--enable-cors-header`, invites
/// them. Answers every OPTIONS by itself.
async fn cross(app: &Arc<App>, request: Request, next: Next) -> Response {
    let cors = app.settings.cors_origin.as_deref();
    if cors.is_none() && is_foreign(request.headers()) {
        let path = request.uri().path();
        tracing::warn!(path, "refused a page of another origin; --enable-cors-header would allow it");
        return Error::empty(StatusCode::FORBIDDEN).into_response();
    }
    let mut response = if request.method() == Method::OPTIONS {
        done()
    } else {
        match admit(app, request).await {
            Ok(request) => next.run(request).await,
            Err(refusal) => refusal,
        }
    };
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

/// How the sender of a request was let in; not at all, on the paths that are open to everybody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted(pub Option<Pass>);

impl Admitted {
    /// Whether that is still good: the session goes on, the token is the same.
    pub fn holds(self, app: &App) -> bool {
        self.0.is_some_and(|pass| app.gate.holds(&pass))
    }
}

/// Asks for token or session before anything is parsed or refused for another reason, then refuses bodies that
/// announce to be too large. `Err` is the refusal.
async fn admit(app: &Arc<App>, mut request: Request) -> Result<Request, Response> {
    let admitted = match judge(app, &request) {
        Ok(pass) if pass.is_guest() && !suits_guests(&request) => return Err(json(&json!({}))),
        Ok(pass) => {
            let needed = needed(request.method(), route_of(&request));
            if pass.scope() < needed && !pass.is_guest() && !is_open(app, &request) {
                return Err(refuse_scope(app, &Asked::of(&request), pass, needed).await);
            }
            Some(pass)
        }
        Err(_) if is_open(app, &request) => None,
        Err(denied) => {
            let (asked, answer) = (Asked::of(&request), refuse(&request));
            app.refusals.tell(&asked, denied.is_usual(), &denied).await;
            return Err(answer);
        }
    };
    let limit = app.settings.max_upload_bytes;
    if announced(request.headers()).is_some_and(|length| length > limit as u64) {
        return Err(Error::too_large(limit).into_response());
    }
    request.extensions_mut().insert(Admitted(admitted));
    Ok(request)
}

/// How long the body will be, if its sender says so.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn judge(app: &App, request: &Request) -> Result<Pass, Denied> {
    let (query, headers) = (Query::of(request.uri()), request.headers());
    let foreign = is_cross_site(request.method(), headers, app.settings.cors_origin.as_deref());
    let verdict = app.gate.admit(&Credentials {
        header: headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes),
        query: query.get("token"),
        cookie: sender::cookie(headers).filter(|_| !foreign),
    });
    if verdict.is_ok() || !is_open(app, request) {
        app.metrics.judged(&verdict);
    }
    verdict
}

fn reads(request: &Request) -> bool {
    [Method::GET, Method::HEAD].contains(request.method())
}

/// The declared path that the request leads to; none for files of the web root.
fn route_of(request: &Request) -> Option<&str> {
    request.extensions().get::<MatchedPath>().map(MatchedPath::as_str)
}

/// Whether strangers may have this: routes declared so, and what a page of the web root needs before the login.
///
/// ComfyUI-Login lets everybody use every path with such a suffix, also those of routes: `/userdata/x.js` can be
/// written to. Here they are no more than files of the web root, for reading.
fn is_open(app: &App, request: &Request) -> bool {
    const SUFFIXES: [&str; 4] = [".css", ".css.map", ".ico", ".js"];
    match route_of(request) {
        Some(route) => app.open_routes.contains(request.method(), route),
        None => reads(request) && SUFFIXES.iter().any(|suffix| request.uri().path().ends_with(suffix)),
    }
}

/// What guests may do in ComfyUI-Login: look at everything, queue a prompt, upload a picture; but here not look into
/// the server itself, its log and folders. Everything else is answered as if it had been done. Twins are not the
/// same to it: `/api/prompt` does nothing.
fn suits_guests(request: &Request) -> bool {
    let path = request.uri().path();
    match *request.method() {
        Method::GET => !path.starts_with("/internal/"),
        Method::POST => ["/prompt", "/upload/image", "/login"].contains(&path),
        _ => false,
    }
}

/// 401, or the way to the login page for whoever takes pages. A script that tried a token in vain is not sent there
/// unless it was reading: it would take the page for success.
fn refuse(request: &Request) -> Response {
    let headers = request.headers();
    let tried =
        headers.contains_key(header::AUTHORIZATION) || Query::of(request.uri()).get("token").is_some();
    if accepts_pages(headers) && (reads(request) || !tried) {
        return (StatusCode::FOUND, [(header::LOCATION, "/login")]).into_response();
    }
    let mut response = Error::words(StatusCode::UNAUTHORIZED, "Authentication required.").into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// 403: who it is is known, and that it is not enough.
async fn refuse_scope(app: &App, asked: &Asked, pass: Pass, needed: Scope) -> Response {
    let (scope, name) = (pass.scope(), app.gate.name_of(&pass).unwrap_or_default());
    let why = format!("the token {name} has the scope {scope}, and this needs {needed}");
    app.refusals.tell(asked, false, &why).await;
    let sentence = format!("This needs a token with the scope {needed}; this one has {scope}.");
    forbidden(&sentence).into_response()
}

/// What kind of file the look of a path promises; ComfyUI chooses cache headers by it.
#[derive(Clone, Copy)]
enum Look {
    Page,
    Picture,
}

impl Look {
    fn of(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next().unwrap_or_default();
        let (_, suffix) = name.rsplit_once('.')?;
        if matches!(suffix, "js" | "css") || (name.starts_with("index") && suffix == "json") {
            return Some(Self::Page);
        }
        is_picture(suffix).then_some(Self::Picture)
    }

    fn caching(self, status: StatusCode) -> Option<&'static str> {
        const NO_CACHE: &str = "no-cache";
        match (self, status.as_u16()) {
            (Self::Page, _) | (Self::Picture, 302 | 303 | 307) => Some(NO_CACHE),
            (Self::Picture, 404) => Some("public, max-age=3600"),
            (Self::Picture, 200..=206 | 301 | 308) => Some("public, max-age=86400"),
            _ => None,
        }
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
    fn caching_follows_the_look_of_the_path() {
        let caching = |path, status| Look::of(path).and_then(|look| look.caching(status));
        assert_eq!(caching("/x.css", StatusCode::NOT_FOUND), Some("no-cache"));
        assert_eq!(caching("/templates/index_logo.json", StatusCode::OK), Some("no-cache"));
        assert_eq!(caching("/a.PNG", StatusCode::OK), Some("public, max-age=86400"));
        assert_eq!(caching("/queue", StatusCode::OK), None);
    }
}
