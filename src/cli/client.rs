//! Talking to a running server, this one or ComfyUI itself: where it is, which token it wants, and what it answers.

pub(super) mod health;
pub(super) mod jobs;
pub(super) mod status;
pub(super) mod submit;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;

use super::{Failure, Result};

const DEFAULT_URL: &str = "http://127.0.0.1:8188";

/// Names under which notebooks and compose files keep the address, and the token.
const URL_NAMES: [&str; 4] = ["COMFYD_URL", "COMFYUI_API_URL", "COMFYUI_URL", "COMFYUI_BASE_URL"];
const TOKEN_NAMES: [&str; 5] =
    ["COMFYD_TOKEN", "COMFYUI_API_TOKEN", "COMFYUI_AUTH_TOKEN", "COMFYUI_BEARER_TOKEN", "QWEN_API_TOKEN"];

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
    #[error("{url} answered {status}: {message}")]
    Refused { url: String, status: u16, message: String },
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
            "the token is the first line of the server's login/PASSWORD; give it by --token-file or COMFYD_TOKEN"
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
        let kept = Kept::read(Path::new(".env"));
        let url = args.url.clone().or_else(|| kept.first(&URL_NAMES));
        let token = match &args.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| Error::Token { path: path.clone(), source })?;
                text.lines().next().map(|line| line.trim().to_owned())
            }
            None => kept.first(&TOKEN_NAMES),
        };
        let agent = crate::http_client::configure().build().into();
        let url = url.unwrap_or_else(|| DEFAULT_URL.to_owned()).trim_end_matches('/').to_owned();
        Ok(Self { agent, url, token: token.filter(|token| !token.is_empty()) })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
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
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
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
            status => Err(Error::Refused { url: self.place(path), status, message: complaint(&bytes) }),
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

/// Settings from the environment and from a file `.env`, in this order.
struct Kept(HashMap<String, String>);

impl Kept {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Self(text.lines().filter_map(setting).collect())
    }

    fn first(&self, names: &[&str]) -> Option<String> {
        let set = names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        set.or_else(|| names.iter().find_map(|name| self.0.get(*name).cloned()))
    }
}

/// `NAME=value` of a line, the quotes taken off.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
    let value = value.trim();
    let quoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    let value = quoted.unwrap_or(value);
    (!name.starts_with('#') && !value.is_empty()).then(|| (name.trim().to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_lose_their_quotes_and_comments_are_none() {
        let pair = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
        assert_eq!(setting("A=$2b$12$x"), pair("A", "$2b$12$x"));
        assert_eq!(setting(" export B = 'x y' "), pair("B", "x y"));
        assert_eq!(setting("C=\"$2b$12$x\""), pair("C", "$2b$12$x"));
        assert_eq!(setting("# D=1"), None);
        assert_eq!(setting("E="), None);
    }

    #[test]
    fn complaints_name_the_nodes() {
        let answer = br#"{"error": {"type": "x", "message": "No output can run"}, "node_errors": {"3": {"class_type": "KSampler",
            "errors": [{"message": "too small", "details": "steps"}]}}}"#;
        assert_eq!(complaint(answer), "No output can run\n  node 3 (KSampler): too small: steps");
        assert_eq!(complaint(b"{\"error\": \"Authentication required.\"}"), "Authentication required.");
        assert_eq!(complaint(b"<html>"), "<html>");
    }
}
