//! The secret itself.

use std::str::FromStr as _;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The longest password in bytes. Bcrypt looks at no more, so that two longer ones may be the same to it.
pub const LONGEST_PASSWORD: usize = 72;

/// The text that lets its bearer in. Opaque, never empty, and never printed.
#[derive(Clone)]
pub struct Token {
    text: String,
    digest: [u8; 32],
}

impl Token {
    /// `None` for a blank text: an empty token would let everybody in who sends an empty one.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self { text: text.to_owned(), digest: digest(text.as_bytes()) })
    }

    /// Compares in a time that depends on neither the place of the first difference nor the lengths.
    pub fn matches(&self, given: &[u8]) -> bool {
        self.digest.ct_eq(&digest(given)).into()
    }

    /// Whether two tokens are the same.
    pub fn equals(&self, other: &Self) -> bool {
        self.digest.ct_eq(&other.digest).into()
    }

    /// Whether the token is what ComfyUI-Login writes: a whole bcrypt hash.
    pub fn is_bcrypt_hash(&self) -> bool {
        looks_like_bcrypt(self.text.as_bytes())
    }

    /// Whether this is the password behind the token. For a bcrypt hash that takes a good part of a second, and
    /// the hash itself is no password. Any other token is its own.
    pub fn has_password(&self, password: &str) -> bool {
        if !self.is_bcrypt_hash() {
            return self.matches(password.as_bytes());
        }
        password.len() <= LONGEST_PASSWORD && bcrypt::verify(password, &self.text).unwrap_or(false)
    }

    /// The file that ComfyUI-Login would write: the token, a line break, the name, and no line break.
    pub(super) fn with_user(&self, user: &str) -> String {
        format!("{}\n{user}", self.text)
    }

    /// What is wrong with the token as one that ComfyUI-Login's clients send, if anything is.
    pub fn oddity(&self) -> Option<&'static str> {
        let text = &self.text;
        if self.is_bcrypt_hash() {
            None
        } else if text.starts_with("$2") {
            Some("it starts like a bcrypt hash but is none; was it cut, or did a shell eat its `$` parts?")
        } else if text.starts_with(['"', '\'']) {
            Some("it stands in quotes, which count as part of it")
        } else if text.split_once('=').is_some_and(|(name, _)| is_variable(name)) {
            Some("it looks like a line of an .env file; only what stands behind the `=` should be there")
        } else {
            Some("it is no bcrypt hash; ComfyUI-Login keeps `$2b$12$...` there, and clients send that line")
        }
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
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
    fn a_hash_has_a_password_and_other_tokens_are_their_own() {
        let hash = bcrypt::hash("password", 4).expect("a hash");
        let token = Token::new(&hash).expect("a token");
        assert!(token.has_password("password"));
        assert!(!token.has_password(&hash) && !token.has_password(""));
        let long = "x".repeat(LONGEST_PASSWORD);
        let token = Token::new(&bcrypt::hash(&long, 4).expect("a hash")).expect("a token");
        assert!(token.has_password(&long) && !token.has_password(&format!("{long}y")));
        let plain = Token::new("opaque").expect("a token");
        assert!(plain.has_password("opaque") && !plain.has_password("opaqu"));
    }

    #[test]
    fn the_usual_mistakes_are_named() {
        let hash = bcrypt::hash("password", 4).expect("a hash");
        assert!(Token::new(&hash).expect("a token").oddity().is_none());
        for (text, words) in [
            (hash[..40].to_owned(), "was it cut"),
            (format!("'{hash}'"), "quotes"),
            (format!("QWEN_API_TOKEN={hash}"), ".env"),
            ("0123456789abcdef".to_owned(), "no bcrypt hash"),
        ] {
            let oddity = Token::new(&text).expect("a token").oddity().expect("an oddity");
            assert!(oddity.contains(words), "{text}: {oddity}");
        }
    }
}
