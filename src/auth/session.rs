//! Sessions: who has logged in and how long that lasts. They live in memory, so that ending one really ends it,
//! and a restart ends all.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Sessions there may be at once. Beyond that the oldest goes, guests first: anybody can become many guests.
const MOST: usize = 4096;

/// Names a session without being able to open it: the digest of what the client's cookie holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey([u8; 32]);

impl SessionKey {
    fn of(cookie: &str) -> Self {
        Self(Sha256::digest(cookie.as_bytes()).into())
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(hidden)")
    }
}

/// What a session is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything. The name, where it is known.
    User(Option<String>),
    /// What ComfyUI-Login lets guests do.
    Guest,
    /// Nothing but being greeted by name: what a browser keeps after its user has left.
    Left(Option<String>),
}

#[derive(Debug)]
struct Session {
    role: Role,
    began: Instant,
    /// Of the token under which the session began.
    generation: u64,
}

#[derive(Debug)]
pub(super) struct Sessions {
    life: Duration,
    open: Mutex<HashMap<SessionKey, Session>>,
}

impl Sessions {
    pub fn new(life: Duration) -> Self {
        Self { life, open: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session; what the client's cookie shall hold. Nobody but this client ever knew that value, whatever
    /// cookie it came with.
    pub fn begin(&self, role: Role, generation: u64) -> String {
        let cookie = secret();
        let mut open = self.lock();
        if open.len() >= MOST {
            open.retain(|_, session| session.began.elapsed() < self.life);
        }
        if open.len() >= MOST {
            let oldest = open.iter().min_by_key(|(_, session)| (session.role != Role::Guest, session.began));
            if let Some(key) = oldest.map(|(key, _)| *key) {
                open.remove(&key);
            }
        }
        open.insert(SessionKey::of(&cookie), Session { role, began: Instant::now(), generation });
        cookie
    }

    /// The session of a cookie, if it is still good.
    pub fn find(&self, cookie: &str, generation: u64) -> Option<(SessionKey, Role)> {
        let key = SessionKey::of(cookie);
        Some((key, self.role(key, generation)?))
    }

    /// What a session is good for at this moment.
    pub fn role(&self, key: SessionKey, generation: u64) -> Option<Role> {
        let mut open = self.lock();
        let session = open.get(&key)?;
        if session.began.elapsed() >= self.life || session.generation != generation {
            open.remove(&key);
            return None;
        }
        Some(session.role.clone())
    }

    /// Ends a session; what it was good for.
    pub fn end(&self, key: SessionKey) -> Option<Role> {
        self.lock().remove(&key).map(|session| session.role)
    }

    /// Ends whatever session this cookie opens.
    pub fn end_of(&self, cookie: &str) {
        self.end(SessionKey::of(cookie));
    }
}

/// A text of 244 random bits, from the operating system's generator.
pub(super) fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const USER: Role = Role::User(None);

    #[test]
    fn a_session_lasts_until_it_is_ended_or_too_old_or_the_token_changes() {
        let sessions = Sessions::new(LONG);
        let cookie = sessions.begin(USER, 0);
        let (key, role) = sessions.find(&cookie, 0).expect("a session");
        assert_eq!(role, USER);
        assert_eq!(sessions.end(key), Some(USER));
        assert!(sessions.find(&cookie, 0).is_none());
        let cookie = sessions.begin(USER, 0);
        assert!(sessions.find(&cookie, 1).is_none());
        let short = Sessions::new(Duration::ZERO);
        assert!(short.find(&short.begin(USER, 0), 0).is_none());
        assert!(sessions.find("", 0).is_none());
    }

    #[test]
    fn a_crowd_of_guests_does_not_push_users_out() {
        let sessions = Sessions::new(LONG);
        let user = sessions.begin(USER, 0);
        let first = sessions.begin(Role::Guest, 0);
        let guests: Vec<_> = (0..MOST).map(|_| sessions.begin(Role::Guest, 0)).collect();
        assert!(sessions.find(&user, 0).is_some());
        assert!(sessions.find(&first, 0).is_none());
        assert!(sessions.find(&guests[MOST - 1], 0).is_some());
        assert_eq!(sessions.lock().len(), MOST);
    }

    #[test]
    fn secrets_are_long_and_differ() {
        assert_eq!(secret().len(), 64);
        assert_ne!(secret(), secret());
    }
}
