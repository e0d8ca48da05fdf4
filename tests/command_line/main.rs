//! The subcommands that talk to a running server, and those that look after the token and the machine.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod doctor;
mod graphs;
mod selftest;
mod token;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value as Json, json};

const TOKEN: &str = "$2b$12$abcdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";

/// A server in a process of its own, and a folder for the commands that talk to it.
struct Server {
    child: Child,
    url: String,
    folder: tempfile::TempDir,
}

/// How a command ended: exit code, stdout, stderr.
struct Ended {
    code: Option<i32>,
    told: String,
    complaint: String,
}

impl Server {
    fn start(token: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("server");
        std::fs::create_dir_all(&base).unwrap();
        let mut flags = Vec::new();
        if let Some(token) = token {
            std::fs::write(folder.path().join("token"), token).unwrap();
            flags = vec!["--token-file".into(), folder.path().join("token")];
        }
        Self::launch(folder, &base, &flags)
    }

    /// A server in a folder that is there already.
    fn below(base: &Path) -> Self {
        Self::launch(tempfile::tempdir().unwrap(), base, &[])
    }

    fn launch(folder: tempfile::TempDir, base: &Path, flags: &[PathBuf]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
        command
            .args(["serve", "--port", "0", "--base-directory"])
            .arg(base)
            .args(flags)
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains("listening on ")).unwrap();
        let url = line.split("listening on ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
        command.args(arguments).current_dir(self.folder.path()).env("COMFYD_URL", &self.url);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        ended(&mut self.command(arguments))
    }

    fn graph(&self, name: &str, graph: &Json) -> String {
        std::fs::write(self.path(name), graph.to_string()).unwrap();
        name.to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), told: text(output.stdout), complaint: text(output.stderr) }
}

fn inverted() -> Json {
    json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "nothing.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "inverted"}},
    })
}

fn photo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workflows/input/coffee.jpg")
}

#[test]
fn a_graph_goes_to_the_server_and_its_picture_comes_back() {
    let server = Server::start(None);
    let graph = server.graph("graph.json", &inverted());
    let image = format!("1={}", photo().display());
    let done = server.run(&[
        "submit",
        &graph,
        "--image",
        &image,
        "--set",
        "3.filename_prefix=mine",
        "--output",
        "got",
    ]);
    assert_eq!(done.code, Some(0), "{}", done.complaint);
    let picture = server.path("got/mine_00001_.png");
    assert!(done.told.ends_with("got/mine_00001_.png\n"), "{}", done.told);
    assert_eq!(
        std::fs::read(picture).unwrap(),
        std::fs::read(server.path("server/output/mine_00001_.png")).unwrap()
    );
    let id = done.told.lines().next().unwrap();
    let again = server.run(&["wait", id]);
    assert_eq!((again.code, again.told.as_str()), (Some(0), "mine_00001_.png\n"));
}

#[test]
fn a_refused_graph_is_told_node_by_node() {
    let server = Server::start(None);
    let graph = server.graph("graph.json", &inverted());
    let refused = server.run(&["submit", &graph]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.complaint.contains("node 1 (LoadImage)"), "{}", refused.complaint);
    assert!(refused.complaint.contains("Invalid image file: nothing.png"), "{}", refused.complaint);
}

#[test]
fn status_and_queue_tell_how_the_server_does() {
    let server = Server::start(None);
    let status = server.run(&["status"]);
    assert!(status.told.contains("queue   0 running, 0 waiting"), "{}{}", status.told, status.complaint);
    let facts: Json = serde_json::from_str(&server.run(&["status", "--json"]).told).unwrap();
    assert_eq!((&facts["running"], &facts["url"]), (&json!(0), &json!(server.url)));
    assert_eq!(server.run(&["queue"]).told, "nothing runs or waits\n");
    assert!(server.run(&["logs"]).told.contains("listening on"));
}

#[test]
fn jobs_are_cancelled_wherever_they_are() {
    let server = Server::start(None);
    // A long chain keeps the server busy.
    let mut slow = serde_json::Map::new();
    slow.insert("0".to_owned(), json!({"class_type": "EmptyImage", "inputs": {"width": 2048, "height": 2048, "batch_size": 1, "color": 1}}));
    for step in 1..200 {
        slow.insert(
            step.to_string(),
            json!({"class_type": "ImageScale", "inputs": {"image": [(step - 1).to_string(), 0],
            "upscale_method": "lanczos", "width": 2048 + step, "height": 2048, "crop": "disabled"}}),
        );
    }
    slow.insert("save".to_owned(), json!({"class_type": "PreviewImage", "inputs": {"images": ["199", 0]}}));
    let graph = server.graph("slow.json", &Json::Object(slow));
    let ids: Vec<String> = (0..2).map(|_| server.run(&["submit", &graph]).told.trim().to_owned()).collect();
    let queue = server.run(&["queue"]).told;
    assert_eq!(queue.lines().count(), 2, "{queue}");
    let cancelled = server.run(&["cancel", &ids[1], &ids[0]]);
    assert_eq!(cancelled.code, Some(0), "{}", cancelled.complaint);
    let ended = server.run(&["wait", &ids[0]]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.complaint.contains("the job was interrupted"), "{}", ended.complaint);
    let unknown = server.run(&["cancel", "no-such-job"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.complaint.contains("`comfyd queue` lists the jobs"), "{}", unknown.complaint);
}

#[test]
fn a_token_comes_from_a_file_or_from_the_notebooks_settings() {
    let server = Server::start(Some(TOKEN));
    let none = server.run(&["status"]);
    assert_eq!(none.code, Some(1));
    assert!(none.complaint.contains("wants a token"), "{}", none.complaint);
    assert_eq!(server.run(&["status", "--token-file", "token"]).code, Some(0));
    std::fs::write(server.path(".env"), format!("COMFYUI_API_TOKEN='{TOKEN}'\n")).unwrap();
    let kept = server.run(&["status"]);
    assert_eq!(kept.code, Some(0), "{}", kept.complaint);
    assert!(!kept.told.contains(TOKEN));
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let server = Server::start(None);
    let nobody = server.run(&["status", "--url", "http://127.0.0.1:9"]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.complaint.contains("http://127.0.0.1:9 cannot be reached"), "{}", nobody.complaint);
    assert!(nobody.complaint.contains("is the server running there?"), "{}", nobody.complaint);
}
