//! Where a token may be kept, which place counts, and how each kind of file is read.
//!
//! Either the one file that was named, or below the base directory, the first of these that is there:
//! 1. `login/PASSWORD`, then the places where older ComfyUI-Logins kept it;
//! 2. `.secrets/comfyui_auth_tokens.conf`, a JSON document with a `bcrypt_hash`;
//! 3. `.secrets/qwen-api-user.token`, then every other `.secrets/*.token` by name.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Token;
use super::forms::{Form, Holds, Malformed};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the token from {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} holds no token that could be used: {problem}", .path.display())]
    Malformed { path: PathBuf, problem: Malformed },
}

const CONF: &str = ".secrets/comfyui_auth_tokens.conf";
const CLIENT: &str = ".secrets/qwen-api-user.token";

/// The places to look at.
#[derive(Clone, Debug)]
pub struct Places {
    base: PathBuf,
    named: Option<PathBuf>,
}

/// One file that may hold a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub path: PathBuf,
    pub form: Form,
}

/// What a place holds.
#[derive(Debug)]
pub(super) struct Credential {
    pub token: Token,
    /// Who chose the password, where that is known.
    pub user: Option<String>,
    pub place: Place,
}

impl Credential {
    /// Whether the file should name a user and does not yet.
    pub fn wants_name(&self) -> bool {
        self.place.form == Form::Password && self.user.is_none()
    }
}

impl Places {
    /// The usual places below the base directory.
    pub fn below(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into(), named: None }
    }

    /// This file and no other.
    #[must_use]
    pub fn only(mut self, file: impl Into<PathBuf>) -> Self {
        self.named = Some(file.into());
        self
    }

    /// Where the first password is written to.
    pub fn password_file(&self) -> PathBuf {
        self.base.join("login").join("PASSWORD")
    }

    /// The file whose presence lets guests in.
    pub(super) fn guest_file(&self) -> PathBuf {
        self.base.join("login").join("GUEST_MODE")
    }

    /// Where the named tokens are.
    pub(super) fn register(&self) -> PathBuf {
        self.base.join("login").join("tokens.json")
    }

    /// The folder that other places lie below.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// The three places of a full set-up: where the server looks first, the document that says where copies lie, and
    /// the file that clients read.
    pub(super) fn usual(&self) -> Vec<Place> {
        let all = self.in_order();
        let is_usual = |place: &&Place| {
            let usual = ["login/PASSWORD", CONF, CLIENT];
            self.is_only(place) || usual.iter().any(|name| place.path == self.base.join(name))
        };
        all.iter().filter(is_usual).cloned().collect()
    }

    /// Whether ComfyUI-Login, or a login here, has been in use: then a missing password is one to be chosen
    /// anew, and no reason to let everybody in.
    pub(super) fn expects_login(&self) -> bool {
        self.named.is_some() || is_there(&self.base.join("login"))
    }

    /// Whether this file was named, so that it must be there.
    pub(super) fn is_only(&self, place: &Place) -> bool {
        self.named.as_ref() == Some(&place.path)
    }

    /// All of them, the one that counts most first.
    pub(super) fn in_order(&self) -> Vec<Place> {
        let place = |path: &str, form| Place { path: self.base.join(path), form };
        if let Some(path) = &self.named {
            return vec![Place { path: path.clone(), form: Form::FirstLine }];
        }
        let mut places = vec![
            place("login/PASSWORD", Form::Password),
            place("PASSWORD", Form::Password),
            place("custom_nodes/ComfyUI-Login/PASSWORD", Form::Password),
            place(CONF, Form::Document),
            place(CLIENT, Form::FirstLine),
        ];
        let entries = std::fs::read_dir(self.base.join(".secrets")).into_iter().flatten();
        let mut others: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|suffix| suffix == "token"))
            .map(|path| Place { path, form: Form::FirstLine })
            .filter(|other| !places.contains(other))
            .collect();
        others.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        places.append(&mut others);
        places
    }
}

impl Place {
    /// Whether there is something, be it unusable: a file without the right to read it, or a link to nowhere.
    pub fn is_there(&self) -> bool {
        is_there(&self.path)
    }

    pub fn read(&self) -> Result<Credential, Error> {
        let text = self.text()?;
        let malformed = |problem| Error::Malformed { path: self.path.clone(), problem };
        let spots = self.form.spots(&text).map_err(malformed)?;
        let mut tokens = spots.iter().filter(|spot| spot.holds != Holds::Password);
        let token = tokens.find_map(|spot| Token::new(&spot.value));
        let token = token.ok_or_else(|| malformed(Malformed::Empty))?;
        Ok(Credential { token, user: self.form.user(&text), place: self.clone() })
    }

    pub fn text(&self) -> Result<String, Error> {
        std::fs::read_to_string(&self.path).map_err(|source| Error::Read { path: self.path.clone(), source })
    }
}

fn is_there(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2b$12$abcdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";

    fn read(form: Form, text: &str) -> Result<Credential, Error> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, text).expect("written");
        Place { path, form }.read()
    }

    #[test]
    fn the_first_line_is_the_token_and_blank_files_are_refused() {
        for (text, good) in [
            ("\u{feff}secret\r\nalice", true),
            ("secret", true),
            ("", false),
            ("\nsecret", false),
            ("{\"a\": 1}", false),
        ] {
            assert_eq!(read(Form::FirstLine, text).is_ok(), good, "{text:?}");
            assert_eq!(read(Form::Password, text).is_ok(), good, "{text:?}");
        }
        let missing = Place { path: "/no/such/file".into(), form: Form::FirstLine };
        assert!(matches!(missing.read(), Err(Error::Read { .. })) && !missing.is_there());
    }

    #[test]
    fn only_a_password_file_names_a_user() {
        let named = read(Form::Password, &format!("{HASH}\nal\u{ed}ce\n")).expect("a credential");
        assert_eq!(named.user.as_deref(), Some("al\u{ed}ce"));
        assert!(!named.wants_name());
        assert!(read(Form::Password, &format!("{HASH}\n \n")).expect("a credential").wants_name());
        assert!(!read(Form::FirstLine, HASH).expect("a credential").wants_name());
    }

    #[test]
    fn every_shape_of_the_document_is_understood() {
        for locations in [
            r#"[{"name": "plugin", "path": "x", "type": "file", "content": "hash"}]"#,
            r#"["a/PASSWORD", "b.token"]"#,
            "null",
        ] {
            let text = format!(
                r#"{{"version": "1.0", "raw_token": "raw", "bcrypt_hash": "{HASH}", "locations": {locations}}}"#
            );
            assert!(read(Form::Document, &text).expect("a credential").token.matches(HASH.as_bytes()));
        }
        let nested = format!(r#"{{"services": {{"comfyui-qwen": {{"bcrypt_hash": "{HASH}"}}}}}}"#);
        assert!(read(Form::Document, &nested).expect("a credential").token.matches(HASH.as_bytes()));
        for (text, words) in [
            (r#"{"raw_token": "raw"}"#, "no `bcrypt_hash`"),
            (r#"{"bcrypt_hash": ""}"#, "no `bcrypt_hash`"),
            ("[1]", "no `bcrypt_hash`"),
            ("bcrypt_hash=x", "no JSON document"),
        ] {
            let error = read(Form::Document, text).expect_err("an error").to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
