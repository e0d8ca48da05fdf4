//! `comfyd doctor`: every planted fault is found and named with what helps, and none on a healthy set-up.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value as Json;

use super::{Ended, Server, ended};

const HASH: &str = "$2b$12$abcdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";
const OTHER: &str = "$2b$12$zyxdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";

/// A machine that has what it needs.
struct Patient {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
    arguments: Vec<String>,
    /// Lives as long as the patient: programs, sockets.
    company: Vec<Box<dyn std::any::Any>>,
}

impl Patient {
    fn healthy() -> Self {
        let arguments = ["--listen", "127.0.0.1", "--port", "0"].map(str::to_owned).into();
        let folder = tempfile::tempdir().unwrap();
        let patient = Self { folder, environment: Vec::new(), arguments, company: Vec::new() };
        patient.write("login/PASSWORD", &format!("{HASH}\nalice"));
        patient.write(".secrets/qwen-api-user.token", HASH);
        patient.write(".secrets/comfyui_auth_tokens.conf", &format!(r#"{{"bcrypt_hash": "{HASH}"}}"#));
        for name in ["input", "output", "user", "temp", "models/vae"] {
            std::fs::create_dir_all(patient.path(name)).unwrap();
        }
        patient.write("web/active", "1.27.10\n");
        patient.write("web/1.27.10/index.html", "<html>");
        patient
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.environment.push((name, value.to_owned()));
    }

    fn argue(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    }

    fn keep(&mut self, company: impl std::any::Any) {
        self.company.push(Box::new(company));
    }

    fn examine(&self, more: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
        command.arg("doctor").args(&self.arguments).args(more).current_dir(self.folder.path());
        command.env_clear().envs(self.environment.iter().cloned()).stdin(Stdio::null());
        ended(&mut command)
    }
}

/// Answers every request with the same bytes.
fn answering(answer: &'static str) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ours = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in ours.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (listener, address)
}

fn port_of(address: &str) -> &str {
    address.rsplit(':').next().unwrap()
}

/// What is planted, how bad it is, and the words by which it and its mend are told.
type Fault = (&'static str, fn(&mut Patient), &'static str, &'static str);

const FAULTS: &[Fault] = &[
    (
        "fail",
        |patient| patient.write(".secrets/qwen-api-user.token", OTHER),
        "qwen-api-user.token: it is another token",
        "token sync",
    ),
    (
        "fail",
        |patient| patient.write(".secrets/qwen-api-user.token", &HASH[7..]),
        "eaten `$` parts",
        "token sync",
    ),
    (
        "fail",
        |patient| patient.write(".env", &format!("QWEN_API_TOKEN='{OTHER}'\n")),
        ".env, QWEN_API_TOKEN: it is another token",
        "token sync",
    ),
    (
        "fail",
        |patient| patient.write(".secrets/qwen-api-user.token", &format!("\u{feff}{HASH}")),
        "byte order mark",
        "token sync",
    ),
    (
        "fail",
        |patient| patient.write(".secrets/comfyui_auth_tokens.conf", "{broken"),
        "no JSON document",
        "mend the file",
    ),
    (
        "fail",
        |patient| patient.set("COMFYUI_API_TOKEN", OTHER),
        "the environment, COMFYUI_API_TOKEN",
        "unset it",
    ),
    (
        "warn",
        |patient| {
            let rights = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(patient.path("login/PASSWORD"), rights).unwrap();
        },
        "others on this machine may read it",
        "chmod 600",
    ),
    (
        "fail",
        |patient| patient.write("login/tokens.json", "{broken"),
        "no register of named tokens",
        "mend or delete it",
    ),
    (
        "fail",
        |patient| {
            for name in ["login", ".secrets"] {
                std::fs::remove_dir_all(patient.path(name)).unwrap();
            }
            "0.0.0.0".clone_into(&mut patient.arguments[1]);
        },
        "open to other machines",
        "token new",
    ),
    (
        "fail",
        |patient| {
            std::fs::remove_dir(patient.path("output")).unwrap();
            patient.write("output", "a file");
        },
        "is no folder",
        "name another folder",
    ),
    (
        "fail",
        |patient| patient.argue(&["--input-directory", "/proc/comfyd"]),
        "cannot be written to",
        "give the server's user the right",
    ),
    (
        "fail",
        |patient| patient.write("models/vae/cut.safetensors", "short"),
        "cut.safetensors",
        "download it again",
    ),
    (
        "fail",
        |patient| {
            let text = r#"{"weight_map": {}}"#;
            for name in [
                "diffusion_pytorch_model-00001-of-00005.safetensors",
                "diffusion_pytorch_model.safetensors.index.json",
            ] {
                patient.write(&format!("models/diffusion_models/qwen/{name}"), text);
            }
        },
        "models/diffusion_models/qwen",
        "fetch-models",
    ),
    (
        "warn",
        |patient| patient.write("models/vae/qwen_image_vae.safetensors.part", "half"),
        "a download that has not ended",
        "fetch-models",
    ),
    (
        "warn",
        |patient| std::fs::remove_dir_all(patient.path("web/1.27.10")).unwrap(),
        "no complete version",
        "frontend install",
    ),
    (
        "warn",
        |patient| {
            let file = std::fs::File::create(patient.path("output/late.png")).unwrap();
            file.set_modified(SystemTime::now() + Duration::from_secs(86400)).unwrap();
        },
        "in the future",
        "set the clock",
    ),
    (
        "warn",
        |patient| patient.set("http_proxy", "http://proxy.example:3128"),
        "http_proxy",
        "NO_PROXY=127.0.0.1,localhost",
    ),
    ("fail", |patient| patient.set("HTTPS_PROXY", "http://"), "HTTPS_PROXY", "http://host:port"),
    (
        "fail",
        |patient| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let (silent, address) =
                (listener.try_clone().unwrap(), listener.local_addr().unwrap().to_string());
            // Somebody who takes connections and hangs up.
            std::thread::spawn(move || silent.incoming().for_each(drop));
            port_of(&address).clone_into(&mut patient.arguments[3]);
            patient.keep(listener);
        },
        "taken by",
        "choose another --port",
    ),
    (
        "fail",
        |patient| "192.0.2.1".clone_into(&mut patient.arguments[1]),
        "cannot be used",
        "addresses of this machine",
    ),
    (
        "fail",
        |patient| patient.argue(&["--url", "http://127.0.0.1:9"]),
        "cannot be reached",
        "is the server running there?",
    ),
    (
        "fail",
        |patient| {
            let server = Server::start(Some(OTHER));
            let url = server.url.clone();
            patient.argue(&["--url", &url]);
            patient.keep(server);
        },
        "wants a token",
        "token show --reveal",
    ),
    (
        "warn",
        |patient| {
            let (listener, address) = answering(
                "HTTP/1.1 200 OK\r\nDate: Sat, 01 Nov 2025 12:00:00 GMT\r\nContent-Length: 33\r\nConnection: close\r\n\r\n{\"status\": \"ok\", \"version\": \"1\" }",
            );
            patient.argue(&["--url", &format!("http://{address}")]);
            patient.keep(listener);
        },
        "it differs from the server's",
        "set both",
    ),
    (
        "warn",
        |patient| {
            let server = Server::below(patient.folder.path());
            for (token, times) in [("Bearer secret", 2), ("Bearer None", 1)] {
                for _ in 0..times {
                    let request = reqwest::blocking::Client::new().get(format!("{}/queue", server.url));
                    assert_eq!(request.header("authorization", token).send().unwrap().status(), 401);
                }
            }
            let url = server.url.clone();
            patient.argue(&["--url", &url]);
            patient.keep(server);
        },
        "2 of late, because the token is wrong, and no bcrypt hash",
        "not the password",
    ),
];

#[test]
fn a_healthy_set_up_has_no_faults() {
    let mut patient = Patient::healthy();
    let done = patient.examine(&[]);
    assert_eq!(done.code, Some(0), "{}{}", done.told, done.complaint);
    let doubts: Vec<_> =
        done.told.lines().filter(|line| line.starts_with("warn") || line.starts_with("fail")).collect();
    assert!(doubts.is_empty(), "{doubts:#?}");
    // The same where a server runs, which is found at its port.
    let server = Server::below(patient.folder.path());
    patient.arguments[3] = port_of(&server.url).to_owned();
    let done = patient.examine(&["--json"]);
    let told: Json = serde_json::from_str(&done.told).unwrap();
    assert_eq!((done.code, &told["faults"], &told["warnings"]), (Some(0), &0.into(), &0.into()), "{told:#}");
    let found = |words: &str| {
        let mut checks = told["checks"].as_array().unwrap().iter();
        checks.any(|check| check["problem"].as_str().unwrap().contains(words))
    };
    assert!(
        found("comfyd listens there") && found("it takes the one") && found("version 1.27.10"),
        "{told:#}"
    );
}

#[test]
fn every_planted_fault_is_found_with_its_mend() {
    assert!(FAULTS.len() >= 20);
    for (level, plant, words, mend) in FAULTS {
        let mut patient = Patient::healthy();
        plant(&mut patient);
        let done = patient.examine(&["--json"]);
        let told: Json =
            serde_json::from_str(&done.told).unwrap_or_else(|_| panic!("{words}: {}", done.complaint));
        let line = |check: &&Json| {
            let text =
                format!("{}: {}", check["place"].as_str().unwrap(), check["problem"].as_str().unwrap());
            check["level"] == *level && text.contains(words)
        };
        let found = told["checks"].as_array().unwrap().iter().find(line);
        let found = found.unwrap_or_else(|| panic!("{words} was not found: {told:#}"));
        assert!(found["mend"].as_str().unwrap().contains(mend), "{found}");
        assert_eq!(done.code, Some(i32::from(told["faults"] != 0)), "{words}");
        assert!(*level == "warn" || told["faults"] != 0, "{words}");
        assert!(
            !done.told.contains(&HASH[7..]) && !done.told.contains(&OTHER[7..]),
            "{words} shows a secret"
        );
    }
}
