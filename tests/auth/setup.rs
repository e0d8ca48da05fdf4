//! The first password: who may set it, what is written, and how the program is told to ask for one.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use comfyd::auth::Policy;
use reqwest::Method;
use reqwest::header::LOCATION;

use super::server::{Options, Server};
use super::visitor::{Visitor, cookie_of, token};

const FIELDS: [(&str, &str); 3] = [("username", "alice"), ("password", "correct horse"), ("guest_mode", "")];

async fn fresh() -> Server {
    let policy = Policy { login: true, ..Policy::default() };
    Server::with(Options { policy, ..Options::default() }).await
}

fn is_set(server: &Server) -> bool {
    server.base().join("login/PASSWORD").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_before_a_password_is_set() {
    let server = fresh().await;
    for visitor in [
        Visitor::default(),
        Visitor::asking("token=".to_owned()),
        Visitor::with("authorization", "Bearer "),
        Visitor::cookie(""),
    ] {
        for path in ["/prompt", "/", "/userdata/x.js", "/no/such"] {
            assert_eq!(visitor.status(&server, path).await, 401, "{visitor:?} {path}");
        }
        assert_eq!(visitor.socket(&server, "/ws").await.err(), Some(401));
    }
    let page = Visitor::default().get(&server, "/login").await.text().await.unwrap();
    assert!(page.contains(r#"name="username""#) && !page.contains("setup_code"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sits_at_the_machine_sets_it() {
    let server = fresh().await;
    let response = Visitor::default().post_form(&server, &FIELDS).await;
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()[LOCATION], "/");
    let user = Visitor::cookie(&cookie_of(&response).unwrap());
    assert_eq!(user.status(&server, "/prompt").await, 200);
    let path = server.base().join("login/PASSWORD");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("$2b$12$") && text.ends_with("\nalice") && text.len() == 66, "{text}");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let script = Visitor::with("authorization", format!("Bearer {}", token(&server)));
    assert_eq!(script.status(&server, "/prompt").await, 200);
    // The second visitor is no owner any more.
    let late = Visitor::default().post_form(&server, &[("username", "eve"), ("password", "mine")]).await;
    assert_eq!(late.headers()[LOCATION], "/login?wrong_password=1");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn others_need_the_code_from_the_log() {
    let server = fresh().await;
    for elsewhere in [
        Visitor::with("x-forwarded-for", "127.0.0.1"),
        Visitor::with("forwarded", "for=10.0.0.1"),
        Visitor::with("host", "rebound.example"),
        Visitor::with("sec-fetch-site", "cross-site"),
    ] {
        let response = elsewhere.post_form(&server, &FIELDS).await;
        assert_eq!(response.status(), 403, "{elsewhere:?}");
        let guess = [("setup_code", "00"), FIELDS[0], FIELDS[1]];
        assert_eq!(elsewhere.post_form(&server, &guess).await.status(), 403, "{elsewhere:?}");
        let page = elsewhere.get(&server, "/login").await.text().await.unwrap();
        assert!(page.contains(r#"<input type="text" name="setup_code""#), "{page}");
        let page = elsewhere.get(&server, "/login?setup_code=a%22b").await.text().await.unwrap();
        assert!(page.contains(r#"name="setup_code" value="a&quot;b""#), "{page}");
    }
    assert!(!is_set(&server));
    let with_cors = Options {
        policy: Policy { login: true, ..Policy::default() },
        cors_origin: Some("*".to_owned()),
        ..Options::default()
    };
    let server = Server::with(with_cors).await;
    let response = Visitor::with("origin", "http://evil.example").post_form(&server, &FIELDS).await;
    assert_eq!(response.status(), 403, "a page of another site sets no password either");
    assert!(!is_set(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_password_and_name_must_be_usable() {
    let server = fresh().await;
    let long = "x".repeat(73);
    for (name, password) in
        [("alice", ""), ("alice", &*long), ("", "secret"), ("a\nb", "secret"), (" ", "secret")]
    {
        let response =
            Visitor::default().post_form(&server, &[("username", name), ("password", password)]).await;
        assert_eq!(response.status(), 400, "{name:?} {password:?}");
    }
    let response = Visitor::default().post_form(&server, &[("password", "secret")]).await;
    assert_eq!(response.status(), 400);
    assert!(!is_set(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_nothing_has_no_login() {
    let server = Server::start().await;
    assert_eq!(Visitor::default().get(&server, "/login").await.headers()[LOCATION], "/");
    let response = Visitor::default().post_form(&server, &FIELDS).await;
    assert_eq!(response.headers()[LOCATION], "/");
    assert!(!is_set(&server) && !server.base().join("login").exists());
    let logout = Visitor::default().send(&server, Method::GET, "/logout", "").await;
    assert_eq!(logout.headers()[LOCATION], "/login");
}

/// The program, and its log line by line.
pub struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Program {
    pub fn start(base: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
        command.args(["serve", "--port", "0", "--base-directory"]).arg(base).args(flags);
        command.envs(environment.iter().copied()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        // Read to the end, whether anybody wants the lines or not, so that the program never waits for us.
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        Self { child, lines }
    }

    /// The next line with these words; the whole log if it ends before.
    fn line(&mut self, words: &str) -> Result<String, String> {
        let mut log = String::new();
        for line in &self.lines {
            if line.contains(words) {
                return Ok(line);
            }
            log = log + &line + "\n";
        }
        Err(log)
    }

    pub fn url(&mut self) -> String {
        let line = self.line("listening on ").unwrap();
        line.split("listening on ")
            .nth(1)
            .unwrap()
            .replace("0.0.0.0", "127.0.0.1")
            .replace("[::]", "127.0.0.1")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client() -> reqwest::blocking::Client {
    reqwest::blocking::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

fn post(url: &str, body: String) -> reqwest::blocking::Response {
    let request = client().post(format!("{url}/login")).header("x-forwarded-for", "10.0.0.7");
    request.header("content-type", "application/x-www-form-urlencoded").body(body).send().unwrap()
}

#[test]
fn the_code_in_the_log_sets_the_first_password_from_elsewhere_once() {
    let base = tempfile::tempdir().unwrap();
    for (flags, environment) in
        [(&["--login", "--listen"][..], &[][..]), (&[], &[("COMFYUI_LOGIN_ENABLED", "1")])]
    {
        let _ = std::fs::remove_dir_all(base.path().join("login"));
        let mut program = Program::start(base.path(), flags, environment);
        let line = program.line("setup_code=").unwrap();
        let code = line.split("setup_code=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        let url = program.url();
        assert_eq!(client().get(format!("{url}/prompt")).send().unwrap().status(), 401);
        let form = |code: &str| format!("username=alice&password=correct+horse&setup_code={code}");
        assert_eq!(post(&url, form("wrong")).status(), 403);
        let done = post(&url, form(&code));
        assert_eq!(done.headers()[LOCATION], "/");
        assert!(done.headers().contains_key("set-cookie"));
        let again = post(&url, form(&code).replace("correct", "other"));
        assert_eq!(again.headers()[LOCATION], "/login?wrong_password=1");
    }
    // Somebody who forgot the password deletes the file; that opens the server to nobody.
    std::fs::remove_file(base.path().join("login/PASSWORD")).unwrap();
    let mut program = Program::start(base.path(), &[], &[]);
    program.line("setup_code=").unwrap();
    let url = program.url();
    assert_eq!(client().get(format!("{url}/prompt")).send().unwrap().status(), 401);
}

#[test]
fn a_password_that_is_there_but_unusable_starts_no_server() {
    let usable = bcrypt::hash("x", 4).unwrap();
    for (name, text, words) in [
        ("login/PASSWORD", "\nalice", "first line"),
        ("PASSWORD", "{}", "JSON"),
        (".secrets/comfyui_auth_tokens.conf", r#"{"raw_token": "x"}"#, "bcrypt_hash"),
        (".secrets/qwen-api-user.token", "", "first line"),
    ] {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        let log = Program::start(base.path(), &[], &[]).line("listening on").unwrap_err();
        assert!(log.starts_with("error: ") && log.contains(words) && log.contains(name), "{log}");
        assert!(log.contains("hint: "), "{log}");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/no/such/file", &path).unwrap();
        Program::start(base.path(), &[], &[]).line("listening on").unwrap_err();
        std::fs::remove_file(&path).unwrap();
        let text =
            if name.ends_with("conf") { format!(r#"{{"bcrypt_hash": "{usable}"}}"#) } else { usable.clone() };
        std::fs::write(&path, text).unwrap();
        let mut program = Program::start(base.path(), &["--listen"], &[]);
        program.line("chmod 600").unwrap();
        let url = program.url();
        let status =
            |token: &str| client().get(format!("{url}/prompt")).bearer_auth(token).send().unwrap().status();
        assert_eq!(
            (status(&usable), status("x")),
            (200.try_into().unwrap(), 401.try_into().unwrap()),
            "{name}"
        );
    }
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let base = tempfile::tempdir().unwrap();
    for flags in [
        ["--session-hours", "0"],
        ["--session-hours", "nan"],
        ["--session-hours", "inf"],
        ["--max-login-attempts", "0"],
    ] {
        let log = Program::start(base.path(), &flags, &[]).line("listening on").unwrap_err();
        assert!(log.contains(flags[0]), "{log}");
    }
}
