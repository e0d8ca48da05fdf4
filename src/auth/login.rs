//! From a password to a session, and out again.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::password::{add_name, create, hash, unusable_password, usable_name};
use super::places::Credential;
use super::session::Role;
use super::{Gate, Pass, SessionKey, Token};

/// What somebody who wants to log in has to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Nothing: everybody may come in.
    Nothing,
    /// The first password, and a name.
    FirstPassword,
    /// The password; and a name, if the file has none yet.
    Password { name: bool },
}

/// A filled-in form.
#[derive(Debug)]
pub struct Attempt<'a> {
    pub from: IpAddr,
    pub password: &'a str,
    pub name: Option<&'a str>,
    /// Whether the sender certainly sits at this machine, so that it may set the first password.
    pub at_this_machine: bool,
    /// What else allows that.
    pub setup_code: Option<&'a str>,
    /// The cookie it came with; whatever session that opens ends.
    pub cookie: Option<&'a str>,
}

/// Why an attempt got no session.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("The password is wrong.")]
    Wrong,
    #[error("{0}")]
    Unusable(&'static str),
    #[error(
        "The first password can be set from the machine the server runs on, or with the setup code that the server \
         wrote to its log when it started."
    )]
    NotHere,
    #[error("Too many wrong passwords; wait {} s.", .0.as_secs() + 1)]
    TooMany(Duration),
    #[error("cannot write {path}: {source}", path = .path.display())]
    Write { path: std::path::PathBuf, source: std::io::Error },
}

impl Gate {
    /// What the page shall ask for now.
    pub fn asks(&self) -> Asks {
        match self.source.current().credential {
            Some(credential) => Asks::Password { name: credential.wants_name() },
            None if self.login => Asks::FirstPassword,
            None => Asks::Nothing,
        }
    }

    /// What allows the first password to be set from elsewhere. Void as soon as there is one.
    pub fn setup_code(&self) -> Option<&str> {
        (self.asks() == Asks::FirstPassword).then_some(&*self.setup_code.0)
    }

    /// How long this address has to wait before it may try a password.
    pub fn wait(&self, from: IpAddr) -> Option<Duration> {
        Some(self.throttle.wait(from, Instant::now())).filter(|wait| !wait.is_zero())
    }

    /// Checks a password, or sets the first one; the cookie of a new session. Takes a good part of a second.
    pub fn log_in(&self, attempt: &Attempt<'_>) -> Result<String, Refused> {
        let now = Instant::now();
        self.throttle.count(attempt.from, now).map_err(Refused::TooMany)?;
        let name = match self.source.reread().credential {
            None => Some(self.set_first(attempt)?),
            Some(credential) => check(&credential, attempt)?,
        };
        self.throttle.forgive(attempt.from, now);
        if let Some(former) = attempt.cookie {
            self.sessions.end_of(former);
        }
        Ok(self.sessions.begin(Role::User(name), self.source.reread().generation))
    }

    fn set_first(&self, attempt: &Attempt<'_>) -> Result<String, Refused> {
        let code = Token::new(&self.setup_code.0).zip(attempt.setup_code);
        if !attempt.at_this_machine && !code.is_some_and(|(code, given)| code.matches(given.as_bytes())) {
            return Err(Refused::NotHere);
        }
        if let Some(why) = unusable_password(attempt.password) {
            return Err(Refused::Unusable(why));
        }
        let name = usable_name(attempt.name).map_err(Refused::Unusable)?;
        let path = self.source.places.password_file();
        let written = hash(attempt.password).and_then(|token| create(&path, &token, name));
        written.map_err(|source| Refused::Write { path: path.clone(), source })?;
        tracing::info!(path = %path.display(), "the first password was set");
        Ok(name.to_owned())
    }

    /// The cookie of a guest's session; none unless guests are welcome.
    pub fn enter_as_guest(&self, cookie: Option<&str>) -> Option<String> {
        self.welcomes_guests().then(|| {
            if let Some(former) = cookie {
                self.sessions.end_of(former);
            }
            self.sessions.begin(Role::Guest, self.source.current().generation)
        })
    }

    /// Ends a session; a cookie that is good for nothing but [`Gate::greeting`], empty for guests.
    pub fn log_out(&self, key: SessionKey) -> String {
        match self.sessions.end(key) {
            Some(Role::User(name @ Some(_))) => {
                self.sessions.begin(Role::Left(name), self.source.current().generation)
            }
            _ => String::new(),
        }
    }

    /// The name of the user whose session a cookie opens or opened. ComfyUI-Login greets everybody by it; here only
    /// the browser that this user logged in with.
    pub fn greeting(&self, cookie: &str) -> Option<String> {
        match self.sessions.find(cookie, self.source.current().generation)?.1 {
            Role::User(name) | Role::Left(name) => name,
            Role::Guest => None,
        }
    }
}

impl Pass {
    /// The session it stands on.
    pub fn session(&self) -> Option<SessionKey> {
        match self {
            Self::User(key) | Self::Guest(key) => Some(*key),
            Self::Open | Self::Token(_) | Self::Named(..) => None,
        }
    }
}

/// Checks the password and sees to the missing name; the user's name, where it is known.
fn check(credential: &Credential, attempt: &Attempt<'_>) -> Result<Option<String>, Refused> {
    if !attempt.password.is_empty() && unusable_password(attempt.password).is_some() {
        return Err(Refused::Unusable(
            "The password is longer than 72 bytes, and bcrypt would ignore the rest.",
        ));
    }
    if !credential.token.has_password(attempt.password) {
        return Err(Refused::Wrong);
    }
    if !credential.wants_name() {
        return Ok(credential.user.clone());
    }
    let name = usable_name(attempt.name).map_err(Refused::Unusable)?;
    // The file may be lent to us for reading only; then the name is asked for again next time.
    if let Err(error) = add_name(&credential.place.path, &credential.token, name) {
        tracing::warn!("cannot add the user name to {}: {error}", credential.place.path.display());
    }
    Ok(Some(name.to_owned()))
}
