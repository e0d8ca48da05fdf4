//! Who may come in: the token, where it is kept and how it is compared; passwords, sessions and guests.
//!
//! A request brings [`Credentials`]; the [`Gate`] gives it a [`Pass`] or says why not ([`Denied`]). A form brings an
//! [`Attempt`] and gets the value of a session cookie, or [`Refused`]. Deliberately knows no routes, no headers and
//! no JSON shapes, and never shows a token: [`Token`] prints as a fixed word. All of it is blocking code; what
//! takes long says so.

mod audit;
mod forms;
mod login;
mod password;
mod places;
mod register;
mod renewal;
mod session;
mod slip;
mod source;
mod throttle;
mod token;
mod write;

use std::time::Duration;

pub use audit::{Audit, ENVIRONMENT, Finding, Written};
pub use forms::{TOKEN_NAMES, Variables};
pub use login::{Asks, Attempt, Refused};
pub use places::Places;
pub use register::{Named, NamedKey, RegisterError, Scope};
pub use session::SessionKey;
pub use slip::Slip;
pub use token::Token;

use register::{Known, Register};
use session::{Role, Sessions};
use source::{Current, Source};
use throttle::Throttle;

/// Why the files that say who may come in cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Place(#[from] places::Error),
    #[error(transparent)]
    Register(#[from] RegisterError),
}

/// What a request shows to be let in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// The raw `Authorization` header.
    pub header: Option<&'a [u8]>,
    /// The `token` parameter of the query.
    pub query: Option<&'a str>,
    /// The value of the session cookie.
    pub cookie: Option<&'a str>,
}

/// Why a request was turned away. For the log only: the client learns nothing but that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("no token was sent")]
    Nothing,
    #[error("the session is unknown, has ended, or is too old, and no token was sent")]
    Session,
    #[error("no password has been set yet; the page /login asks for the first one")]
    NoPassword,
    #[error("the Authorization header is not two words, `Bearer TOKEN`")]
    Malformed,
    #[error("the Authorization scheme is not `Bearer`, which is written exactly so")]
    Scheme,
    #[error("the token is empty")]
    Empty,
    #[error("the token is the text of an unset variable; the client's configuration has none")]
    Unset,
    #[error("the token starts like a bcrypt hash but is none; was it cut, or did a shell eat its `$` parts?")]
    Cut,
    #[error("the token is wrong")]
    Wrong,
    #[error("the named token has expired; `comfyd token new` makes another one")]
    Expired,
    #[error("no named token like this one is known; was it revoked?")]
    Unknown,
    #[error(
        "the token is wrong, and no bcrypt hash: where login/PASSWORD is used, its first line is the token, and the \
         password is for the page /login only"
    )]
    NotTheHash,
}

impl Denied {
    /// All of them, by whose words a line of the log is recognised.
    pub const ALL: [Self; 12] = [
        Self::Nothing,
        Self::Session,
        Self::NoPassword,
        Self::Malformed,
        Self::Scheme,
        Self::Empty,
        Self::Unset,
        Self::Cut,
        Self::NotTheHash,
        Self::Wrong,
        Self::Expired,
        Self::Unknown,
    ];

    /// Whether every browser meets this before it logs in.
    pub fn is_usual(self) -> bool {
        matches!(self, Self::Nothing | Self::Session | Self::NoPassword)
    }

    /// What the sender can do about it.
    pub fn mend(self) -> &'static str {
        match self {
            Self::Nothing | Self::Session | Self::NoPassword => {
                "log in at /login, or send `Authorization: Bearer TOKEN`"
            }
            Self::Malformed | Self::Scheme => "send exactly `Authorization: Bearer TOKEN`",
            Self::Empty | Self::Unset => {
                "set the client's variable, for example COMFYUI_API_TOKEN in its .env"
            }
            Self::Cut => {
                "put the token in single quotes in .env and shell scripts; `comfyd token check FILE` tells"
            }
            Self::NotTheHash => "send what `comfyd token show --reveal` prints, not the password",
            Self::Wrong => "`comfyd token check FILE` with the client's .env tells where it differs",
            Self::Expired => "`comfyd token new NAME` makes another one",
            Self::Unknown => "`comfyd token list` shows whose tokens are known",
        }
    }
}

/// How a request was let in. Good for as long as [`Gate::holds`] says so.
#[derive(Clone, Copy, Debug)]
pub enum Pass {
    /// The server asks for nothing.
    Open,
    /// By the token, of this generation.
    Token(u64),
    /// By a token with a name, which opens this much.
    Named(NamedKey, Scope),
    /// By a session that may do everything.
    User(SessionKey),
    /// By a session that may do what guests may.
    Guest(SessionKey),
}

impl Pass {
    pub fn is_guest(&self) -> bool {
        matches!(self, Self::Guest(_))
    }

    /// How much it opens to whoever is no guest; what guests may do follows other rules.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Named(_, scope) => *scope,
            Self::Open | Self::Token(_) | Self::User(_) => Scope::Admin,
            Self::Guest(_) => Scope::Read,
        }
    }
}

/// How strict a [`Gate`] is.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Lets nobody in while there is no token yet.
    pub login: bool,
    /// How long a session lasts.
    pub session_life: Duration,
    /// Wrong passwords that one address may try at once.
    pub login_attempts: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { login: false, session_life: Duration::from_secs(24 * 3600), login_attempts: 10 }
    }
}

/// Decides about every request of one server.
#[derive(Debug)]
pub struct Gate {
    source: Source,
    register: Register,
    /// Whether a missing token means that nobody may come in; else everybody may.
    login: bool,
    sessions: Sessions,
    throttle: Throttle,
    /// Allows the first password to be set from elsewhere than this machine.
    setup_code: SetupCode,
}

/// Read off the server's log by whoever may set the first password.
struct SetupCode(String);

impl std::fmt::Debug for SetupCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SetupCode(hidden)")
    }
}

impl Gate {
    /// A gate for the token in these places. Fails on a token that is there but unusable.
    pub fn new(places: Places, policy: Policy) -> Result<Self, Error> {
        let login = policy.login || places.expects_login();
        Ok(Self {
            register: Register::new(&places)?,
            source: Source::new(places)?,
            login,
            sessions: Sessions::new(policy.session_life),
            throttle: Throttle::new(policy.login_attempts),
            setup_code: SetupCode(session::secret()),
        })
    }

    /// Lets a request in or says why not.
    ///
    /// A user's session opens everything, then the token in either place; a guest's session less. Without any token
    /// to compare with, an empty one opens nothing.
    pub fn admit(&self, shown: &Credentials<'_>) -> Result<Pass, Denied> {
        let Current { credential, generation } = self.source.current();
        if credential.is_none() && !self.login {
            return Ok(Pass::Open);
        }
        let cookie = shown.cookie.filter(|cookie| !cookie.is_empty());
        let session = cookie.and_then(|cookie| self.sessions.find(cookie, generation));
        if let Some((key, Role::User(_))) = session {
            return Ok(Pass::User(key));
        }
        let denied = match credential {
            None => Denied::NoPassword,
            Some(credential) => match by_token(shown, &credential.token) {
                Ok(()) => return Ok(Pass::Token(generation)),
                Err(denied) => denied,
            },
        };
        let denied = match self.by_name(shown) {
            Known::Good(key, scope) => return Ok(Pass::Named(key, scope)),
            Known::Expired => Denied::Expired,
            Known::Unknown => Denied::Unknown,
            Known::Not => denied,
        };
        match session {
            Some((key, Role::Guest)) if self.welcomes_guests() => Ok(Pass::Guest(key)),
            _ if cookie.is_some() && denied == Denied::Nothing => Err(Denied::Session),
            _ => Err(denied),
        }
    }

    /// The named token in the header, or else in the query.
    fn by_name(&self, shown: &Credentials<'_>) -> Known {
        let header = shown.header.and_then(|header| bearer(header).ok());
        let both = [header, shown.query.map(str::as_bytes)].into_iter().flatten();
        let mut known = both.map(|given| self.register.find(given)).collect::<Vec<_>>();
        let good = known.iter().position(|known| matches!(known, Known::Good(..))).unwrap_or_default();
        if known.is_empty() { Known::Not } else { known.swap_remove(good) }
    }

    /// The name of the token that a pass stands on, where it has one.
    pub fn name_of(&self, pass: &Pass) -> Option<String> {
        match pass {
            Pass::Named(key, _) => self.register.get(*key).map(|named| named.name),
            _ => None,
        }
    }

    /// Whether a pass that was given out is still good.
    pub fn holds(&self, pass: &Pass) -> bool {
        let Current { credential, generation } = self.source.current();
        match pass {
            Pass::Open => credential.is_none() && !self.login,
            Pass::Token(of) => *of == generation,
            Pass::Named(key, _) => self.register.get(*key).is_some(),
            Pass::User(key) => matches!(self.sessions.role(*key, generation), Some(Role::User(_))),
            Pass::Guest(key) => {
                self.sessions.role(*key, generation) == Some(Role::Guest) && self.welcomes_guests()
            }
        }
    }

    /// Whether somebody without a token is let in at this moment.
    pub fn is_open(&self) -> bool {
        self.admit(&Credentials::default()).is_ok()
    }

    /// Whether the file is there that lets guests in. Looked at each time, as ComfyUI-Login does.
    pub fn welcomes_guests(&self) -> bool {
        self.source.places.guest_file().exists()
    }

    /// What the owner should know about the files with tokens, in sentences.
    pub fn oddities(&self) -> Vec<String> {
        let Some(kept) = self.source.current().credential else { return Vec::new() };
        let counts = kept.place.path.as_path();
        let Ok(Some(audit)) = self.source.places.audit(Some(counts), &[], &[]) else { return Vec::new() };
        let told = |finding: &Finding| {
            let slip = finding.slip.as_ref()?;
            let at = if finding.at.is_empty() { String::new() } else { format!(", {}", finding.at) };
            Some(format!("{}{at}: {slip}; {}", finding.place, slip.mend()))
        };
        audit.findings.iter().filter_map(told).collect()
    }
}

fn by_token(shown: &Credentials<'_>, token: &Token) -> Result<(), Denied> {
    let header = shown.header.map(|header| bearer(header).and_then(|given| compare(token, given)));
    let query = shown.query.map(|given| compare(token, given.as_bytes()));
    match (header, query) {
        (Some(Ok(())), _) | (_, Some(Ok(()))) => Ok(()),
        (Some(Err(denied)), _) | (None, Some(Err(denied))) => Err(denied),
        (None, None) => Err(Denied::Nothing),
    }
}

/// The token of a bearer header: two words, however many blanks between them.
fn bearer(header: &[u8]) -> Result<&[u8], Denied> {
    let mut words = header.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (Some(b"Bearer"), Some(given), None) => Ok(given),
        (Some(_), Some(_), None) => Err(Denied::Scheme),
        _ => Err(Denied::Malformed),
    }
}

fn compare(token: &Token, given: &[u8]) -> Result<(), Denied> {
    if token.matches(given) {
        return Ok(());
    }
    Err(match given {
        b"" => Denied::Empty,
        b"None" | b"null" | b"undefined" => Denied::Unset,
        _ if !token.is_bcrypt_hash() || token::looks_like_bcrypt(given) => Denied::Wrong,
        _ if given.starts_with(b"$2") => Denied::Cut,
        _ => Denied::NotTheHash,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2b$12$abcdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";

    fn token(text: &str) -> Token {
        Token::new(text).expect("a token")
    }

    fn header(token: &Token, text: &str) -> Result<(), Denied> {
        by_token(&Credentials { header: Some(text.as_bytes()), ..Credentials::default() }, token)
    }

    #[test]
    fn only_two_words_with_the_exact_token_pass() {
        let token = token(HASH);
        for (text, expected) in [
            (&*format!("Bearer {HASH}"), Ok(())),
            (&format!("Bearer   {HASH} "), Ok(())),
            (&format!("bearer {HASH}"), Err(Denied::Scheme)),
            (HASH, Err(Denied::Malformed)),
            (&format!("Bearer {HASH} more"), Err(Denied::Malformed)),
            ("", Err(Denied::Malformed)),
            ("Bearer None", Err(Denied::Unset)),
            ("Bearer secret", Err(Denied::NotTheHash)),
            (&format!("Bearer {}", &HASH[..59]), Err(Denied::Cut)),
            (&format!("Bearer {}e", &HASH[..59]), Err(Denied::Wrong)),
        ] {
            assert_eq!(header(&token, text), expected, "{text}");
        }
    }

    #[test]
    fn a_right_query_token_makes_up_for_a_wrong_header() {
        let token = token("secret-token");
        let both = |header: Option<&'static [u8]>, query| {
            by_token(&Credentials { header, query, cookie: None }, &token)
        };
        assert_eq!(both(Some(b"Bearer nope"), Some("secret-token")), Ok(()));
        assert_eq!(both(Some(b"Bearer nope"), Some("nope")), Err(Denied::Wrong));
        assert_eq!(both(None, Some("")), Err(Denied::Empty));
        assert_eq!(both(None, None), Err(Denied::Nothing));
        assert_eq!(both(Some(&[0xff, 0xfe]), Some("x")), Err(Denied::Malformed));
    }

    #[test]
    fn without_a_token_the_gate_is_open_unless_a_login_is_wanted() {
        let base = tempfile::tempdir().expect("a folder");
        let gate = |login| {
            let policy = Policy { login, ..Policy::default() };
            Gate::new(Places::below(base.path()), policy).expect("a gate")
        };
        assert!(gate(false).is_open());
        assert_eq!(gate(true).admit(&Credentials::default()).err(), Some(Denied::NoPassword));
        let empty = Credentials { query: Some(""), cookie: Some(""), ..Credentials::default() };
        assert_eq!(gate(true).admit(&empty).err(), Some(Denied::NoPassword));
        std::fs::create_dir(base.path().join("login")).expect("a folder");
        assert!(!gate(false).is_open(), "a folder `login` shows that a password was there");
    }
}
