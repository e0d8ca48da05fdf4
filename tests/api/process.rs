//! The program itself: flags, exit codes, what it logs, how it ends.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, get};
use serde_json::{Value as Json, json};

use super::program::{Process, comfyd, refused};

const HASH: &str = "$2b$12$abcdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";

#[test]
fn without_a_token_the_server_stays_on_this_machine() {
    let base = tempfile::tempdir().unwrap();
    for flags in [&["--listen"][..], &["--listen", "0.0.0.0"], &["--listen", "127.0.0.1,::"]] {
        let (code, told) = refused(base.path(), flags);
        assert_eq!(code, Some(2), "{told}");
        assert!(told.starts_with("error: refusing to listen on ") && told.contains("\nhint: "), "{told}");
        assert!(told.contains("login/PASSWORD") && told.contains("--token-file"), "{told}");
    }
}

#[test]
fn with_a_token_it_listens_everywhere() {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join("login")).unwrap();
    std::fs::write(base.path().join("login/PASSWORD"), HASH).unwrap();
    let process = Process::start(base.path(), &["--listen"]);
    let port = process.url.rsplit(':').next().unwrap();
    let status = get(format!("http://127.0.0.1:{port}/prompt")).unwrap().status();
    assert_eq!(status, 401);
}

#[test]
fn bad_usage_ends_with_code_2_and_says_why() {
    let base = tempfile::tempdir().unwrap();
    let empty = base.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    let empty = empty.to_str().unwrap();
    for (flags, words) in [
        (&["--token-file", "/no/such/file"][..], "/no/such/file"),
        (&["--token-file", empty], "first line"),
        (&["--port", "70000"], "70000"),
        (&["--preview-method", "fancy"], "latent2rgb"),
        (&["--listen", "no such host"], "no such host"),
        (&["--listen", ""], "names no address"),
        (&["--cache-lru", "3", "--cache-none"], "--cache-none"),
        (&["--no-such-flag"], "--no-such-flag"),
        (&["--extra-model-paths-config", "/no/such.yaml"], "/no/such.yaml"),
    ] {
        let (code, told) = refused(base.path(), flags);
        assert_eq!(code, Some(2), "{flags:?}: {told}");
        assert!(told.contains(words), "{flags:?}: {told}");
    }
}

#[test]
fn a_taken_port_is_a_failure_with_its_cause() {
    let base = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    std::fs::create_dir(base.path().join("temp")).unwrap();
    std::fs::write(base.path().join("temp/kept.png"), "x").unwrap();
    let (code, told) = refused(base.path(), &["--port", &port]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{told}");
    assert!(base.path().join("temp/kept.png").exists(), "the folders of a running server are left alone");
}

#[test]
fn comfyuis_flags_are_understood_or_accepted_with_a_warning() {
    let base = tempfile::tempdir().unwrap();
    let outputs = base.path().join("elsewhere/out");
    let flags = [
        "--preview-method",
        "auto",
        "--use-split-cross-attention",
        "--reserve-vram",
        "1.5",
        "--verbose",
        "DEBUG",
        "--cache-lru",
        "10",
        "--max-upload-size",
        "0.5",
        "--enable-cors-header",
        "--output-directory",
        outputs.to_str().unwrap(),
    ];
    let process = Process::start(base.path(), &flags);
    assert!(process.log.contains("--use-split-cross-attention --reserve-vram"), "{}", process.log);
    assert!(outputs.is_dir() && base.path().join("models/diffusion_models").is_dir());
    let features = get(format!("{}/features", process.url)).unwrap();
    assert_eq!(features.headers()["access-control-allow-origin"], "*");
    assert_eq!(features.json::<Json>().unwrap()["max_upload_size"], 512 << 10);
}

#[test]
fn the_log_tells_why_a_request_was_refused_and_never_the_token() {
    let base = tempfile::tempdir().unwrap();
    let token = base.path().join("token");
    std::fs::write(&token, HASH).unwrap();
    let mut command = comfyd(base.path(), &["--verbose", "DEBUG", "--port", "0"]);
    let mut process = Process::of(command.env("COMFYD_TOKEN_FILE", &token));
    let client = Client::new();
    let ask = |authorization: &str| {
        let request = client.get(format!("{}/prompt", process.url)).header("Authorization", authorization);
        request.send().unwrap().status()
    };
    assert_eq!(ask("Bearer my-raw-password"), 401);
    assert_eq!(ask(HASH), 401);
    assert_eq!(ask(&format!("Bearer {HASH}")), 200);
    assert_eq!(get(format!("{}/system_stats?token={HASH}", process.url)).unwrap().status(), 200);
    assert_eq!(get(format!("{}/no/such?token={HASH}x", process.url)).unwrap().status(), 401);
    process.wait_for("no bcrypt hash");
    process.wait_for("not two words");
    process.wait_for("was it cut");
    process.signal("TERM");
    let (code, log, _) = process.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(&HASH[8..40]) && !log.contains("my-raw-password"), "{log}");
}

#[test]
fn a_prompt_sent_over_a_websocket_is_warned_about_once() {
    let base = tempfile::tempdir().unwrap();
    let mut process = Process::start(base.path(), &[]);
    let address = format!("ws{}/ws", process.url.trim_start_matches("http"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use futures_util::{SinkExt as _, StreamExt as _};
        let (mut socket, _) = tokio_tungstenite::connect_async(address).await.unwrap();
        let graph = r#"{"1": {"class_type": "PreviewImage", "inputs": {}}}"#;
        for text in [format!(r#"{{"prompt": {graph}}}"#), graph.to_owned(), format!(r#"{{"data": {graph}}}"#)]
        {
            socket.send(text.into()).await.unwrap();
        }
        socket.close(None).await.unwrap();
        while socket.next().await.is_some_and(|frame| frame.is_ok()) {}
    });
    process.wait_for("prompts go to POST /prompt");
    process.signal("TERM");
    let (_, log, _) = process.end();
    assert_eq!(log.matches("POST /prompt").count(), 1, "{log}");
}

#[test]
fn a_token_that_looks_wrong_is_warned_about() {
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join("login")).unwrap();
    std::fs::write(base.path().join("login/PASSWORD"), &HASH[..30]).unwrap();
    let process = Process::start(base.path(), &[]);
    assert!(process.log.contains("was it cut"), "{}", process.log);
}

#[test]
fn signals_end_the_server_with_success() {
    for name in ["TERM", "INT"] {
        let base = tempfile::tempdir().unwrap();
        let process = Process::start(base.path(), &[]);
        get(format!("{}/prompt", process.url)).unwrap();
        process.signal(name);
        let (code, log, took) = process.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(took < Duration::from_secs(2), "{name}: {took:?}");
    }
}

#[test]
fn a_quiet_server_serves_as_well() {
    let base = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut child = comfyd(base.path(), &["--verbose", "ERROR", "--port", &port]).spawn().unwrap();
    let answers = || get(format!("http://127.0.0.1:{port}/prompt")).is_ok();
    let begun = Instant::now();
    while !answers() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(answers(), "it goes on until it is told to end");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn it_starts_at_once_and_small() {
    let base = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let process = Process::start(base.path(), &[]);
    let stats: Json = get(format!("{}/system_stats", process.url)).unwrap().json().unwrap();
    let took = begun.elapsed();
    assert_eq!(stats["devices"][0]["type"], "cpu");
    // About 20 ms where this was written; the limit leaves room for busy machines.
    assert!(took < Duration::from_secs(1), "{took:?}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let resident = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    let kilobytes: u64 = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kilobytes < 60 << 10, "{kilobytes} kB");
}

#[test]
fn fast_arithmetic_is_told_where_there_is_a_unit_for_it() {
    let base = tempfile::tempdir().unwrap();
    // The word is one of ComfyUI's.
    let process = Process::start(base.path(), &["--fast", "fp16_accumulation", "--bf16-vae"]);
    let stats: Json = get(format!("{}/system_stats", process.url)).unwrap().json().unwrap();
    let ours = &stats["comfyd"];
    let fast = if ours["bf16_unit"].is_null() { "f32" } else { "f32, products of bf16" };
    assert_eq!(ours["arithmetic"], json!({"diffusion": fast, "text": fast, "vae": "bf16"}));
}

#[test]
fn help_is_grouped_and_names_the_environment() {
    let output = Command::new(env!("CARGO_BIN_EXE_comfyd")).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for words in
        ["Network:", "Security:", "Folders:", "Running:", "Logging:", "COMFYD_TOKEN_FILE", "--listen [<IP>]"]
    {
        assert!(help.contains(words), "{words}");
    }
    assert!(help.lines().all(|line| line.len() <= 110), "lines fit a terminal");
    let mut nothing = Command::new(env!("CARGO_BIN_EXE_comfyd")).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    nothing.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(nothing.wait().unwrap().code(), Some(2));
    assert!(told.contains("Usage: comfyd"), "{told}");
}
