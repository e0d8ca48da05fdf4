//! What the command tells, refuses and returns.

use std::process::Output;
use std::time::Duration;

use crate::hub::{Hub, bytes};
use crate::site::Site;

const MODEL: &str = "owner/name/model.safetensors";

fn told(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn repository_size_licence_and_room_are_told_before_anything_is_downloaded() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    hub.put(MODEL, bytes(1, 2_500_000));
    let done = site.run(&hub, &["--dry-run"]);
    let (out, error) = told(&done);
    assert!(done.status.success(), "{error}");
    for word in ["owner/name model.safetensors", "2.50 MB", "Apache-2.0", &hub.url, "models/vae", " free"] {
        assert!(out.contains(word), "`{word}` is not in:\n{out}");
    }
    assert!(site.files().is_empty() && hub.sent() == 0);
    assert!(site.run(&hub, &[]).status.success());
    assert!(told(&site.run(&hub, &[])).0.contains("is there:"));
}

#[test]
fn what_does_not_fit_is_refused_with_both_numbers() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    hub.put(MODEL, bytes(1, 10));
    hub.mood(|mood| mood.size = Some(1 << 60));
    let done = site.run(&hub, &[]);
    let (_, error) = told(&done);
    assert_eq!(done.status.code(), Some(1));
    assert!(error.contains("1152921504606846976 bytes (1.15 EB) are needed, "), "{error}");
    assert!(error.contains(") are free") && error.contains("--dir"), "{error}");
    assert!(hub.sent() == 0 && site.files().is_empty());
}

#[test]
fn json_says_what_was_done_and_where() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    hub.put(MODEL, bytes(1, 1000));
    let other = site.base.path().join("tree");
    let done = site.run(&hub, &["--json", "--dir", other.to_str().unwrap()]);
    let document: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let file = &document["files"][0];
    assert_eq!((file["state"].as_str(), file["needed"].as_u64()), (Some("fetched"), Some(1000)));
    assert_eq!(
        file["place"].as_str().map(std::path::Path::new),
        Some(other.join("vae/model.safetensors").as_path())
    );
    assert_eq!(std::fs::read(other.join("vae/model.safetensors")).unwrap(), bytes(1, 1000));
}

#[test]
fn the_token_comes_from_the_environment_or_from_the_hubs_own_file() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    hub.put(MODEL, bytes(1, 1000));
    let last = || hub.asked().last().and_then(|asked| asked.token.clone());
    site.run(&hub, &["--dry-run"]);
    assert_eq!(last(), None);
    crate::site::write(&site.base.path().join("hf/token"), b"hf_file\n");
    site.run(&hub, &["--dry-run"]);
    assert_eq!(last().as_deref(), Some("Bearer hf_file"));
    let done = site.program(&hub).arg("--dry-run").env("HF_TOKEN", "hf_given").output().unwrap();
    assert_eq!(last().as_deref(), Some("Bearer hf_given"));
    assert!(!told(&done).0.contains("hf_given"));
}

#[test]
fn proxies_of_the_environment_are_used() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    hub.put(MODEL, bytes(1, 1000));
    let mut command = site.program(&hub);
    command.env("HF_ENDPOINT", "http://hub.example").env("HTTP_PROXY", &hub.url);
    let done = command.arg("--dry-run").output().unwrap();
    assert!(done.status.success(), "{}", told(&done).1);
    assert!(told(&done).0.contains("http://hub.example"));
}

#[test]
fn a_hub_that_is_away_is_told_of_soon() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    let begin = std::time::Instant::now();
    let done = site.run(&hub, &["--endpoint", "http://127.0.0.1:9"]);
    let error = told(&done).1;
    assert!(error.contains("cannot reach http://127.0.0.1:9/") && error.contains("HTTPS_PROXY"), "{error}");
    assert!(done.status.code() == Some(1) && begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn two_runs_at_once_do_not_get_into_each_others_way() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    hub.put(MODEL, bytes(1, 3_000_000));
    hub.mood(|mood| mood.pause = Some(Duration::from_millis(10)));
    let mut first = site.program(&hub).spawn().unwrap();
    while hub.sent() < 100_000 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = site.run(&hub, &[]);
    assert!(told(&second).1.contains("another comfyd is fetching"), "{}", told(&second).1);
    assert!(first.wait().unwrap().success());
    assert_eq!(site.read("vae/model.safetensors"), bytes(1, 3_000_000));
    assert_eq!(hub.sent(), 3_000_000);
}

#[test]
fn mistakes_on_the_command_line_are_told_as_such() {
    let (hub, site) = (Hub::start(), Site::new(&[(MODEL, "vae", "")]));
    let code = |arguments: &[&str], word: &str| {
        let done = site.run(&hub, arguments);
        assert!(told(&done).1.contains(word), "{}", told(&done).1);
        done.status.code()
    };
    assert_eq!(code(&["qwen-image-edit"], "qwen-image-edit-2509"), Some(2));
    assert_eq!(code(&["--endpoint", "hub"], "hint: a hub looks like"), Some(2));
    let listed = site.run(&hub, &["--list"]);
    assert!(told(&listed).0.contains("qwen-image-edit-2509\n") && told(&listed).0.contains("30.07 GB"));
}
