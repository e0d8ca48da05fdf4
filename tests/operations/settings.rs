//! One place for each setting: flags, environment, file, defaults, in this order, and a way to see which it was.

use std::process::Command;

use serde_json::Value as Json;

use super::program::Process;

/// The program with a clean environment, in a folder.
fn program(folder: &std::path::Path, line: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
    command.current_dir(folder).args(line.split_whitespace()).env_clear();
    command.envs(environment.iter().copied()).env("HOME", folder);
    command
}

/// Exit code, stdout, stderr.
fn run(folder: &std::path::Path, line: &str, environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = program(folder, line, environment).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn folder(settings: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("comfyd.toml"), settings).unwrap();
    folder
}

/// Value and source of a setting.
fn shown(folder: &std::path::Path, flags: &str, environment: &[(&str, &str)], name: &str) -> (Json, String) {
    let (code, out, told) = run(folder, &format!("config show --json {flags}"), environment);
    assert_eq!(code, Some(0), "{told}");
    let shown: Json = serde_json::from_str(&out).unwrap();
    (shown[name]["value"].clone(), shown[name]["source"].as_str().unwrap().to_owned())
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults() {
    let folder = folder("\u{feff}port = 1001\r\nidle_unload = 30\r\nlogin = true\r\n");
    let folder = folder.path();
    let own = [("COMFYD_PORT", "1002"), ("COMFYUI_PORT", "1003")];
    assert_eq!(shown(folder, "--port 1", &own, "port"), (1.into(), "flag --port".to_owned()));
    assert_eq!(shown(folder, "", &own, "port"), (1002.into(), "environment COMFYD_PORT".to_owned()));
    assert_eq!(shown(folder, "", &own[1..], "port"), (1003.into(), "environment COMFYUI_PORT".to_owned()));
    let empty = [("COMFYD_PORT", ""), ("COMFYUI_PORT", "")];
    let (value, source) = shown(folder, "", &empty, "port");
    assert_eq!(value, 1001);
    assert!(source.starts_with("file ") && source.ends_with("comfyd.toml"), "{source}");
    assert_eq!(shown(folder, "", &[], "login").0, true);
    assert_eq!(shown(folder, "", &[], "drain"), (6.into(), "default".to_owned()));
    assert_eq!(shown(folder, "", &[], "token-file"), (Json::Null, "not set".to_owned()));
    let idle = [("IDLE_TIMEOUT", "1200")];
    assert_eq!(shown(folder, "", &idle, "idle-unload"), (1200.into(), "environment IDLE_TIMEOUT".to_owned()));
    assert_eq!(shown(folder, "", &[("VERBOSE_LOGGING", "true")], "verbose").0, "true");
}

#[test]
fn what_is_shown_can_be_the_file() {
    let here =
        folder("listen = \"127.0.0.1\"\nmax-login-attempts = 3\nextra-model-paths-config = [\"x.yaml\"]\n");
    let (code, out, _) = run(here.path(), "config show --port 9", &[]);
    assert_eq!(code, Some(0));
    assert!(
        out.lines().any(|line| line.starts_with("port = 9 ") && line.ends_with("# flag --port")),
        "{out}"
    );
    let again = folder(&out);
    let line = format!("config show --config {}/comfyd.toml", again.path().display());
    let (code, copy, told) = run(here.path(), &line, &[]);
    assert_eq!(code, Some(0), "{told}");
    let values = |text: &str| -> Vec<String> {
        let value = |line: &str| line.split("  #").next().unwrap().trim_end().to_owned();
        text.lines().map(value).filter(|line| !line.starts_with("base-directory")).collect()
    };
    assert_eq!(values(&copy), values(&out));
}

#[test]
fn a_mistake_in_the_file_ends_every_subcommand_with_code_2() {
    let folder = folder("idel-unload = 5\n");
    for line in ["serve", "config show", "nodes", "health"] {
        let (code, _, told) = run(folder.path(), line, &[]);
        assert_eq!(code, Some(2), "{line}: {told}");
        assert!(told.contains("`idel-unload`") && told.contains("`idle-unload`"), "{told}");
    }
}

#[test]
fn a_container_of_comfyuis_users_starts_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let environment = [
        ("COMFYUI_PORT", "0"),
        ("COMFYUI_LISTEN", "0.0.0.0"),
        ("CUDA_VISIBLE_DEVICES", "0"),
        ("NVIDIA_VISIBLE_DEVICES", "0"),
        ("GPU_DEVICE_ID", "0"),
        ("TZ", "Europe/Paris"),
        ("COMFYUI_LOGIN_ENABLED", "true"),
        ("GUEST_MODE_ENABLED", "false"),
        ("SECRET_KEY", "s3cret-key"),
        ("CORS_ENABLED", "true"),
        ("VERBOSE_LOGGING", "false"),
        ("API_TIMEOUT", "30"),
        ("MAX_LOGIN_ATTEMPTS", "3"),
        ("SESSION_EXPIRE_HOURS", "24"),
        ("IDLE_TIMEOUT", "1200"),
        ("CHECK_INTERVAL", "60"),
        ("HF_TOKEN", "hf_s3cret"),
        ("CIVITAI_TOKEN", ""),
    ];
    let line = "serve --preview-method auto --use-split-cross-attention";
    let mut command = program(folder.path(), line, &environment);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let process = Process::of(&mut command);
    let log = process.log.clone();
    for name in ["SECRET_KEY", "CORS_ENABLED", "API_TIMEOUT", "CHECK_INTERVAL"] {
        assert!(log.contains(&format!("{name} is set and means nothing here")), "{name}: {log}");
    }
    assert!(!log.contains("GUEST_MODE_ENABLED") && !log.contains("CIVITAI_TOKEN"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
    let (_, out, told) = run(folder.path(), "config show", &environment);
    assert!(!out.contains("s3cret") && !told.contains("s3cret"), "{out}{told}");
}

#[test]
fn the_probe_of_containers_says_how_the_server_is() {
    let base = tempfile::tempdir().unwrap();
    let process = Process::start(base.path(), &[]);
    let port = process.url.rsplit(':').next().unwrap().to_owned();
    let probe =
        |line: &str| run(base.path(), line, &[("COMFYUI_PORT", &port), ("HTTP_PROXY", "http://127.0.0.1:1")]);
    assert_eq!(probe("health"), (Some(0), "ok\n".to_owned(), String::new()));
    assert_eq!(probe("health --ready"), (Some(0), "ready\n".to_owned(), String::new()));
    process.signal("TERM");
    process.end();
    let (code, _, told) = probe("health");
    assert!(code == Some(1) && told.contains("does not answer"), "{told}");
}
