//! Named tokens: who besides the owner may come in, how far, and until when.
//!
//! One file, `login/tokens.json`, in which the tokens stand as digests; each is shown once, when it is made. A running
//! server reads the file again when it changes.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::places::Places;
use super::source::{LOOK_AGAIN, Stamp};
use super::write;

/// What every named token begins with, so that a lost one is known for what it is.
const PREFIX: &str = "comfyd_";

/// The longest name of a token.
const LONGEST_NAME: usize = 64;

/// How much a pass opens; each includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Looking.
    Read,
    /// Queueing prompts, uploading pictures, and stopping one's own jobs.
    Generate,
    /// Everything.
    Admin,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Generate => "generate",
            Self::Admin => "admin",
        })
    }
}

/// One line of the register.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
    pub scope: Scope,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
    /// The digest of the token, in hexadecimal.
    sha256: String,
}

impl Named {
    pub fn has_expired(&self) -> bool {
        self.expires.is_some_and(|end| Timestamp::now() >= end)
    }
}

/// Names a token without being able to use it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NamedKey([u8; 32]);

impl std::fmt::Debug for NamedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NamedKey(hidden)")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is no register of named tokens: {source}", .path.display())]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("no random numbers: {0}")]
    Random(std::io::Error),
    #[error("a token's name is one word of at most {LONGEST_NAME} letters, digits, `-`, `_`, `.` and `@`")]
    Name,
    #[error("there is a token of the name {0} already")]
    Taken(String),
    #[error("there is no token of the name {name}; there are: {}", list(.there))]
    Unknown { name: String, there: Vec<String> },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[derive(Default, Serialize, Deserialize)]
struct Document {
    #[serde(default)]
    tokens: Vec<Named>,
}

impl Places {
    /// Every named token, in the order they were made.
    pub fn named(&self) -> Result<Vec<Named>, RegisterError> {
        let path = self.register();
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text.map_err(|source| RegisterError::Read { path: path.clone(), source })?,
        };
        let document: Document = serde_json::from_str(text.trim_start_matches('\u{feff}'))
            .map_err(|source| RegisterError::Malformed { path, source })?;
        Ok(document.tokens)
    }

    /// Makes a token and keeps its digest; the token itself is nowhere but in the answer.
    pub fn issue(&self, name: &str, scope: Scope, life: Option<Duration>) -> Result<String, RegisterError> {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(is_fine) {
            return Err(RegisterError::Name);
        }
        let secret = format!("{PREFIX}{}", random().map_err(RegisterError::Random)?);
        let created = Timestamp::now();
        let created = Timestamp::from_second(created.as_second()).unwrap_or(created);
        let expires = life.and_then(|life| created.checked_add(life).ok());
        let sha256 = format!("{:x}", Sha256::digest(secret.as_bytes()));
        let named = Named { name: name.to_owned(), scope, created, expires, sha256 };
        self.change(|tokens| {
            if tokens.iter().any(|known| known.name == name && !known.has_expired()) {
                return Err(RegisterError::Taken(name.to_owned()));
            }
            tokens.retain(|known| known.name != name);
            tokens.push(named);
            Ok(())
        })?;
        Ok(secret)
    }

    /// Takes a token back; servers refuse it within a second.
    pub fn revoke(&self, name: &str) -> Result<(), RegisterError> {
        self.change(|tokens| {
            let there: Vec<_> = tokens.iter().map(|known| known.name.clone()).collect();
            tokens.retain(|known| known.name != name);
            if tokens.len() < there.len() {
                return Ok(());
            }
            Err(RegisterError::Unknown { name: name.to_owned(), there })
        })
    }

    /// One change at a time, also of several programs.
    fn change(
        &self,
        change: impl FnOnce(&mut Vec<Named>) -> Result<(), RegisterError>,
    ) -> Result<(), RegisterError> {
        let path = self.register();
        let failed = |source| RegisterError::Write { path: path.clone(), source };
        let folder = path.parent().unwrap_or(self.base());
        write::make(folder).map_err(failed)?;
        // Held until the folder is closed.
        let alone = File::open(folder).map_err(failed)?;
        alone.lock().map_err(failed)?;
        let mut document = Document { tokens: self.named()? };
        change(&mut document.tokens)?;
        let text = serde_json::to_string_pretty(&document).map_err(|error| failed(error.into()))?;
        write::replace(&path, &format!("{text}\n")).map_err(failed)
    }
}

/// 256 random bits as a word.
pub fn random() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// The named tokens as a server sees them.
#[derive(Debug)]
pub(super) struct Register {
    path: PathBuf,
    places: Places,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    tokens: Arc<Vec<([u8; 32], Named)>>,
    seen: Option<Stamp>,
    looked: Instant,
}

/// What a text is, taken for a named token.
pub(super) enum Known {
    Good(NamedKey, Scope),
    Expired,
    /// It looks like one, and none is known.
    Unknown,
    /// Something else.
    Not,
}

impl Register {
    pub fn new(places: &Places) -> Result<Self, RegisterError> {
        let path = places.register();
        let seen = Stamp::of(&path);
        let tokens = Arc::new(by_digest(places.named()?));
        let kept = Mutex::new(Kept { tokens, seen, looked: Instant::now() });
        Ok(Self { path, places: places.clone(), kept })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file that became unusable leaves in force what was; one that is gone takes all tokens with it.
    fn current(&self) -> Arc<Vec<([u8; 32], Named)>> {
        let mut kept = self.lock();
        if kept.looked.elapsed() >= LOOK_AGAIN {
            kept.looked = Instant::now();
            let stamp = Stamp::of(&self.path);
            if kept.seen != stamp {
                kept.seen = stamp;
                match self.places.named() {
                    Ok(tokens) => kept.tokens = Arc::new(by_digest(tokens)),
                    Err(error) => tracing::warn!("{error}; the named tokens from before stay in force"),
                }
            }
        }
        kept.tokens.clone()
    }

    pub fn find(&self, shown: &[u8]) -> Known {
        let Some(shown) = std::str::from_utf8(shown).ok().filter(|shown| shown.starts_with(PREFIX)) else {
            return Known::Not;
        };
        let digest = digest(shown);
        match self.current().iter().find(|(known, _)| known.ct_eq(&digest).into()) {
            Some((_, named)) if named.has_expired() => Known::Expired,
            Some((key, named)) => Known::Good(NamedKey(*key), named.scope),
            None => Known::Unknown,
        }
    }

    /// The token of this key, while it is good.
    pub fn get(&self, key: NamedKey) -> Option<Named> {
        let tokens = self.current();
        let found = tokens.iter().find(|(known, _)| *known == key.0).map(|(_, named)| named);
        found.filter(|named| !named.has_expired()).cloned()
    }
}

/// Lines whose digest is none are never matched by anything, and left out.
fn by_digest(tokens: Vec<Named>) -> Vec<([u8; 32], Named)> {
    let digest = |named: &Named| {
        let mut bytes = [0; 32];
        let text = named.sha256.as_bytes();
        for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        (text.len() == 64).then_some(bytes)
    };
    tokens.into_iter().filter_map(|named| Some((digest(&named)?, named))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_kept_as_a_digest_until_it_is_revoked() {
        let base = tempfile::tempdir().expect("a folder");
        let places = Places::below(base.path());
        let secret = places.issue("alice", Scope::Generate, None).expect("a token");
        let text = std::fs::read_to_string(places.register()).expect("a file");
        assert!(!text.contains(&secret[PREFIX.len()..]) && text.contains("\"generate\""), "{text}");
        assert_eq!(places.register().metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        assert!(matches!(places.issue("alice", Scope::Read, None), Err(RegisterError::Taken(_))));
        for bad in ["", "a b", "../x", "a\nb", &*"x".repeat(65)] {
            assert!(matches!(places.issue(bad, Scope::Read, None), Err(RegisterError::Name)), "{bad}");
        }
        let register = Register::new(&places).expect("a register");
        let Known::Good(key, Scope::Generate) = register.find(secret.as_bytes()) else { panic!("not known") };
        assert_eq!(register.get(key).expect("a token").name, "alice");
        assert!(matches!(register.find(b"comfyd_x"), Known::Unknown));
        assert!(matches!(register.find(b"x"), Known::Not));
        places.revoke("alice").expect("revoked");
        let error = places.revoke("alice").expect_err("an error").to_string();
        assert!(error.contains("there are: none"), "{error}");
        std::thread::sleep(LOOK_AGAIN);
        assert!(register.get(key).is_none());
    }

    #[test]
    fn a_token_ends_with_its_time_and_its_name_is_free_again() {
        let base = tempfile::tempdir().expect("a folder");
        let places = Places::below(base.path());
        let secret = places.issue("bob", Scope::Admin, Some(Duration::ZERO)).expect("a token");
        let register = Register::new(&places).expect("a register");
        assert!(matches!(register.find(secret.as_bytes()), Known::Expired));
        places.issue("bob", Scope::Read, Some(Duration::from_secs(60))).expect("a token");
        assert_eq!(places.named().expect("tokens").len(), 1);
    }

    #[test]
    fn a_register_that_is_none_is_told() {
        let base = tempfile::tempdir().expect("a folder");
        let places = Places::below(base.path());
        std::fs::create_dir(base.path().join("login")).expect("a folder");
        std::fs::write(places.register(), "{broken").expect("written");
        assert!(matches!(Register::new(&places), Err(RegisterError::Malformed { .. })));
        assert!(matches!(places.issue("x", Scope::Read, None), Err(RegisterError::Malformed { .. })));
    }
}
