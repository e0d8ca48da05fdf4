//! What goes back over HTTP: JSON answers, and every refusal with its status.

use axum::body::{Body, Bytes};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value as Json, json};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::Predicate;

use crate::python_json;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub(super) type Result<T = Response, E = Error> = std::result::Result<T, E>;

/// 200 with a document.
pub(super) fn json(document: &Json) -> Response {
    shown(document)
}

/// 200 with anything that can be written as a document.
pub(super) fn shown<T: Serialize>(document: &T) -> Response {
    typed(StatusCode::OK, JSON, python_json::write_any(document).into())
}

/// 200 with a document that was written before.
pub(super) fn written(document: Bytes) -> Response {
    typed(StatusCode::OK, JSON, document.into())
}

/// 200 with nothing.
pub(super) fn done() -> Response {
    StatusCode::OK.into_response()
}

pub(super) fn typed(status: StatusCode, kind: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Compresses JSON and text, but no files, which may be asked for in parts.
pub(super) fn compression() -> CompressionLayer<impl Predicate> {
    let is_text = |headers: &HeaderMap| {
        let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        kind.starts_with(b"application/json") || kind.starts_with(b"text/plain")
    };
    CompressionLayer::new().compress_when(
        move |_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
            is_text(headers) && !headers.contains_key(header::ACCEPT_RANGES)
        },
    )
}

/// A refusal. The only place where status codes other than 200 are chosen.
#[derive(Debug)]
pub(super) struct Error {
    status: StatusCode,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Nothing,
    Text(String),
    Json(Json),
}

impl Error {
    /// A bare status, for the routes where ComfyUI sends no body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, content: Content::Nothing }
    }

    /// A sentence as plain text.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, content: Content::Text(text.into()) }
    }

    /// `{"error": sentence}`.
    pub fn words(status: StatusCode, sentence: &str) -> Self {
        Self::json(status, json!({ "error": sentence }))
    }

    pub fn json(status: StatusCode, document: Json) -> Self {
        Self { status, content: Content::Json(document) }
    }

    /// ComfyUI's shape for a refused prompt, with no node to blame.
    pub fn request(kind: &str, message: &str, details: &str) -> Self {
        let error = json!({"type": kind, "message": message, "details": details, "extra_info": {}});
        Self::json(StatusCode::BAD_REQUEST, json!({"error": error, "node_errors": {}}))
    }

    /// In the same shape: what cannot be done for the moment.
    pub fn unavailable(kind: &str, message: &str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, ..Self::request(kind, message, "") }
    }

    /// The body, for whoever is not asked over HTTP.
    pub fn into_document(self) -> Json {
        match self.content {
            Content::Nothing => Json::Null,
            Content::Text(text) => json!({ "error": text }),
            Content::Json(document) => document,
        }
    }

    pub fn not_found() -> Self {
        Self::words(StatusCode::NOT_FOUND, "There is nothing at this path.")
    }

    /// The log gets the cause, the client a sentence.
    pub fn internal(doing: &str, cause: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = cause, "failed while {doing}");
        Self::words(StatusCode::INTERNAL_SERVER_ERROR, &format!("The server failed while {doing}: {cause}"))
    }

    pub fn too_large(limit: usize) -> Self {
        Self::text(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The request body is larger than the {limit} bytes that --max-upload-size allows."),
        )
    }
}

impl From<python_json::Malformed> for Error {
    fn from(error: python_json::Malformed) -> Self {
        Self::request("invalid_json", "The request body is not a JSON document", &error.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match self.content {
            Content::Nothing => self.status.into_response(),
            Content::Text(text) => typed(self.status, TEXT, text.into()),
            Content::Json(document) => typed(self.status, JSON, python_json::write(&document).into()),
        }
    }
}
