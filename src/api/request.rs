//! What comes in over HTTP: the query and the body, read as forgivingly as ComfyUI reads them.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query as Pairs, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::IntoResponse as _;
use serde_json::{Map, Value as Json};

use super::App;
use super::reply::{Error, Result};
use crate::python_json;

/// The parameters behind the `?`; of a name that occurs twice, the first counts.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(parts: &axum::http::Uri) -> Self {
        Self(Pairs::try_from_uri(parts).map_or_else(|_| Vec::new(), |Pairs(pairs)| pairs))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter says `true`, in any case.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// A whole number; 400 when the parameter is there and none.
    pub fn number(&self, name: &str) -> Result<Option<i64>> {
        self.get(name)
            .map(|text| {
                text.trim().parse().map_err(|_| {
                    let sentence = format!("`{name}` must be a whole number, not `{text}`.");
                    Error::words(StatusCode::BAD_REQUEST, &sentence)
                })
            })
            .transpose()
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.uri))
    }
}

/// A whole body.
pub(super) struct Raw(pub Bytes);

impl FromRequest<Arc<App>> for Raw {
    type Rejection = Error;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self> {
        Bytes::from_request(request, app).await.map(Self).map_err(|rejection| {
            match rejection.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => Error::too_large(app.settings.max_upload_bytes),
                _ => Error::words(StatusCode::BAD_REQUEST, "The request body ended early."),
            }
        })
    }
}

/// A body that is one JSON document, whatever its content type says.
pub(super) struct Document(pub Json);

impl FromRequest<Arc<App>> for Document {
    type Rejection = Error;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self> {
        let Raw(bytes) = Raw::from_request(request, app).await?;
        Ok(Self(python_json::read(&bytes)?))
    }
}

/// A body that is one JSON object.
pub(super) struct Object(pub Map<String, Json>);

impl FromRequest<Arc<App>> for Object {
    type Rejection = Error;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self> {
        match Document::from_request(request, app).await? {
            Document(Json::Object(object)) => Ok(Self(object)),
            Document(other) => Err(Error::request(
                "invalid_json",
                "The request body is not a JSON object",
                &format!("expected an object, found {}", kind(&other)),
            )),
        }
    }
}

/// What a document is, in JSON's words.
pub(super) fn kind(document: &Json) -> &'static str {
    match document {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

/// An id as text, whatever its type: jobs and clients are named by texts, and numbers become such.
pub(super) fn text(document: &Json) -> String {
    document.as_str().map_or_else(|| python_json::write(document), str::to_owned)
}

/// Python's idea of truth, which is how ComfyUI reads `front`, `clear` and their like.
pub(super) fn is_truthy(document: Option<&Json>) -> bool {
    match document {
        None | Some(Json::Null) => false,
        Some(Json::Bool(truth)) => *truth,
        Some(Json::Number(number)) => number.as_f64() != Some(0.0),
        Some(Json::String(text)) => !text.is_empty(),
        Some(Json::Array(items)) => !items.is_empty(),
        Some(Json::Object(entries)) => !entries.is_empty(),
    }
}
