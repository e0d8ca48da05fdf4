//! `comfyd token`: every way in which the places of a token can disagree is named, and mended.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::{Ended, Server, ended};

const PASSWORD: &str = "k8sv_zRXz4RK26Snt35C16t";

const PASSWORD_FILE: &str = "login/PASSWORD";
const CONF: &str = ".secrets/comfyui_auth_tokens.conf";
const CLIENT: &str = ".secrets/qwen-api-user.token";

/// A folder with tokens in it.
struct Base {
    folder: tempfile::TempDir,
    hash: String,
    other: String,
}

impl Base {
    fn empty() -> Self {
        let hash = || bcrypt::hash(PASSWORD, 4).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), hash: hash(), other: hash() }
    }

    /// All three places, in full agreement.
    fn agreeing() -> Self {
        let base = Self::empty();
        base.write(PASSWORD_FILE, format!("{}\nalice", base.hash));
        base.write(
            CONF,
            json!({"version": "1.0", "raw_token": PASSWORD, "bcrypt_hash": base.hash}).to_string(),
        );
        base.write(CLIENT, format!("{}\n", base.hash));
        base
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn conf(&self, document: &Json) {
        self.write(CONF, document.to_string());
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        self.path(name).metadata().unwrap().permissions().mode() & 0o777
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
        command.arg("token").args(arguments).current_dir(self.folder.path()).env_clear().stdin(Stdio::null());
        command
    }

    /// Runs a command, none of which may print a secret.
    fn run(&self, arguments: &[&str]) -> Ended {
        let done = ended(&mut self.command(arguments));
        for text in [&done.told, &done.complaint] {
            for secret in [&self.hash[7..], &self.other[7..], PASSWORD] {
                assert!(!text.contains(secret), "{arguments:?} printed a secret: {text}");
            }
        }
        done
    }

    fn is_sound(&self) -> bool {
        self.run(&["check"]).code == Some(0)
    }
}

/// A disagreement: what it is called, the file it is in, how it comes about, and the words that name it.
type Fault = (&'static str, &'static str, fn(&Base), &'static str);

/// Everything of the users' history, and what else they could do.
const FAULTS: &[Fault] = &[
    ("another hash", CLIENT, |base| base.write(CLIENT, &base.other), "another token"),
    ("another in the document", CONF, |base| base.conf(&json!({"bcrypt_hash": base.other})), "another token"),
    ("the raw password", CLIENT, |base| base.write(CLIENT, PASSWORD), "raw password"),
    (
        "the raw password in the document",
        CONF,
        |base| base.conf(&json!({"bcrypt_hash": PASSWORD})),
        "raw password",
    ),
    (
        "the raw password in login/PASSWORD",
        PASSWORD_FILE,
        |base| base.write(PASSWORD_FILE, format!("{PASSWORD}\nalice")),
        "raw password",
    ),
    ("a hash that was cut", CLIENT, |base| base.write(CLIENT, &base.hash[..41]), "was it cut"),
    ("a hash whose parts a shell ate", CLIENT, |base| base.write(CLIENT, &base.hash[7..]), "eaten `$` parts"),
    (
        "a hash without its $",
        CLIENT,
        |base| base.write(CLIENT, base.hash.replace('$', "")),
        "eaten `$` parts",
    ),
    ("doubled $", CLIENT, |base| base.write(CLIENT, base.hash.replace('$', "$$")), "stands twice"),
    ("quotes", CLIENT, |base| base.write(CLIENT, format!("\"{}\"\n", base.hash)), "quotes"),
    (
        "a line of .env",
        CLIENT,
        |base| base.write(CLIENT, format!("QWEN_API_TOKEN={}", base.hash)),
        ".env file",
    ),
    (
        "a byte order mark",
        CLIENT,
        |base| base.write(CLIENT, format!("\u{feff}{}", base.hash)),
        "byte order mark",
    ),
    (
        "a byte order mark before JSON",
        CONF,
        |base| base.write(CONF, format!("\u{feff}{}", json!({"bcrypt_hash": base.hash}))),
        "byte order mark",
    ),
    ("CR LF", CLIENT, |base| base.write(CLIENT, format!("{}\r\n", base.hash)), "CR LF"),
    ("a blank behind", CLIENT, |base| base.write(CLIENT, format!("{} \n", base.hash)), "blanks"),
    (
        "a line break in JSON",
        CONF,
        |base| base.conf(&json!({"bcrypt_hash": format!("{}\n", base.hash)})),
        "blanks",
    ),
    (
        "hexadecimal",
        CONF,
        |base| base.conf(&json!({"bcrypt_hash": "03f3f6f91f4175e338c314f7bd96ebd3"})),
        "hexadecimal",
    ),
    ("an empty file", CLIENT, |base| base.write(CLIENT, ""), "first line is empty"),
    ("JSON where one line belongs", CLIENT, |base| base.write(CLIENT, base.text(CONF)), "JSON document"),
    ("a document without a hash", CONF, |base| base.conf(&json!({"raw_token": PASSWORD})), "bcrypt_hash"),
    ("bytes that are no text", CLIENT, |base| base.write(CLIENT, [0xff, 0xfe, b'$', 0]), "cannot read"),
    (
        "services",
        CONF,
        |base| {
            let services = json!({"comfyui-qwen": {"bcrypt_hash": base.other, "locations": [{"type": "file", "path": "x"}]}});
            base.conf(&json!({"bcrypt_hash": base.hash, "services": services}));
        },
        "services.comfyui-qwen",
    ),
    (
        "a stale copy in the document",
        CONF,
        |base| {
            let locations = json!([{"name": "a", "path": "x", "type": "bcrypt", "content": base.other}]);
            base.conf(&json!({"bcrypt_hash": base.hash, "locations": locations}));
        },
        "locations[0].content",
    ),
    (
        "a stale line in the document",
        CONF,
        |base| {
            let content = format!("COMFYUI_API_TOKEN={}\nCOMFYUI_RAW_TOKEN=x", base.other);
            let locations = json!([{"name": "a", "path": "x", "type": "env", "content": content}]);
            base.write(
                CONF,
                json!({"bcrypt_hash": base.hash, "raw_token": PASSWORD, "locations": locations}).to_string(),
            );
        },
        "locations[0].content` COMFYUI_API_TOKEN",
    ),
    (
        "a file that the document names",
        "docker/.secrets/qwen.token",
        |base| {
            base.write("docker/.secrets/qwen.token", &base.other);
            base.write(
                CONF,
                json!({"bcrypt_hash": base.hash, "locations": ["docker/.secrets/qwen.token"]}).to_string(),
            );
        },
        "another token",
    ),
    (
        "a file that the document names with its form",
        "docker/.env",
        |base| {
            base.write("docker/.env", format!("COMFYUI_BEARER_TOKEN='{}'\n", base.other));
            let locations = json!([{"name": "docker", "path": "docker\\.env", "type": "env"}]);
            base.conf(&json!({"bcrypt_hash": base.hash, "locations": locations}));
        },
        "COMFYUI_BEARER_TOKEN: it is another token",
    ),
    (
        ".env of notebooks",
        ".env",
        |base| base.write(".env", format!("A=1\nCOMFYUI_API_TOKEN='{}'\n", base.other)),
        "COMFYUI_API_TOKEN: it is another token",
    ),
    (
        "the raw value under another name",
        ".secrets/.env.generated",
        |base| base.write(".secrets/.env.generated", format!("QWEN_API_TOKEN={PASSWORD}\n")),
        "QWEN_API_TOKEN: it is the raw password",
    ),
    (
        "a truncated value in .env",
        ".env",
        |base| base.write(".env", format!("QWEN_API_USER_TOKEN={}\n", &base.hash[7..])),
        "QWEN_API_USER_TOKEN: a shell or compose has eaten",
    ),
    (
        "a leftover of another user",
        ".secrets/bob.token",
        |base| base.write(".secrets/bob.token", PASSWORD),
        "raw password",
    ),
    (
        "an older place",
        "custom_nodes/ComfyUI-Login/PASSWORD",
        |base| base.write("custom_nodes/ComfyUI-Login/PASSWORD", &base.other),
        "another token",
    ),
];

#[test]
fn every_disagreement_is_named_and_mended() {
    for (name, file, plant, words) in FAULTS {
        let base = Base::agreeing();
        assert!(base.is_sound(), "{name}");
        plant(&base);
        let found = base.run(&["check"]);
        assert_eq!(found.code, Some(1), "{name}: {}", found.told);
        let lines: Vec<_> = found.told.lines().filter(|line| line.starts_with("fail")).collect();
        assert!(
            lines.iter().any(|line| line.contains(file) && line.contains(words)),
            "{name}: {}",
            found.told
        );
        let user = base.text(PASSWORD_FILE).lines().nth(1).map(str::to_owned);
        let mended = base.run(&["sync"]);
        assert_eq!(mended.code, Some(0), "{name}: {}{}", mended.told, mended.complaint);
        assert!(base.is_sound(), "{name}");
        assert_eq!(base.text(PASSWORD_FILE), format!("{}\n{}", base.hash, user.unwrap()), "{name}");
        assert_eq!(base.text(CLIENT), format!("{}\n", base.hash), "{name}");
        let document: Json = serde_json::from_str(&base.text(CONF)).unwrap();
        assert_eq!(document["bcrypt_hash"], base.hash, "{name}");
        assert_eq!(base.mode(file), 0o600, "{name}");
    }
}

#[test]
fn what_is_only_doubtful_is_a_warning() {
    /// What is planted, how, and the words that tell of it.
    type Plant = (&'static str, fn(&Base), &'static str);
    let plants: [Plant; 5] = [
        (
            "rights",
            |base| {
                std::fs::set_permissions(base.path(CLIENT), std::fs::Permissions::from_mode(0o644)).unwrap();
            },
            "others on this machine",
        ),
        ("bare $", |base| base.write(".env", format!("QWEN_API_TOKEN={}\n", base.hash)), "single quotes"),
        ("a password", |base| base.write(".env", "COMFYUI_PASSWORD=other\n"), "not the password"),
        (
            "a hash for a password",
            |base| base.write(".env", format!("COMFYUI_RAW_TOKEN='{}'\n", base.hash)),
            "login form",
        ),
        (
            "a missing file",
            |base| {
                base.write(
                    CONF,
                    json!({"bcrypt_hash": base.hash, "locations": ["docker/x.token"]}).to_string(),
                );
            },
            "not there",
        ),
    ];
    for (name, plant, words) in plants {
        let base = Base::agreeing();
        plant(&base);
        let found = base.run(&["check"]);
        assert_eq!(found.code, Some(0), "{name}: {}", found.told);
        assert!(
            found.told.lines().any(|line| line.starts_with("warn") && line.contains(words)),
            "{name}: {}",
            found.told
        );
    }
}

#[test]
fn three_tokens_become_the_one_that_is_chosen() {
    for (from, kept) in [(None, 0), (Some(PASSWORD_FILE), 0), (Some(CONF), 1), (Some(CLIENT), 2)] {
        let base = Base::empty();
        let hashes: Vec<_> = (0..3).map(|_| bcrypt::hash("x", 4).unwrap()).collect();
        base.write(PASSWORD_FILE, format!("{}\nalice", hashes[0]));
        let document = json!({"unknown": [1], "bcrypt_hash": hashes[1], "description": "d\u{e9}j\u{e0} vu"});
        base.conf(&document);
        base.write(CLIENT, &hashes[2]);
        assert_eq!(base.run(&["check"]).code, Some(1));
        let arguments = from.map_or_else(|| vec!["sync"], |from| vec!["sync", "--from", from]);
        let mended = base.run(&arguments);
        assert_eq!(mended.code, Some(0), "{}{}", mended.told, mended.complaint);
        assert!(base.is_sound());
        assert_eq!(base.text(CLIENT).trim(), hashes[kept], "{from:?}");
        let changed: Json = serde_json::from_str(&base.text(CONF)).unwrap();
        assert_eq!(
            (&changed["unknown"], &changed["description"]),
            (&document["unknown"], &document["description"])
        );
    }
}

#[test]
fn a_good_copy_makes_up_for_a_broken_original() {
    let base = Base::agreeing();
    base.write(PASSWORD_FILE, format!("{}\nalice", &base.hash[7..]));
    let found = base.run(&["check"]);
    assert_eq!(found.code, Some(1), "{}", found.told);
    assert_eq!(base.run(&["sync"]).code, Some(0));
    assert_eq!(base.text(PASSWORD_FILE), format!("{}\nalice", base.hash));
    // Where nothing is left to go by, nothing is written.
    let base = Base::empty();
    base.write(PASSWORD_FILE, "");
    let helpless = base.run(&["sync"]);
    assert_eq!(helpless.code, Some(1));
    assert!(
        helpless.complaint.contains("first line is empty") && helpless.complaint.contains("hint:"),
        "{}",
        helpless.complaint
    );
    assert_eq!(base.text(PASSWORD_FILE), "");
}

#[test]
fn the_environment_and_more_files_are_looked_at_too() {
    let base = Base::agreeing();
    base.write("notebooks/.env", format!("export COMFYUI_API_TOKEN=\"{}\"\n# mine\nOTHER=x\n", base.other));
    let found = base.run(&["check", "notebooks/.env"]);
    assert_eq!(found.code, Some(1));
    assert!(found.told.contains("notebooks/.env, COMFYUI_API_TOKEN: it is another token"), "{}", found.told);
    assert_eq!(base.run(&["sync", "notebooks/.env"]).code, Some(0));
    assert_eq!(
        base.text("notebooks/.env"),
        format!("export COMFYUI_API_TOKEN='{}'\n# mine\nOTHER=x\n", base.hash)
    );
    assert_eq!(base.run(&["check", "nothing/.env"]).code, Some(1), "a file that was named has to be there");
    let done = ended(base.command(&["check"]).env("QWEN_API_TOKEN", &base.other));
    assert_eq!(done.code, Some(1));
    assert!(done.told.contains("the environment, QWEN_API_TOKEN: it is another token"), "{}", done.told);
}

#[test]
fn check_tells_in_json_as_well() {
    let base = Base::agreeing();
    base.write(CLIENT, PASSWORD);
    let found = base.run(&["check", "--json"]);
    let told: Json = serde_json::from_str(&found.told).unwrap();
    assert_eq!((found.code, &told["ok"], &told["faults"]), (Some(1), &json!(false), &json!(1)));
    let check = told["checks"].as_array().unwrap().iter().find(|check| check["level"] == "fail").unwrap();
    assert!(
        check["place"].as_str().unwrap().ends_with(CLIENT)
            && check["mend"].as_str().unwrap().contains("token sync")
    );
}

#[test]
fn a_first_token_is_made_for_its_owner_only() {
    let base = Base::empty();
    assert_eq!(base.run(&["check"]).code, Some(1));
    let made = base.run(&["new"]);
    assert_eq!(made.code, Some(0), "{}", made.complaint);
    for name in [PASSWORD_FILE, CONF, CLIENT] {
        assert_eq!(base.mode(name), 0o600, "{name}");
        assert!(
            !made.told.contains(base.text(name).trim()) && !made.complaint.contains(base.text(name).trim())
        );
    }
    assert_eq!(base.path("login").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(base.is_sound());
    let again = base.run(&["new"]);
    assert_eq!(again.code, Some(2));
    assert!(again.complaint.contains("token rotate"), "{}", again.complaint);
    let token = base.run(&["show", "--reveal"]).told;
    assert_eq!(token.trim(), base.text(CLIENT).trim());
    let password = base.run(&["show", "--password"]).told;
    assert!(bcrypt::verify(password.trim(), token.trim()).unwrap());
    for arguments in [&["show"][..], &["show", "--masked"]] {
        let masked = base.run(arguments).told;
        assert!(masked.starts_with("$2b$12$...") && masked.contains(PASSWORD_FILE), "{masked}");
        assert!(!masked.contains(&token.trim()[7..20]));
    }
}

#[test]
fn a_chosen_password_is_kept_nowhere() {
    let base = Base::empty();
    base.write("password", format!("{PASSWORD}\n"));
    assert_eq!(base.run(&["new", "--user", "bob", "--password-file", "password"]).code, Some(0));
    let (hash, user) =
        base.text(PASSWORD_FILE).split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(bcrypt::verify(PASSWORD, &hash).unwrap() && user == "bob");
    assert!(!base.text(CONF).contains(PASSWORD));
    assert_eq!(base.run(&["show", "--password"]).code, Some(1));
    base.write("password", "x".repeat(73));
    assert_eq!(base.run(&["rotate", "--password-file", "password"]).code, Some(1));
    assert!(base.text(PASSWORD_FILE).starts_with(&hash), "nothing was written");
}

#[test]
fn rotation_reaches_every_place_and_keeps_the_rest() {
    let base = Base::agreeing();
    base.write(".env", format!("COMFYUI_API_TOKEN='{}'\nCOMFYUI_RAW_TOKEN={PASSWORD}\nOTHER=1\n", base.hash));
    assert_eq!(base.run(&["rotate"]).code, Some(0));
    assert!(base.is_sound());
    for name in [PASSWORD_FILE, CONF, CLIENT, ".env"] {
        assert!(!base.text(name).contains(&base.hash) && !base.text(name).contains(PASSWORD), "{name}");
    }
    assert!(base.text(PASSWORD_FILE).ends_with("\nalice") && base.text(".env").ends_with("\nOTHER=1\n"));
    let (token, password) = (base.run(&["show", "--reveal"]).told, base.run(&["show", "--password"]).told);
    assert!(bcrypt::verify(password.trim(), token.trim()).unwrap());
    assert!(base.text(".env").contains(&format!("COMFYUI_RAW_TOKEN='{}'", password.trim())));
}

#[test]
fn a_token_comes_from_any_of_the_forms() {
    let hash = bcrypt::hash(PASSWORD, 4).unwrap();
    for (name, text) in [
        ("PASSWORD", format!("{hash}\nbob")),
        ("x.token", format!("\u{feff}{hash}\r\n")),
        ("quoted.txt", format!("'{hash}'")),
        ("doubled.txt", hash.replace('$', "$$")),
        ("line.txt", format!("QWEN_API_TOKEN=\"{hash}\"")),
        ("backup.conf", json!({"services": {"a": {"bcrypt_hash": hash, "raw_token": PASSWORD}}}).to_string()),
        ("backup.txt", json!({"bcrypt_hash": hash}).to_string()),
        ("old.env", format!("COMFYUI_PASSWORD={PASSWORD}\nCOMFYUI_BEARER_TOKEN={hash}\n")),
    ] {
        for base in [Base::empty(), Base::agreeing()] {
            base.write(&format!("from/{name}"), &text);
            let done = base.run(&["import", &format!("from/{name}")]);
            assert_eq!(done.code, Some(0), "{name}: {}", done.complaint);
            assert!(base.is_sound(), "{name}");
            assert!(
                base.text(PASSWORD_FILE).starts_with(&hash) && base.text(CLIENT).trim() == hash,
                "{name}"
            );
        }
    }
    let base = Base::agreeing();
    for (text, words) in
        [("opaque", "no bcrypt hash"), (&hash[..30], "was it cut"), ("", "first line is empty")]
    {
        base.write("from/x.token", text);
        let refused = base.run(&["import", "from/x.token"]);
        assert!(
            refused.code == Some(1) && refused.complaint.contains(words),
            "{text}: {}",
            refused.complaint
        );
    }
    assert!(base.is_sound());
    base.write("from/x.token", "opaque");
    assert_eq!(base.run(&["import", "--opaque", "from/x.token"]).code, Some(0));
    assert_eq!(base.text(CLIENT), "opaque\n");
}

#[test]
fn links_stay_links_and_nothing_is_left_behind() {
    let base = Base::agreeing();
    base.write("elsewhere/token", &base.other);
    std::fs::remove_file(base.path(CLIENT)).unwrap();
    symlink("../elsewhere/token", base.path(CLIENT)).unwrap();
    assert_eq!(base.run(&["sync"]).code, Some(0));
    assert!(base.path(CLIENT).is_symlink());
    assert_eq!(base.text("elsewhere/token"), format!("{}\n", base.hash));
    let names = |folder: &str| base.path(folder).read_dir().unwrap().count();
    assert_eq!((names(".secrets"), names("elsewhere"), names("login")), (2, 1, 1));
}

#[test]
fn what_a_document_names_is_written_only_where_tokens_are_kept() {
    let base = Base::agreeing();
    base.write("notes.txt", "mine");
    base.conf(&json!({"bcrypt_hash": base.other, "locations": ["notes.txt"]}));
    assert_eq!(base.run(&["sync"]).code, Some(0));
    assert_eq!(base.text("notes.txt"), "mine");
}

/// Asks until the server answers so.
fn until(server: &Server, token: &str, status: u16) {
    let begun = Instant::now();
    let ask =
        || reqwest::blocking::Client::new().get(format!("{}/queue", server.url)).bearer_auth(token).send();
    while ask().unwrap().status() != status {
        assert!(begun.elapsed() < Duration::from_secs(10), "never {status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_running_server_takes_every_change() {
    let base = Base::agreeing();
    let server = Server::below(base.folder.path());
    until(&server, &base.hash, 200);
    assert_eq!(base.run(&["rotate"]).code, Some(0));
    let token = base.run(&["show", "--reveal"]).told.trim().to_owned();
    until(&server, &token, 200);
    until(&server, &base.hash, 401);
    let alice = base.run(&["new", "alice", "--scope", "read", "--expires", "3s"]);
    assert_eq!(alice.code, Some(0), "{}", alice.complaint);
    let alice = alice.told.trim().to_owned();
    until(&server, &alice, 200);
    until(&server, &alice, 401);
    let bob = base.run(&["new", "bob"]).told.trim().to_owned();
    until(&server, &bob, 200);
    assert_eq!(base.run(&["new", "bob"]).code, Some(1));
    let list = base.run(&["list"]).told;
    assert!(
        list.contains("alice") && list.contains("expired") && list.contains("bob") && !list.contains(&bob),
        "{list}"
    );
    let listed: Json = serde_json::from_str(&base.run(&["list", "--json"]).told).unwrap();
    assert_eq!((&listed[1]["name"], &listed[1]["scope"]), (&json!("bob"), &json!("generate")));
    assert_eq!(base.run(&["revoke", "bob"]).code, Some(0));
    until(&server, &bob, 401);
    let unknown = base.run(&["revoke", "bob"]);
    assert!(
        unknown.code == Some(1) && unknown.complaint.contains("there are: alice"),
        "{}",
        unknown.complaint
    );
}

#[test]
fn names_need_an_owner_first() {
    let base = Base::empty();
    let refused = base.run(&["new", "alice"]);
    assert!(
        refused.code == Some(1) && refused.complaint.contains("`comfyd token new` makes one"),
        "{}",
        refused.complaint
    );
    assert!(!Path::exists(&base.path("login")));
}
