//! The program itself in a process of its own: its flags, its log, its end.
#![allow(clippy::unwrap_used, dead_code, reason = "test code; not every test binary uses all of it")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub fn comfyd(base: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
    command.arg("serve").arg("--base-directory").arg(base).args(flags);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code and stderr of a start that must fail.
pub fn refused(base: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let output = comfyd(base, flags).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A server in a process of its own.
pub struct Process {
    pub child: Child,
    pub url: String,
    lines: mpsc::Receiver<String>,
    pub log: String,
}

impl Process {
    pub fn start(base: &Path, flags: &[&str]) -> Self {
        Self::of(comfyd(base, flags).args(["--port", "0"]))
    }

    pub fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut process = Self { child, url: String::new(), lines, log: String::new() };
        let line = process.wait_for("listening on ");
        process.url.push_str(line.split("listening on ").nth(1).unwrap().split([' ', '"']).next().unwrap());
        process
    }

    pub fn wait_for(&mut self, words: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(20));
            let line = line.unwrap_or_else(|_| panic!("no line with {words:?} in:\n{}", self.log));
            self.log += &line;
            self.log.push('\n');
            if line.contains(words) {
                return line;
            }
        }
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Exit code, the whole log, and how long the end took.
    pub fn end(mut self) -> (Option<i32>, String, Duration) {
        let asked = Instant::now();
        let status = self.child.wait().unwrap();
        let took = asked.elapsed();
        for line in &self.lines {
            self.log += &line;
            self.log += "\n";
        }
        (status.code(), std::mem::take(&mut self.log), took)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
