//! The page that asks for a token.

use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::reply::typed;
use super::route::Route;

const LOGIN: &str = concat!(include_str!("page.html"), include_str!("login.html"));
const HTML: HeaderValue = HeaderValue::from_static("text/html");

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/login", login).alone().open()]
}

async fn login() -> Response {
    typed(StatusCode::OK, HTML, LOGIN.into())
}
