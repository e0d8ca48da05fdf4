//! Where the token is kept, read again whenever that file changes.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use super::Token;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the token from {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the first line of {path} is empty; it must be the token")]
    Empty { path: PathBuf },
    #[error("{path} holds a JSON document; the token must stand alone on its first line")]
    Document { path: PathBuf },
}

/// How long a changed file may go unnoticed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One file with the token on its first line, or one token that never changes.
///
/// Replacing the file changes the token without a restart. A file that disappears or becomes unusable leaves
/// the last good token in force, so a slip never opens the server.
#[derive(Debug)]
pub struct Source {
    path: Option<PathBuf>,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    token: Option<Token>,
    /// Of the file when it was last read.
    stamp: Option<(SystemTime, u64)>,
    looked: Instant,
}

impl Source {
    /// A token that stays as it is.
    pub fn fixed(token: Token) -> Self {
        Self {
            path: None,
            kept: Mutex::new(Kept { token: Some(token), stamp: None, looked: Instant::now() }),
        }
    }

    /// The token in a file that must exist.
    pub fn file(path: &Path) -> Result<Self, Error> {
        let token = read(path)?;
        let kept = Kept { token: Some(token), stamp: stamp(path), looked: Instant::now() };
        Ok(Self { path: Some(path.to_owned()), kept: Mutex::new(kept) })
    }

    /// The token in a file that may come later; until then there is none.
    pub fn file_if_there(path: &Path) -> Result<Self, Error> {
        if path.exists() {
            return Self::file(path);
        }
        let kept = Kept { token: None, stamp: None, looked: Instant::now() };
        Ok(Self { path: Some(path.to_owned()), kept: Mutex::new(kept) })
    }

    /// The token in force now.
    pub fn current(&self) -> Option<Token> {
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(path) = &self.path
            && kept.looked.elapsed() >= LOOK_AGAIN
        {
            kept.looked = Instant::now();
            refresh(path, &mut kept);
        }
        kept.token.clone()
    }
}

fn refresh(path: &Path, kept: &mut Kept) {
    let found = stamp(path);
    if found.is_none() || found == kept.stamp {
        return;
    }
    kept.stamp = found;
    match read(path) {
        Ok(token) => {
            tracing::info!(path = %path.display(), "the token was read again");
            kept.token = Some(token);
        }
        Err(error) => tracing::warn!("{error}; the former token stays in force"),
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let about = path.metadata().ok()?;
    Some((about.modified().ok()?, about.len()))
}

fn read(path: &Path) -> Result<Token, Error> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let first = text.trim_start_matches('\u{feff}').lines().next().unwrap_or_default().trim();
    if first.starts_with('{') {
        return Err(Error::Document { path: path.to_owned() });
    }
    Token::new(first).ok_or_else(|| Error::Empty { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(source: &Source) {
        let mut kept = source.kept.lock().expect("the lock");
        kept.looked = Instant::now().checked_sub(LOOK_AGAIN).expect("a clock past its first second");
    }

    #[test]
    fn the_first_line_is_the_token_and_blank_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("PASSWORD");
        assert!(matches!(Source::file(&path), Err(Error::Read { .. })));
        for (text, good) in
            [("\u{feff}secret\r\nalice", true), ("", false), ("\nsecret", false), ("{\"a\": 1}", false)]
        {
            std::fs::write(&path, text).expect("written");
            assert_eq!(Source::file(&path).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn a_replaced_file_replaces_the_token_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("PASSWORD");
        let source = Source::file_if_there(&path).expect("a source");
        assert!(source.current().is_none());
        std::fs::write(&path, "first").expect("written");
        due(&source);
        assert!(source.current().expect("a token").matches(b"first"));
        for broken in ["", "{\"version\": \"1.0\"}"] {
            std::fs::write(&path, broken).expect("written");
            due(&source);
            assert!(source.current().expect("a token").matches(b"first"));
        }
        std::fs::write(&path, "second!").expect("written");
        due(&source);
        assert!(source.current().expect("a token").matches(b"second!"));
        std::fs::remove_file(&path).expect("removed");
        due(&source);
        assert!(source.current().expect("a token").matches(b"second!"));
    }
}
