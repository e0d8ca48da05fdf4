//! ComfyUI's modules in a Python process, run one call at a time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The process, as long as it lives.
pub struct Peer {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it where `COMFYUI` names ComfyUI's folder; `PYTHON` is the interpreter that has what it needs.
    pub fn start() -> Option<Self> {
        std::env::var_os("COMFYUI")?;
        let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        let mut process = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peer/comfyui.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python");
        let (questions, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut peer = Self { process, questions, answers: BufReader::new(answers) };
        assert_eq!(peer.line(), "ready", "ComfyUI did not start");
        Some(peer)
    }

    /// Seconds that one run of a case takes.
    pub fn run(&mut self, case: &str, precision: &str) -> f64 {
        writeln!(self.questions, "{case} {precision}").unwrap();
        self.line().parse().unwrap_or_else(|_| panic!("ComfyUI failed at {case} {precision}"))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
