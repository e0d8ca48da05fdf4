//! comfyd's own page: what runs, what waits, what was made. Plain files inside the binary; the page uses the API
//! as any client does.
//!
//! Its script and style are open to everybody, because they hold no secret and a browser asks for them without
//! the token that a `?token=` address carries.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::App;
use super::gate::Admitted;
use super::route::Route;
use crate::auth::Pass;

const PAGE: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const ICON: &str = include_str!("page/icon.svg");
const ABOUT: &str = include_str!("page/about.js");

/// What the official interface loads from us: its page "About" then leads here.
pub(super) const EXTENSION: &str = "/extensions/comfyd/about.js";

/// What the browser may load: files of this server, and the previews that the script makes of messages.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/comfyd", page),
        Route::get("/comfyd/page.css", style).open(),
        Route::get("/comfyd/page.js", script).open(),
        Route::get("/comfyd/icon.svg", icon).open(),
        Route::get(EXTENSION, extension).alone().open(),
    ]
}

async fn page(State(app): State<Arc<App>>, Extension(Admitted(pass)): Extension<Admitted>) -> Response {
    show(&app, pass.as_ref())
}

/// The page, which tells apart whether the official interface is there, and whether there is a session to end.
pub(super) fn show(app: &App, pass: Option<&Pass>) -> Response {
    let interface = if app.web_root().is_some() { "installed" } else { "none" };
    let session = if pass.is_some_and(|pass| pass.session().is_some()) { "open" } else { "none" };
    let about = format!("data-interface=\"{interface}\" data-session=\"{session}\"");
    let page = PAGE.replace("data-interface=\"\"", &about);
    let mut response = file("text/html", page);
    let own = [(header::CONTENT_SECURITY_POLICY, POLICY), (header::REFERRER_POLICY, "no-referrer")];
    for (name, value) in own {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

async fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT)
}

async fn extension() -> Response {
    file("text/javascript; charset=utf-8", ABOUT)
}

async fn icon() -> Response {
    file("image/svg+xml", ICON)
}

fn file(kind: &'static str, text: impl Into<axum::body::Body>) -> Response {
    let headers = [(header::CONTENT_TYPE, kind), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::OK, headers, text.into()).into_response()
}
