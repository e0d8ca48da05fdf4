//! Who may come in: the token, where it is kept, and how it is compared.
//!
//! A request brings [`Credentials`]; the [`Gate`] lets it through or says why not ([`Denied`]). Deliberately
//! knows no routes and no JSON shapes, and never shows a token: [`Token`] prints as a fixed word.

mod source;
mod token;

pub use source::{Error, Source};
pub use token::Token;

/// What a request shows to be let in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// The raw `Authorization` header.
    pub header: Option<&'a [u8]>,
    /// The `token` parameter of the query.
    pub query: Option<&'a str>,
}

/// Why a request was turned away. For the log only: the client learns nothing but that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("no token was sent")]
    Nothing,
    #[error("the Authorization header is not two words, `Bearer TOKEN`")]
    Malformed,
    #[error("the Authorization scheme is not `Bearer`, which is written exactly so")]
    Scheme,
    #[error("the token is wrong")]
    Wrong,
    #[error(
        "the token is wrong, and no bcrypt hash: where login/PASSWORD is used, its first line is the token"
    )]
    NotTheHash,
}

/// Decides about every request of one server.
#[derive(Debug)]
pub enum Gate {
    /// Everybody may come in; for servers that only this machine reaches.
    Open,
    /// Only who knows the token that the source holds at that moment.
    Token(Source),
}

impl Gate {
    /// Lets a request in or says why not.
    pub fn admit(&self, credentials: Credentials<'_>) -> Result<(), Denied> {
        let Self::Token(source) = self else { return Ok(()) };
        // No file yet means no owner yet: `cli` serves that state on the loopback address only.
        let Some(token) = source.current() else { return Ok(()) };
        let header = credentials.header.map(|header| bearer(header).and_then(|given| compare(&token, given)));
        let query = credentials.query.map(|given| compare(&token, given.as_bytes()));
        match (header, query) {
            (Some(Ok(())), _) | (_, Some(Ok(()))) => Ok(()),
            (Some(Err(denied)), _) | (None, Some(Err(denied))) => Err(denied),
            (None, None) => Err(Denied::Nothing),
        }
    }

    /// Whether somebody without a token is let in at this moment.
    pub fn is_open(&self) -> bool {
        self.admit(Credentials::default()).is_ok()
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
    match token.matches(given) {
        true => Ok(()),
        false if token.is_bcrypt_hash() && !token::looks_like_bcrypt(given) => Err(Denied::NotTheHash),
        false => Err(Denied::Wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2b$12$abcdefghijklmnopqrstuuPfbH2vPmc5ZpZ2XKvFzq1B7l8mVxW2K";

    fn gate(token: &str) -> Gate {
        Gate::Token(Source::fixed(Token::new(token).expect("a token")))
    }

    fn header(gate: &Gate, text: &str) -> Result<(), Denied> {
        gate.admit(Credentials { header: Some(text.as_bytes()), query: None })
    }

    #[test]
    fn only_two_words_with_the_exact_token_pass() {
        let gate = gate(HASH);
        assert_eq!(header(&gate, &format!("Bearer {HASH}")), Ok(()));
        assert_eq!(header(&gate, &format!("Bearer   {HASH} ")), Ok(()));
        assert_eq!(header(&gate, &format!("bearer {HASH}")), Err(Denied::Scheme));
        assert_eq!(header(&gate, HASH), Err(Denied::Malformed));
        assert_eq!(header(&gate, &format!("Bearer {HASH} more")), Err(Denied::Malformed));
        assert_eq!(header(&gate, ""), Err(Denied::Malformed));
        assert_eq!(header(&gate, "Bearer None"), Err(Denied::NotTheHash));
        assert_eq!(header(&gate, &format!("Bearer {}e", &HASH[..59])), Err(Denied::Wrong));
    }

    #[test]
    fn a_right_query_token_makes_up_for_a_wrong_header() {
        let gate = gate("secret-token");
        let both = |header: &'static [u8], query| {
            gate.admit(Credentials { header: Some(header), query: Some(query) })
        };
        assert_eq!(both(b"Bearer nope", "secret-token"), Ok(()));
        assert_eq!(both(b"Bearer nope", "nope"), Err(Denied::Wrong));
        assert_eq!(gate.admit(Credentials { header: None, query: Some("") }), Err(Denied::Wrong));
        assert_eq!(gate.admit(Credentials::default()), Err(Denied::Nothing));
        assert_eq!(both(&[0xff, 0xfe], "x"), Err(Denied::Malformed));
    }

    #[test]
    fn an_open_gate_asks_nothing() {
        assert!(Gate::Open.is_open());
        assert!(!gate("secret-token").is_open());
    }
}
