//! `comfyd frontend`, with an index on this machine, and the server that shows what it installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::json;

use super::mirror::{Answer, JSON, Mirror, PAGE, archive, digest, wheel};
use super::server::{Options, Server};

fn command(base: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
    command.arg("frontend").args(arguments).arg("--base-directory").arg(base);
    command.env_remove("PIP_INDEX_URL").env_remove("HTTP_PROXY").env_remove("http_proxy");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a command prints when it succeeds.
fn done(base: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = command(base, arguments).output().unwrap();
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

/// What a command complains about when it fails.
fn refused(base: &Path, arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = command(base, arguments).output().unwrap();
    assert!(!status.success(), "{arguments:?}");
    let complaint = String::from_utf8_lossy(&stderr).into_owned();
    assert!(complaint.contains("error: ") && complaint.contains("hint: "), "{complaint}");
    complaint
}

/// What lies in the web folder, apart from the lock.
fn there(base: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(base.join("web")).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter(|name| name != ".lock").collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_shows_what_is_installed_meanwhile() {
    let server = Server::start().await;
    let client = server.client();
    let text = async |path: &str| client.get(path).await.text().await.unwrap();
    assert!(text("/").await.contains("comfyd frontend install"));
    let own = "/extensions/comfyd/about.js";
    assert_eq!(client.json("/extensions").await, json!([own]));
    assert_eq!(client.get(own).await.headers()[CONTENT_TYPE], "text/javascript; charset=utf-8");
    let mirror = Mirror::start();
    mirror.publish(&[("1.27.10", wheel("one")), ("1.58.1", wheel("two"))]);
    let told = done(server.base(), &["install", "--index", &mirror.url]);
    assert!(told.contains("GPL-3.0-only") && told.contains(&digest(&wheel("one"))), "{told}");
    assert!(told.contains("installed 1.27.10"), "{told}");
    let page = client.get("/").await;
    assert_eq!(page.headers()[CACHE_CONTROL], "no-cache");
    assert_eq!(page.text().await.unwrap(), "<html>one</html>");
    assert_eq!(client.json("/extensions").await, json!([own, "/extensions/core/a.js"]));
    let script = client.get("/assets/app.js").await;
    assert_eq!(script.headers()[CACHE_CONTROL], "no-cache");
    assert_eq!(script.headers()[CONTENT_TYPE], "text/javascript");
    for path in ["/templates/index.json", "/METADATA", "/__init__.py", "/active", "/%2e%2e/active"] {
        assert_eq!(client.get(path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let own = text("/comfyd").await;
    assert!(own.contains("data-interface=\"installed\""), "comfyd's own page stays within reach");
    done(server.base(), &["install", "latest", "--index", &mirror.url]);
    assert_eq!(text("/").await, "<html>two</html>");
    assert!(done(server.base(), &["list"]).contains("* 1.58.1"));
    done(server.base(), &["remove", "1.58.1"]);
    assert!(text("/").await.contains("comfyd frontend install"));
    assert!(done(server.base(), &["list"]).contains("  1.27.10"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_given_by_flag_counts_more_than_what_is_installed() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("index.html"), "given").unwrap();
    let given = Some(root.path().to_owned());
    let server = Server::with(Options { web_root: given, ..Options::default() }).await;
    let mirror = Mirror::start();
    mirror.publish(&[("1.0.0", wheel("installed"))]);
    done(server.base(), &["install", "1.0.0", "--index", &mirror.url]);
    assert_eq!(server.client().get("/").await.text().await.unwrap(), "given");
}

/// A folder with version 1.0.0 in use, and the index it came from.
fn installed() -> (tempfile::TempDir, Mirror) {
    let base = tempfile::tempdir().unwrap();
    let mirror = Mirror::start();
    mirror.publish(&[("1.0.0", wheel("one")), ("2.0.0", wheel("two"))]);
    done(base.path(), &["install", "1.0.0", "--index", &mirror.url]);
    (base, mirror)
}

/// That nothing has changed since [`installed`].
fn untouched(base: &Path) {
    assert_eq!(there(base), ["1.0.0", "active"]);
    assert_eq!(std::fs::read_to_string(base.join("web/active")).unwrap(), "1.0.0\n");
    assert_eq!(std::fs::read_to_string(base.join("web/1.0.0/index.html")).unwrap(), "<html>one</html>");
}

#[test]
fn a_download_that_is_not_what_the_index_promised_changes_nothing() {
    let (base, mirror) = installed();
    let install = ["install", "2.0.0", "--index", &mirror.url];
    mirror.spoil("2.0.0", |answer| answer.body = wheel("changed on the way"));
    let complaint = refused(base.path(), &install);
    assert!(complaint.contains(&digest(&wheel("two"))), "{complaint}");
    assert!(complaint.contains(&digest(&wheel("changed on the way"))), "{complaint}");
    untouched(base.path());
    mirror.spoil("2.0.0", |answer| answer.cut = Some(100));
    assert!(refused(base.path(), &install).contains("ended after 100 bytes"));
    untouched(base.path());
    mirror.spoil("2.0.0", |answer| answer.status = 404);
    assert!(refused(base.path(), &install).contains("answers 404"));
    untouched(base.path());
}

#[test]
fn packages_that_reach_out_of_their_folder_are_refused_whole() {
    let (base, mirror) = installed();
    let index = ("comfyui_frontend_package/static/index.html", "<html>evil</html>");
    let outside = base.path().join("evil.txt");
    let absolute = outside.to_string_lossy().into_owned();
    for name in [
        "comfyui_frontend_package/static/../../../../evil.txt",
        "../evil.txt",
        &absolute,
        "comfyui_frontend_package\\static\\..\\evil.txt",
    ] {
        mirror.publish(&[("2.0.0", archive(&[index, (name, "evil")]))]);
        let complaint = refused(base.path(), &["install", "2.0.0", "--index", &mirror.url]);
        assert!(complaint.contains("evil.txt"), "{name}: {complaint}");
        assert!(!outside.exists(), "{name}");
        untouched(base.path());
    }
    for (bytes, problem) in [
        (b"no archive".to_vec(), "not usable"),
        (archive(&[("comfyui_frontend_package/static/app.js", "")]), "index.html"),
        (wheel("two")[..200].to_vec(), "not usable"),
    ] {
        mirror.publish(&[("2.0.0", bytes)]);
        let complaint = refused(base.path(), &["install", "2.0.0", "--index", &mirror.url]);
        assert!(complaint.contains(problem), "{complaint}");
        untouched(base.path());
    }
}

#[cfg(unix)]
#[test]
fn links_in_packages_are_refused() {
    let (base, mirror) = installed();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let plain = zip::write::SimpleFileOptions::default();
    zip.add_symlink("comfyui_frontend_package/static/passwords", "/etc/passwd", plain).unwrap();
    mirror.publish(&[("2.0.0", zip.finish().unwrap().into_inner())]);
    let complaint = refused(base.path(), &["install", "2.0.0", "--index", &mirror.url]);
    assert!(complaint.contains("passwords"), "{complaint}");
    untouched(base.path());
}

#[test]
fn a_version_that_is_not_there_is_answered_with_those_that_are() {
    let (base, mirror) = installed();
    let complaint = refused(base.path(), &["install", "9.9.9", "--index", &mirror.url]);
    assert!(complaint.contains("9.9.9") && complaint.contains("2.0.0, 1.0.0"), "{complaint}");
    assert!(refused(base.path(), &["install", "../x", "--index", &mirror.url]).contains("not a version"));
    assert!(refused(base.path(), &["remove", "2.0.0"]).contains("there are: 1.0.0"));
    assert!(refused(base.path(), &["install", "2.0.0", "--index", "ftp://x"]).contains("not the address"));
    // A port that nobody listens on.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let index = format!("http://me:secret@{closed}/simple");
    let complaint = refused(base.path(), &["install", "2.0.0", "--index", &index]);
    assert!(complaint.contains("cannot reach") && complaint.contains("--index"), "{complaint}");
    assert!(!complaint.contains("secret"), "{complaint}");
    let elsewhere = mirror.url.replace("/simple", "/nowhere");
    assert!(refused(base.path(), &["install", "2.0.0", "--index", &elsewhere]).contains("answers 404"));
    mirror.put(PAGE, Answer::of("text/html", "<html>Please sign in to this network</html>"));
    assert!(refused(base.path(), &["install", "2.0.0", "--index", &mirror.url]).contains("no wheel"));
    let name = "comfyui_frontend_package-2.0.0-py3-none-any.whl";
    let file = json!({"filename": name, "url": name, "hashes": {}});
    mirror.put(PAGE, Answer::of(JSON, json!({"files": [file]}).to_string()));
    assert!(refused(base.path(), &["install", "2.0.0", "--index", &mirror.url]).contains("no SHA-256"));
    untouched(base.path());
}

#[test]
fn mirrors_that_know_only_pages_of_links_serve_as_well() {
    let (base, mirror) = installed();
    let link = |version: &str, more: &str, text: &str| {
        let name = format!("comfyui_frontend_package-{version}-py3-none-any.whl");
        let bytes = wheel(text);
        mirror.put(&format!("/files/{name}"), Answer::of("application/zip", bytes.clone()));
        format!("<a href=\"../../files/{name}#sha256={}\" {more}>{name}</a>", digest(&bytes))
    };
    let page = [
        link("3.9.0", "", "older"),
        link("3.10.0", "", "newest"),
        link("3.11.0", "data-yanked=\"broken\"", "withdrawn"),
        link("3.12.0.dev1", "", "unfinished"),
    ];
    mirror.put(PAGE, Answer::of("text/html; charset=utf-8", page.concat()));
    // As pip, by its variable.
    let output =
        command(base.path(), &["install", "latest"]).env("PIP_INDEX_URL", &mirror.url).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(there(base.path()), ["1.0.0", "3.10.0", "active"]);
    // As pip, by its configuration file.
    let config = base.path().join("pip.conf");
    std::fs::write(&config, format!("[global]\nindex-url = {}\n", mirror.url)).unwrap();
    let output =
        command(base.path(), &["install", "3.11.0"]).env("PIP_CONFIG_FILE", &config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_to_string(base.path().join("web/active")).unwrap(), "3.11.0\n");
}

#[test]
fn an_installed_version_is_put_in_use_without_asking_anybody() {
    let (base, mirror) = installed();
    done(base.path(), &["install", "2.0.0", "--index", &mirror.url]);
    let asked = mirror.asked().len();
    assert!(done(base.path(), &["install", "1.0.0", "--index", &mirror.url]).contains("already"));
    assert_eq!(mirror.asked().len(), asked);
    assert_eq!(std::fs::read_to_string(base.path().join("web/active")).unwrap(), "1.0.0\n");
}

#[test]
fn a_killed_installation_leaves_the_former_one_and_the_next_cleans_up() {
    let (base, mirror) = installed();
    mirror.spoil("2.0.0", |answer| (answer.cut, answer.stalls) = (Some(50), true));
    let mut child = command(base.path(), &["install", "2.0.0", "--index", &mirror.url]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !mirror.asked().iter().any(|path| path.contains("2.0.0")) {
        assert!(Instant::now() < deadline, "the download begins");
        std::thread::sleep(Duration::from_millis(10));
    }
    // A second one at the same time would only disturb.
    assert!(refused(base.path(), &["install", "2.0.0", "--index", &mirror.url]).contains("another"));
    child.kill().unwrap();
    child.wait().unwrap();
    // What a kill in the middle of unpacking leaves.
    let half: PathBuf = base.path().join("web/.new-half");
    std::fs::create_dir_all(half.join("assets")).unwrap();
    assert!(done(base.path(), &["list"]).contains("* 1.0.0"));
    mirror.spoil("2.0.0", |answer| (answer.cut, answer.stalls) = (None, false));
    done(base.path(), &["install", "2.0.0", "--index", &mirror.url]);
    assert_eq!(there(base.path()), ["1.0.0", "2.0.0", "active"]);
}
