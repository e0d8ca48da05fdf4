//! The login page, and the ways in and out of a session, as ComfyUI-Login has them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, FromRequest as _, Multipart, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::App;
use super::gate::Admitted;
use super::refusals::Asked;
use super::reply::{Error, Result, json, typed};
use super::request::Query;
use super::route::Route;
use super::sender;
use crate::auth::{Asks, Attempt, Pass, Refused};

/// Passwords that are checked at once, and logins that may wait for their turn.
const CHECKS_AT_ONCE: usize = 2;
const LONGEST_QUEUE: usize = 64;

/// The most bytes that a filled-in form may have, and how long it may take to arrive.
const LARGEST_FORM: usize = 16 << 10;
const SLOWEST_FORM: Duration = Duration::from_secs(10);

const PAGE: &str = include_str!("login.html");
const STYLE: &str = include_str!("login.css");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const CSS: HeaderValue = HeaderValue::from_static("text/css");

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/login", show).alone().open(),
        Route::post("/login", log_in).alone().open(),
        Route::get("/old_css/style.css", style).alone().open(),
        Route::get("/logout", log_out),
        Route::get("/guest_mode", guest_mode),
    ]
}

async fn style() -> Response {
    typed(StatusCode::OK, CSS, STYLE.into())
}

async fn guest_mode(Extension(Admitted(pass)): Extension<Admitted>) -> Response {
    json(&json!({"guestMode": pass.is_some_and(|pass| pass.is_guest())}))
}

/// The page; those whom it would ask for nothing are sent on.
async fn show(
    State(app): State<Arc<App>>,
    Extension(Admitted(pass)): Extension<Admitted>,
    query: Query,
    request: Request,
) -> Response {
    if matches!(pass, Some(Pass::Open | Pass::User(_))) {
        return to("/", None);
    }
    let notice = query.get("wrong_password").map(|_| "Wrong password.");
    page(&app, StatusCode::OK, notice, &Visitor::of(&request, query.get("setup_code")))
}

/// Who looks at the page or fills it in.
struct Visitor {
    headers: HeaderMap,
    from: IpAddr,
    cookie: Option<String>,
    at_this_machine: bool,
    setup_code: Option<String>,
}

impl Visitor {
    fn of(request: &Request, setup_code: Option<&str>) -> Self {
        Self {
            headers: request.headers().clone(),
            from: sender::address(request),
            cookie: sender::cookie(request.headers()).map(str::to_owned),
            at_this_machine: sender::is_at_this_machine(request),
            setup_code: setup_code.map(str::to_owned),
        }
    }
}

fn page(app: &App, status: StatusCode, notice: Option<&str>, visitor: &Visitor) -> Response {
    const NAME: &str =
        r#"<label>User name <input type="text" name="username" autocomplete="username" required></label>"#;
    const GUESTS: &str =
        r#"<button name="guest_mode" value="1" formnovalidate>Look around as a guest</button>"#;
    let asks = app.gate.asks();
    let first = asks == Asks::FirstPassword;
    let named = first || asks == Asks::Password { name: true };
    let notice = notice.map(|notice| format!(r#"<p role="alert">{}</p>"#, escaped(notice)));
    let html = PAGE
        .replace("<!-- notice -->", &notice.unwrap_or_default())
        .replace("<!-- name -->", if named { NAME } else { "" })
        .replace("<!-- code -->", &code_field(first, visitor))
        .replace("<!-- guests -->", if app.gate.welcomes_guests() { GUESTS } else { "" })
        .replace("new-or-current", if first { "new-password" } else { "current-password" })
        // What users chose comes last, so that nothing in it is replaced.
        .replace("<!-- welcome -->", &welcome(app, first, visitor));
    let mut response = typed(status, HTML, html.into());
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "same-origin"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
             frame-ancestors 'none'",
        ),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The first sentence on the page.
fn welcome(app: &App, first: bool, visitor: &Visitor) -> String {
    let known = visitor.cookie.as_ref().and_then(|cookie| app.gate.greeting(cookie));
    match known {
        _ if first && (visitor.at_this_machine || visitor.setup_code.is_some()) => {
            "Welcome! Choose a user name and a password for this server.".to_owned()
        }
        _ if first => {
            "This server has no password yet. Open this page on the machine it runs on to choose one, or \
                       copy the setup code from its log."
                .to_owned()
        }
        Some(name) => format!("Welcome back, {}!", escaped(&name)),
        None => "This server asks for a password.".to_owned(),
    }
}

/// Where the first password may only be set with the setup code: the code, or the question for it.
fn code_field(first: bool, visitor: &Visitor) -> String {
    match &visitor.setup_code {
        Some(code) if first => {
            format!(r#"<input type="hidden" name="setup_code" value="{}">"#, escaped(code))
        }
        None if first && !visitor.at_this_machine => {
            r#"<label>Setup code <input type="text" name="setup_code" autocomplete="off" required></label>"#
                .to_owned()
        }
        _ => String::new(),
    }
}

/// As text inside of an element or an attribute in quotes.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A redirect, with the value of the session cookie if that is to change.
///
/// Only browsers are told `SameSite`, and `Secure` where they came by TLS: these are for them, and whoever reads
/// cookies by hand finds what ComfyUI-Login sends.
fn to(place: &'static str, cookie: Option<(&str, &HeaderMap)>) -> Response {
    let mut response = (StatusCode::FOUND, [(header::LOCATION, place)]).into_response();
    if let Some((value, headers)) = cookie {
        let same_site = if sender::is_browser(headers) { "; SameSite=Lax" } else { "" };
        let secure = if sender::is_secure(headers) { "; Secure" } else { "" };
        let cookie = format!("{}={value}; HttpOnly; Path=/{same_site}{secure}", sender::COOKIE);
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
    }
    response
}

/// Ends the session, if the sender was let in by one, and closes its websockets.
async fn log_out(
    State(app): State<Arc<App>>,
    Extension(Admitted(pass)): Extension<Admitted>,
    headers: HeaderMap,
) -> Response {
    let Some(key) = pass.and_then(|pass| pass.session()) else { return to("/login", None) };
    let cookie = app.gate.log_out(key);
    app.sessions.send_replace(());
    to("/login", Some((&cookie, &headers)))
}

/// The fields of a login form. A name that occurs twice has several values.
struct Form(Vec<(String, String)>);

impl Form {
    async fn read(mut request: Request) -> Result<Self> {
        let bad = |why: &str| {
            let sentence = format!("The form cannot be read; it may have {LARGEST_FORM} bytes: {why}");
            Error::words(StatusCode::BAD_REQUEST, &sentence)
        };
        DefaultBodyLimit::max(LARGEST_FORM).apply(&mut request);
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("multipart/form-data")) {
            let bytes = Bytes::from_request(request, &()).await;
            let bytes = bytes.map_err(|error| bad(&error.body_text()))?;
            return Ok(Self(form_urlencoded::parse(&bytes).into_owned().collect()));
        }
        let form = Multipart::from_request(request, &()).await;
        let mut form = form.map_err(|error| bad(&error.body_text()))?;
        let mut fields = Vec::new();
        while let Some(field) = form.next_field().await.map_err(|error| bad(&error.body_text()))? {
            let name = field.name().unwrap_or_default().to_owned();
            let value = field.bytes().await.map_err(|error| bad(&error.body_text()))?;
            fields.push((name, String::from_utf8_lossy(&value).into_owned()));
        }
        Ok(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the guests' button was pressed; the page always has a field of this name, and then two.
    fn asks_for_guest_mode(&self) -> bool {
        self.0.iter().any(|(key, value)| key == "guest_mode" && value == "1")
    }
}

/// Logs in with the form's password, or as a guest, or sets the first password.
async fn log_in(State(app): State<Arc<App>>, request: Request) -> Result {
    let visitor = Visitor::of(&request, None);
    let form = tokio::time::timeout(SLOWEST_FORM, Form::read(request)).await;
    let form = form.map_err(|_| Error::words(StatusCode::REQUEST_TIMEOUT, "The form took too long."))??;
    if form.asks_for_guest_mode()
        && let Some(cookie) = app.gate.enter_as_guest(visitor.cookie.as_deref())
    {
        return Ok(to("/", Some((&cookie, &visitor.headers))));
    }
    if app.gate.asks() == Asks::Nothing {
        return Ok(to("/", None));
    }
    match check(&app, form, &visitor).await? {
        Ok(cookie) => {
            // A session that the browser had before has ended.
            app.sessions.send_replace(());
            tracing::info!(from = %visitor.from, "logged in");
            Ok(to("/", Some((&cookie, &visitor.headers))))
        }
        Err(refused) => {
            let asked = Asked { from: visitor.from, what: "POST /login".to_owned() };
            app.refusals.tell(&asked, false, &refused).await;
            Ok(refuse(&app, &refused, &visitor))
        }
    }
}

/// Waits for its turn and has the password checked on a thread that may take its time.
async fn check(app: &Arc<App>, form: Form, visitor: &Visitor) -> Result<Result<String, Refused>> {
    if form.get("password").is_none() {
        return Ok(Err(Refused::Unusable("The form has no field `password`.")));
    }
    let turn = match app.turns.take(app, visitor.from).await {
        Ok(turn) => turn,
        Err(refused) => return Ok(Err(refused)),
    };
    let (from, at_this_machine, cookie) = (visitor.from, visitor.at_this_machine, visitor.cookie.clone());
    app.blocking(move |app| {
        // Kept until the check is over, though the client may have left.
        let _turn = turn;
        app.gate.log_in(&Attempt {
            from,
            password: form.get("password").unwrap_or_default(),
            name: form.get("username"),
            at_this_machine,
            setup_code: form.get("setup_code"),
            cookie: cookie.as_deref(),
        })
    })
    .await
}

/// Bounds how many passwords are checked at once, which each cost as much as thousands of requests.
pub(super) struct Turns {
    queue: Semaphore,
    checks: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { queue: Semaphore::new(LONGEST_QUEUE), checks: Arc::new(Semaphore::new(CHECKS_AT_ONCE)) }
    }
}

impl Turns {
    /// Waits for a turn; at once refused is who may not try yet, or comes when too many wait already.
    async fn take(&self, app: &App, from: IpAddr) -> Result<OwnedSemaphorePermit, Refused> {
        if let Some(wait) = app.gate.wait(from) {
            return Err(Refused::TooMany(wait));
        }
        let crowd = || Refused::TooMany(Duration::from_secs(1));
        let _place = self.queue.try_acquire().map_err(|_| crowd())?;
        // The semaphore is never closed.
        self.checks.clone().acquire_owned().await.map_err(|_| crowd())
    }
}

/// A wrong password leads back to the page, as in ComfyUI-Login; everything else is told as it is: to people on
/// the page, to scripts in JSON.
fn refuse(app: &App, refused: &Refused, visitor: &Visitor) -> Response {
    let status = match refused {
        Refused::Wrong => return to("/login?wrong_password=1", None),
        Refused::Unusable(_) => StatusCode::BAD_REQUEST,
        Refused::NotHere => StatusCode::FORBIDDEN,
        Refused::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        Refused::Write { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let sentence = refused.to_string();
    let mut response = if sender::accepts_pages(&visitor.headers) {
        page(app, status, Some(&sentence), visitor)
    } else {
        Error::words(status, &sentence).into_response()
    };
    if let Refused::TooMany(wait) = refused {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
    }
    response
}
