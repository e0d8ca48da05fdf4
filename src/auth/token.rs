//! The secret itself.

use std::str::FromStr as _;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The text that lets its bearer in. Opaque, never empty, and never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// `None` for a blank text: an empty token would let everybody in who sends an empty one.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// Compares in a time that depends on neither the place of the first difference nor the lengths.
    pub fn matches(&self, given: &[u8]) -> bool {
        Sha256::digest(self.0.as_bytes()).ct_eq(&Sha256::digest(given)).into()
    }

    /// Whether the token is what ComfyUI-Login writes: a whole bcrypt hash.
    pub fn is_bcrypt_hash(&self) -> bool {
        looks_like_bcrypt(self.0.as_bytes())
    }

    /// What is wrong with the token as the first line of a `login/PASSWORD`, if anything is.
    pub fn oddity(&self) -> Option<&'static str> {
        if self.is_bcrypt_hash() {
            None
        } else if self.0.starts_with("$2") {
            Some("it starts like a bcrypt hash but is none; was it cut, or did a shell eat its `$` parts?")
        } else {
            Some("it is no bcrypt hash; ComfyUI-Login keeps `$2b$12$...` there, and clients send that line")
        }
    }
}

pub(super) fn looks_like_bcrypt(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| bcrypt::HashParts::from_str(text).is_ok())
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_shows_itself() {
        let token = Token::new(" secret \n").expect("a token");
        assert_eq!(format!("{token:?}"), "Token(hidden)");
        assert!(token.matches(b"secret"));
        assert!(!token.matches(b"secret "));
        assert!(Token::new(" \n").is_none());
    }

    #[test]
    fn a_shortened_hash_is_told_from_a_whole_one() {
        let hash = bcrypt::hash("password", 4).expect("a hash");
        assert!(Token::new(&hash).expect("a token").oddity().is_none());
        let cut = Token::new(&hash[..40]).expect("a token").oddity().expect("an oddity");
        assert!(cut.contains("was it cut"), "{cut}");
    }
}
