//! A package index on this machine, which may misbehave.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Cursor, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// What is sent for one path.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub kind: &'static str,
    pub body: Vec<u8>,
    /// Only so many bytes of the body are sent.
    pub cut: Option<usize>,
    /// Nothing follows after the cut, but the line stays open.
    pub stalls: bool,
}

impl Answer {
    pub fn of(kind: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, kind, body: body.into(), cut: None, stalls: false }
    }
}

type Answers = Arc<Mutex<HashMap<String, Answer>>>;

pub struct Mirror {
    pub url: String,
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
}

pub const PAGE: &str = "/simple/comfyui-frontend-package/";
pub const JSON: &str = "application/vnd.pypi.simple.v1+json";

impl Mirror {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/simple", listener.local_addr().unwrap());
        let (answers, asked) = (Answers::default(), Arc::<Mutex<Vec<String>>>::default());
        let (served, noted) = (answers.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (served, noted) = (served.clone(), noted.clone());
                std::thread::spawn(move || drop(serve(stream.unwrap(), &served, &noted)));
            }
        });
        Self { url, answers, asked }
    }

    pub fn put(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// Publishes wheels under their versions, with true digests.
    pub fn publish(&self, wheels: &[(&str, Vec<u8>)]) {
        let files: Vec<_> = wheels
            .iter()
            .map(|(version, bytes)| {
                let name = format!("comfyui_frontend_package-{version}-py3-none-any.whl");
                self.put(&format!("/files/{name}"), Answer::of("application/octet-stream", bytes.clone()));
                json!({
                    "filename": name, "url": format!("../../files/{name}"), "size": bytes.len(),
                    "hashes": {"sha256": digest(bytes)}, "yanked": false,
                })
            })
            .collect();
        self.put(PAGE, Answer::of(JSON, json!({"meta": {}, "files": files}).to_string()));
    }

    /// Changes the answer for a wheel.
    pub fn spoil(&self, version: &str, change: impl FnOnce(&mut Answer)) {
        let path = format!("/files/comfyui_frontend_package-{version}-py3-none-any.whl");
        change(self.answers.lock().unwrap().get_mut(&path).unwrap());
    }

    /// The paths that were asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, answers: &Answers, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let path = first.split_whitespace().nth(1).unwrap().to_owned();
    let answer = answers.lock().unwrap().get(&path).cloned();
    asked.lock().unwrap().push(path);
    let missing = Answer { status: 404, ..Answer::of("text/plain", "nothing here") };
    let Answer { status, kind, body, cut, stalls } = answer.unwrap_or(missing);
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )?;
    stream.write_all(&body[..cut.unwrap_or(length)])?;
    stream.flush()?;
    if stalls {
        std::thread::sleep(Duration::from_secs(120));
    }
    Ok(())
}

pub fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// A package whose entries have these names.
pub fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A package that shows this text.
pub fn wheel(text: &str) -> Vec<u8> {
    archive(&[
        ("comfyui_frontend_package/__init__.py", ""),
        ("comfyui_frontend_package/static/index.html", &format!("<html>{text}</html>")),
        ("comfyui_frontend_package/static/assets/app.js", "let app;"),
        ("comfyui_frontend_package/static/extensions/core/a.js", "let a;"),
        ("comfyui_frontend_package/static/extensions/core/a.js.map", "{}"),
        ("comfyui_frontend_package-1.0.dist-info/METADATA", "Name: comfyui_frontend_package"),
    ])
}
