//! A server with the miniature checkpoints, in a folder that outlives it.

use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use serde_json::{Value as Json, json};

use super::program::{Process, comfyd};
use super::{golden, tiny_qwen};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder for servers.
pub struct Studio(tempfile::TempDir);

impl Studio {
    pub fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(tiny_qwen::models(), base.path().join("models")).unwrap();
        Self(base)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn open(&self, flags: &[&str]) -> Open {
        Open { process: Process::of(comfyd(self.path(), flags).args(["--port", "0"])), http: Client::new() }
    }

    pub fn journal(&self) -> std::path::PathBuf {
        self.path().join("user/comfyd/queue.journal")
    }
}

/// A server that runs.
pub struct Open {
    pub process: Process,
    http: Client,
}

impl Open {
    pub fn get(&self, path: &str) -> Json {
        self.http.get(format!("{}{path}", self.process.url)).send().unwrap().json().unwrap()
    }

    /// An answer to a request that carries a token, or none.
    pub fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.process.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.body(body.to_owned()).send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    }

    pub fn status(&self, path: &str) -> u16 {
        self.http.get(format!("{}{path}", self.process.url)).send().unwrap().status().as_u16()
    }

    pub fn post(&self, path: &str, body: &Json) -> (u16, Json) {
        let answer =
            self.http.post(format!("{}{path}", self.process.url)).body(body.to_string()).send().unwrap();
        (answer.status().as_u16(), answer.json().unwrap_or(Json::Null))
    }

    /// Queues a graph under an id.
    pub fn queue(&self, id: &str, graph: &Json) {
        self.queue_for(id, graph, json!({}));
    }

    pub fn queue_for(&self, id: &str, graph: &Json, more: Json) {
        let mut body = json!({"prompt": graph, "prompt_id": id});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = self.post("/prompt", &body);
        assert_eq!(status, 200, "{answer}");
    }

    /// Waits for the first step of a job.
    pub fn wait_until_it_samples(&self) {
        self.wait_for("a step", || {
            let jobs = self.get("/api/jobs?status=in_progress");
            jobs["jobs"].as_array().is_some_and(|jobs| !jobs.is_empty())
        });
        // Loading takes no longer.
        std::thread::sleep(Duration::from_millis(400));
    }

    pub fn wait_for(&self, what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < PATIENCE, "{what} does not come from {}", self.process.url);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The history entry of a job, once it is there.
    pub fn finished(&self, id: &str) -> Json {
        let path = format!("/history/{id}");
        self.wait_for(id, || self.get(&path).get(id).is_some());
        self.get(&path)[id].clone()
    }

    /// The ids of the jobs that run and wait, in order.
    pub fn open_jobs(&self) -> Vec<String> {
        let queue = self.get("/queue");
        let lists = ["queue_running", "queue_pending"].map(|key| queue[key].as_array().unwrap().clone());
        lists.concat().iter().map(|job| job[1].as_str().unwrap().to_owned()).collect()
    }

    /// Ends it as a crash or the kernel would.
    pub fn kill(mut self) {
        self.process.child.kill().unwrap();
        self.process.child.wait().unwrap();
    }
}

/// A picture made with so many steps.
pub fn sampling(steps: u32, seed: u64) -> Json {
    let file = std::fs::read(golden::path("workflows/t2i_basic.json")).unwrap();
    let mut graph: Json = serde_json::from_slice(&file).unwrap();
    for node in graph.as_object_mut().unwrap().values_mut() {
        if node["class_type"] == "KSampler" {
            node["inputs"]["steps"] = json!(steps);
            node["inputs"]["seed"] = json!(seed);
        }
    }
    graph
}

/// A picture of one colour, at once.
pub fn colour(value: u32) -> Json {
    json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": value}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "colour"}},
    })
}
