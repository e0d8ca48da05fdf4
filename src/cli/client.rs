//! Talking to a running server, this one or ComfyUI itself: where it is, which token it wants, and what it answers.

pub(super) mod bench;
pub(super) mod health;
pub(super) mod jobs;
pub(super) mod status;
pub(super) mod submit;

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;

use super::{Failure, Result};
use crate::auth::{TOKEN_NAMES, Variables};

const DEFAULT_URL: &str = "http://127.0.0.1:8188";

/// Names under which notebooks and compose files keep the address; those of the token belong to `auth`.
const URL_NAMES: [&str; 4] = ["COMFYD_URL", "COMFYUI_API_URL", "COMFYUI_URL", "COMFYUI_BASE_URL"];

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// Where the server is [default: COMFYD_URL or COMFYUI_URL, also from a file .env, or http://127.0.0.1:8188]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// A file with the token on its first line [default: COMFYD_TOKEN or COMFYUI_API_TOKEN, also from a file .env]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot read the token from {}", .path.display())]
    Token { path: PathBuf, source: std::io::Error },
    #[error("{url} cannot be reached")]
    Unreachable { url: String, source: Box<ureq::Error> },
    #[error("{url} wants a token")]
    Unauthorized { url: String },
    #[error("{url} answered {status}: {}", complaint(.body))]
    Refused { url: String, status: u16, body: Vec<u8> },
    #[error("{url} gave an answer that is no JSON")]
    NoJson { url: String, source: serde_json::Error },
    #[error("cannot read {}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// The error with the advice that belongs to it.
fn failure(error: Error) -> Failure {
    let hint = match &error {
        Error::Unreachable { .. } => "is the server running there? `--url` names another address",
        Error::Unauthorized { .. } => {
            "the token is what `comfyd token show --reveal` prints on the server, once a password was set at its page \
             /login or `comfyd token new` made one; give it by --token-file or COMFYD_TOKEN"
        }
        _ => return error.into(),
    };
    Failure::from(error).hint(hint)
}

/// A server that answers.
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(args: &ServerArgs) -> Result<Self> {
        let kept = Variables::read(Path::new(".env"));
        let url = args.url.clone().or_else(|| first(&URL_NAMES, &kept));
        let token = match &args.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| Error::Token { path: path.clone(), source })?;
                text.lines().next().map(|line| line.trim().to_owned())
            }
            None => first(&TOKEN_NAMES, &kept),
        };
        let agent = crate::http_client::configure().build().into();
        let url = url.unwrap_or_else(|| DEFAULT_URL.to_owned()).trim_end_matches('/').to_owned();
        Ok(Self { agent, url, token: token.filter(|token| !token.is_empty()) })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// A client with this token, unless it was told of another one.
    pub(super) fn or_token(mut self, token: Option<&str>) -> Self {
        self.token = self.token.or_else(|| token.map(str::to_owned));
        self
    }

    /// What the `Authorization` header says.
    fn bearer(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    /// Asks the open route of a comfyd; what it answers, and the server's clock.
    pub(super) fn health(&self) -> Result<(Json, Option<String>)> {
        let answer = self.agent.get(self.place("/health")).call();
        let date = answer.as_ref().ok().and_then(|answer| answer.headers().get("date")?.to_str().ok());
        let date = date.map(str::to_owned);
        Ok((self.json("/health", answer).map_err(failure)?, date))
    }

    /// Has a graph judged: what is wrong with parts of it, or why it is refused.
    pub(super) fn judge(&self, body: &Json) -> Result<Result<Json, Json>> {
        const PATH: &str = "/comfyd/validate";
        let request = self.authorized(self.agent.post(self.place(PATH)));
        match self.bytes(PATH, request.content_type("application/json").send(body.to_string())) {
            Err(Error::Refused { status: 400, body, .. }) => match serde_json::from_slice(&body) {
                Ok(refusal) => Ok(Err(refusal)),
                Err(source) => Err(failure(Error::NoJson { url: self.place(PATH), source })),
            },
            Err(Error::Refused { url, status: status @ (404 | 405), body }) => {
                let no_comfyd = failure(Error::Refused { url, status, body });
                Err(no_comfyd.hint("only a comfyd judges without running; leave --url out to judge here"))
            }
            Err(error) => Err(failure(error)),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Ok)
                .map_err(|source| failure(Error::NoJson { url: self.place(PATH), source })),
        }
    }

    pub(super) fn get(&self, path: &str) -> Result<Json> {
        self.json(path, self.authorized(self.agent.get(self.place(path))).call()).map_err(failure)
    }

    pub(super) fn post(&self, path: &str, body: &Json) -> Result<Json> {
        let request = self.authorized(self.agent.post(self.place(path)));
        self.json(path, request.content_type("application/json").send(body.to_string())).map_err(failure)
    }

    /// Uploads a picture into the server's input folder; the name it got there.
    pub(super) fn upload(&self, file: &Path) -> Result<String> {
        let unreadable = |source| Error::File { path: file.to_owned(), source };
        let bytes = std::fs::read(file).map_err(unreadable)?;
        let name = file.file_name().ok_or_else(|| unreadable(std::io::ErrorKind::IsADirectory.into()))?;
        let boundary = format!("comfyd-{}", uuid::Uuid::new_v4().simple());
        let name = name.to_string_lossy().replace(['"', '\r', '\n'], "_");
        let mut body = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        body.extend(bytes);
        body.extend(format!("\r\n--{boundary}--\r\n").into_bytes());
        let request = self.authorized(self.agent.post(self.place("/upload/image")));
        let kind = format!("multipart/form-data; boundary={boundary}");
        let stored = self.json("/upload/image", request.content_type(kind).send(body)).map_err(failure)?;
        Ok(stored["name"].as_str().unwrap_or(&name).to_owned())
    }

    /// The bytes of a saved picture, as `images` of a history entry names it.
    pub(super) fn picture(&self, picture: &Json) -> Result<Vec<u8>> {
        let part = |key: &str| {
            let value = picture[key].as_str().unwrap_or_default();
            format!("{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
        };
        let path = format!("/view?{}&{}&{}", part("filename"), part("subfolder"), part("type"));
        self.bytes(&path, self.authorized(self.agent.get(self.place(&path))).call()).map_err(failure)
    }

    fn place(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match self.bearer() {
            Some(bearer) => request.header("Authorization", bearer),
            None => request,
        }
    }

    fn bytes(&self, path: &str, answer: Answer) -> Result<Vec<u8>, Error> {
        let url = self.url.clone();
        let unreachable = |source| Error::Unreachable { url: url.clone(), source: Box::new(source) };
        let mut answer = answer.map_err(unreachable)?;
        let mut bytes = Vec::new();
        let read = answer.body_mut().as_reader().read_to_end(&mut bytes);
        read.map_err(|source| unreachable(source.into()))?;
        match answer.status().as_u16() {
            200..=299 => Ok(bytes),
            401 => Err(Error::Unauthorized { url }),
            status => Err(Error::Refused { url: self.place(path), status, body: bytes }),
        }
    }

    /// An empty answer is `null`.
    fn json(&self, path: &str, answer: Answer) -> Result<Json, Error> {
        let bytes = self.bytes(path, answer)?;
        if bytes.is_empty() {
            return Ok(Json::Null);
        }
        serde_json::from_slice(&bytes).map_err(|source| Error::NoJson { url: self.place(path), source })
    }
}

type Answer = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

/// What the server says is wrong: ComfyUI's message, and what each node complains of.
fn complaint(bytes: &[u8]) -> String {
    let Ok(answer) = serde_json::from_slice::<Json>(bytes) else {
        return String::from_utf8_lossy(bytes).chars().take(300).collect();
    };
    let error = &answer["error"];
    let mut told = error["message"].as_str().or(error.as_str()).unwrap_or("no reason given").to_owned();
    for (node, complaints) in answer["node_errors"].as_object().into_iter().flatten() {
        for complaint in complaints["errors"].as_array().into_iter().flatten() {
            let word = |key: &str| complaint[key].as_str().unwrap_or_default().to_owned();
            let class = complaints["class_type"].as_str().unwrap_or_default();
            // Writing to a text cannot fail.
            let _ = write!(told, "\n  node {node} ({class}): {}: {}", word("message"), word("details"));
        }
    }
    told
}

/// The first of these that the environment sets, or else the file `.env`.
fn first(names: &[&str], kept: &Variables) -> Option<String> {
    let set = names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    set.or_else(|| names.iter().find_map(|name| kept.get(name).map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_name_the_nodes() {
        let answer = br#"{"error": {"type": "x", "message": "No output can run"}, "node_errors": {"3": {"class_type": "KSampler",
            "errors": [{"message": "too small", "details": "steps"}]}}}"#;
        assert_eq!(complaint(answer), "No output can run\n  node 3 (KSampler): too small: steps");
        assert_eq!(complaint(b"{\"error\": \"Authentication required.\"}"), "Authentication required.");
        assert_eq!(complaint(b"<html>"), "<html>");
    }
}
