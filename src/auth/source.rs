//! The token in force, read again whenever its file changes.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::places::{Credential, Error, Place, Places};

/// How long a changed file may go unnoticed.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The first place that holds a token decides. Replacing its file changes the token without a restart, and so does
/// a new file in a place that counts more. A file that disappears or becomes unusable leaves the last good token in
/// force, so that a slip never opens the server.
#[derive(Debug)]
pub(super) struct Source {
    pub places: Places,
    kept: Mutex<Kept>,
}

/// What is in force at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Current {
    pub credential: Option<Arc<Credential>>,
    /// Grows with every other token. What was granted under one ends with it.
    pub generation: u64,
}

#[derive(Debug)]
struct Kept {
    current: Current,
    /// The file that was read last, as it was then.
    seen: Option<(Place, Stamp)>,
    looked: Instant,
}

/// Tells two states of a file apart: when it was written, how long it is, and which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(SystemTime, u64, u64);

impl Stamp {
    pub fn of(path: &Path) -> Option<Self> {
        let about = path.metadata().ok()?;
        Some(Self(about.modified().ok()?, about.len(), about.ino()))
    }
}

impl Source {
    /// Looks for a token. A file that is there must be usable; there may be none at all, unless one was named.
    pub fn new(places: Places) -> Result<Self, Error> {
        let found = places.in_order().into_iter().find(|place| place.is_there() || places.is_only(place));
        let seen = found.as_ref().and_then(|place| Some((place.clone(), Stamp::of(&place.path)?)));
        let credential = found.map(|place| place.read()).transpose()?.map(Arc::new);
        let current = Current { credential, generation: 0 };
        Ok(Self { places, kept: Mutex::new(Kept { current, seen, looked: Instant::now() }) })
    }

    /// What is in force now.
    pub fn current(&self) -> Current {
        let mut kept = self.lock();
        if kept.looked.elapsed() >= LOOK_AGAIN {
            kept.looked = Instant::now();
            self.refresh(&mut kept);
        }
        kept.current.clone()
    }

    /// As [`Source::current`], and certainly what the files say.
    pub fn reread(&self) -> Current {
        let mut kept = self.lock();
        self.refresh(&mut kept);
        kept.current.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self, kept: &mut Kept) {
        let former = kept.current.credential.as_ref().map(|credential| credential.place.clone());
        for place in self.places.in_order() {
            if let Some(stamp) = Stamp::of(&place.path) {
                let seen = Some((place.clone(), stamp));
                if kept.seen != seen {
                    kept.seen = seen;
                    match place.read() {
                        Ok(credential) => kept.replace(credential),
                        Err(error) => tracing::warn!("{error}; whatever was in force before stays so"),
                    }
                }
                return;
            }
            // What counts less than the place in force is not even looked at.
            if former.as_ref() == Some(&place) {
                return;
            }
        }
    }
}

impl Kept {
    fn replace(&mut self, found: Credential) {
        let same = self.current.credential.as_ref().is_some_and(|known| known.token.equals(&found.token));
        if !same {
            self.current.generation += 1;
            tracing::info!(path = %found.place.path.display(), "another token is in force now");
        }
        self.current.credential = Some(Arc::new(found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force(source: &Source, token: &str) -> bool {
        source.reread().credential.is_some_and(|kept| kept.token.matches(token.as_bytes()))
    }

    fn write(base: &Path, name: &str, text: &str) {
        let path = base.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("written");
    }

    #[test]
    fn a_replaced_file_replaces_the_token_and_a_broken_one_does_not() {
        let base = tempfile::tempdir().expect("a folder");
        let source = Source::new(Places::below(base.path())).expect("a source");
        assert!(source.current().credential.is_none());
        write(base.path(), "login/PASSWORD", "first");
        assert!(in_force(&source, "first"));
        let generation = source.current().generation;
        for broken in ["", "{\"version\": \"1.0\"}"] {
            write(base.path(), "login/PASSWORD", broken);
            assert!(in_force(&source, "first"), "{broken:?}");
        }
        std::fs::remove_dir_all(base.path().join("login")).expect("removed");
        assert!(in_force(&source, "first"));
        assert_eq!(source.current().generation, generation);
        write(base.path(), "login/PASSWORD", "second\nalice");
        assert!(in_force(&source, "second"));
        assert!(source.current().generation > generation);
        let generation = source.current().generation;
        write(base.path(), "login/PASSWORD", "second\nrenamed");
        assert!(in_force(&source, "second"));
        assert_eq!(source.current().generation, generation, "the same token is no other one");
    }

    #[test]
    fn the_first_place_counts() {
        let base = tempfile::tempdir().expect("a folder");
        for (name, text, token) in [
            (".secrets/zoe.token", "zoe", "zoe"),
            (".secrets/adam.token", "adam", "adam"),
            (".secrets/qwen-api-user.token", "qwen\n", "qwen"),
            (".secrets/comfyui_auth_tokens.conf", r#"{"bcrypt_hash": "conf"}"#, "conf"),
            ("custom_nodes/ComfyUI-Login/PASSWORD", "oldest", "oldest"),
            ("PASSWORD", "older", "older"),
            ("login/PASSWORD", "newest\nalice", "newest"),
        ] {
            write(base.path(), name, text);
            let source = Source::new(Places::below(base.path())).expect("a source");
            assert!(in_force(&source, token), "{name}");
        }
        let named = Places::below(base.path()).only(base.path().join(".secrets/adam.token"));
        assert!(in_force(&Source::new(named).expect("a source"), "adam"));
    }

    #[test]
    fn what_is_there_and_unusable_is_an_error() {
        let base = tempfile::tempdir().expect("a folder");
        let places = Places::below(base.path());
        std::fs::create_dir_all(base.path().join("login")).expect("a folder");
        std::os::unix::fs::symlink("/no/such/file", places.password_file()).expect("a link");
        assert!(matches!(Source::new(places.clone()), Err(Error::Read { .. })), "a link to nowhere");
        std::fs::remove_file(places.password_file()).expect("removed");
        std::fs::create_dir(places.password_file()).expect("a folder");
        assert!(matches!(Source::new(places.clone()), Err(Error::Read { .. })), "a folder");
        let named = places.only(base.path().join("none"));
        assert!(matches!(Source::new(named), Err(Error::Read { .. })), "a file that was named");
    }

    #[test]
    fn a_link_to_another_file_is_followed_and_noticed() {
        let base = tempfile::tempdir().expect("a folder");
        write(base.path(), "one", "first");
        write(base.path(), "two", "other");
        let link = base.path().join("token");
        std::os::unix::fs::symlink(base.path().join("one"), &link).expect("a link");
        let source = Source::new(Places::below(base.path()).only(&link)).expect("a source");
        assert!(in_force(&source, "first"));
        std::fs::remove_file(&link).expect("removed");
        std::os::unix::fs::symlink(base.path().join("two"), &link).expect("a link");
        assert!(in_force(&source, "other"));
    }
}
