//! The secret itself.

use std::str::FromStr as _;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::slip::{Slip, flaw};

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

    /// Whether a text is what a shell, or compose, makes of the token when it takes the parts behind its `$` for names
    /// of variables: of each, the `$` is gone and as much of what follows as could be a name.
    pub(super) fn without_dollars(&self, text: &str) -> bool {
        let mut parts = self.text.split('$');
        let first = parts.next().unwrap_or_default();
        let mut left: Vec<&str> = text.strip_prefix(first).into_iter().collect();
        for part in parts {
            let name = part.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
            let kept = (0..=name).filter_map(|eaten| part.get(eaten..));
            let kept: Vec<_> = kept.map(str::to_owned).chain([format!("${part}")]).collect();
            left = left
                .iter()
                .flat_map(|left| kept.iter().filter_map(|kept| left.strip_prefix(&**kept)))
                .collect();
            left.sort_unstable_by_key(|left| left.len());
            left.dedup();
        }
        text != self.text && !text.is_empty() && left.contains(&"")
    }

    /// The token as it may be shown: which kind it is, how long, and its last characters where that gives nothing
    /// away.
    pub fn masked(&self) -> String {
        let count = self.text.chars().count();
        match self.text.get(..7).zip(self.text.get(56..)) {
            Some((kind, end)) if self.is_bcrypt_hash() => format!("{kind}...{end} ({count} characters)"),
            _ => format!("... ({count} characters)"),
        }
    }

    /// The token itself, for whoever asked to see it and for files.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// What is wrong with the token as one that ComfyUI-Login's clients send, if anything is.
    pub fn oddity(&self) -> Option<Slip> {
        flaw(&self.text)
    }
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
    fn what_a_shell_leaves_of_a_token_is_recognised() {
        let token = Token::new("$2b$12$abc.def/ghi").expect("a token");
        for text in
            ["b2.def/ghi", "b.def/ghi", ".def/ghi", "$2b$12.def/ghi", "2b12abc.def/ghi", "b$12$abc.def/ghi"]
        {
            assert!(token.without_dollars(text), "{text}");
        }
        for text in ["", "$2b$12$abc.def/ghi", "def/ghi", "$2b$12$abc.def", "other"] {
            assert!(!token.without_dollars(text), "{text}");
        }
    }

    #[test]
    fn a_mask_hides_what_matters() {
        let hash = bcrypt::hash("password", 4).expect("a hash");
        let masked = Token::new(&hash).expect("a token").masked();
        assert!(masked.starts_with("$2b$04$...") && masked.ends_with("(60 characters)"), "{masked}");
        assert!(!masked.contains(&hash[7..20]));
        assert_eq!(Token::new("opaque").expect("a token").masked(), "... (6 characters)");
    }
}
