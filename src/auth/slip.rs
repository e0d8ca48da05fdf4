//! The mistakes that are made with tokens, how they show, and what mends them. None of them tells a secret.

use super::Token;
use super::token::looks_like_bcrypt;

/// Something that is not as it should be where a token is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Slip {
    #[error("it is empty")]
    Empty,
    #[error("it is another token than the one that counts")]
    Differs,
    #[error("it is the raw password; its bcrypt hash belongs here, which is what clients send")]
    RawPassword,
    #[error("a shell or compose has eaten `$` parts of the token")]
    Eaten,
    #[error("it starts like a bcrypt hash but is none; was it cut, or did a shell eat its `$` parts?")]
    Cut,
    #[error("it is a bcrypt hash whose `$` are missing; a shell or compose has eaten them")]
    NoDollars,
    #[error("every `$` stands twice, as in a compose file; here it must stand once")]
    Doubled,
    #[error("it stands in quotes, which count as part of it")]
    Quoted,
    #[error("it looks like a line of an .env file; only what stands behind the `=` should be there")]
    EnvLine,
    #[error("it is a hexadecimal string, no bcrypt hash")]
    Hex,
    #[error("it is no bcrypt hash; ComfyUI-Login keeps `$2b$12$...` there, and clients send that line")]
    Opaque,
    #[error("it is called a bcrypt hash and is none")]
    NoHash,
    #[error("blanks or a line break count as part of it")]
    Blanks,
    #[error("the file begins with a byte order mark, which other programs take for a part of it")]
    ByteOrderMark,
    #[error("the line ends in CR LF, as on Windows; other programs take the CR for a part of the token")]
    CarriageReturn,
    #[error("its `$` are not in single quotes: a shell and compose would eat the parts behind them")]
    BareDollars,
    #[error("it is not the password of the token that counts")]
    OtherPassword,
    #[error("it is a bcrypt hash; the password belongs here, which is for the login form")]
    HashForPassword,
    #[error("others on this machine may read it, and with it the token")]
    Readable,
    #[error("the file is not there, though {0} names it")]
    Missing(String),
    #[error("{0}")]
    Unreadable(String),
}

impl Slip {
    /// Whether somebody who reads the token there is refused, or may be.
    pub fn is_fault(&self) -> bool {
        !matches!(
            self,
            Self::Opaque
                | Self::BareDollars
                | Self::OtherPassword
                | Self::HashForPassword
                | Self::Readable
                | Self::Missing(_)
        )
    }

    /// What helps.
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Readable => "chmod 600, or `comfyd token sync`",
            Self::OtherPassword | Self::HashForPassword => {
                "write the right one there or delete the line; `comfyd token rotate` makes a new pair"
            }
            Self::Missing(_) => {
                "`comfyd token sync` writes it where the folder is there; or take the name out"
            }
            Self::Opaque => "nothing to do if that is meant; `comfyd token rotate` makes a bcrypt hash",
            Self::Unreadable(_) => "mend the file or its rights, or move it away if it means nothing",
            _ => "`comfyd token sync`",
        }
    }
}

/// What is wrong with a text as the token that ComfyUI-Login's clients send, if anything is.
pub(super) fn flaw(text: &str) -> Option<Slip> {
    let bare = text.trim();
    if bare.is_empty() {
        return Some(Slip::Empty);
    }
    if looks_like_bcrypt(bare.as_bytes()) {
        return (bare != text).then_some(Slip::Blanks);
    }
    Some(if bare.contains("$$") && looks_like_bcrypt(bare.replace("$$", "$").as_bytes()) {
        Slip::Doubled
    } else if bare.starts_with(['"', '\'']) {
        Slip::Quoted
    } else if bare.starts_with("$2") {
        Slip::Cut
    } else if lost_its_dollars(bare) {
        Slip::NoDollars
    } else if bare.split_once('=').is_some_and(|(name, _)| is_variable(name)) {
        Slip::EnvLine
    } else if bare.len() >= 16 && bare.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Slip::Hex
    } else {
        Slip::Opaque
    })
}

/// As [`flaw`], for a text that should be the one token.
pub(super) fn deviation(text: &str, token: &Token) -> Option<Slip> {
    let (flaw, bare) = (flaw(text), text.trim());
    if token.matches(bare.as_bytes()) {
        return flaw;
    }
    match flaw {
        None | Some(Slip::Blanks) => Some(Slip::Differs),
        Some(Slip::Empty | Slip::Doubled | Slip::Quoted | Slip::EnvLine) => flaw,
        Some(_) if token.is_bcrypt_hash() && token.has_password(bare) => Some(Slip::RawPassword),
        Some(_) if token.without_dollars(bare) => Some(Slip::Eaten),
        Some(Slip::Opaque) => Some(Slip::Differs),
        flaw => flaw,
    }
}

/// Whether this is what is left of a bcrypt hash of which nothing but the `$` went.
fn lost_its_dollars(text: &str) -> bool {
    text.len() == 57 && text.is_ascii() && {
        let ((kind, cost), rest) = (text[..4].split_at(2), &text[4..]);
        looks_like_bcrypt(format!("${kind}${cost}${rest}").as_bytes())
    }
}

pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_mistakes_are_named() {
        let hash = bcrypt::hash("password", 4).expect("a hash");
        let token = Token::new(&hash).expect("a token");
        let (eaten, other) = (&hash[7..], bcrypt::hash("password", 4).expect("a hash"));
        for (text, expected) in [
            (hash.as_str(), None),
            (&format!("{hash}\n"), Some(Slip::Blanks)),
            ("", Some(Slip::Empty)),
            (" \r\n", Some(Slip::Empty)),
            (&other, Some(Slip::Differs)),
            ("password", Some(Slip::RawPassword)),
            (&hash[..40], Some(Slip::Cut)),
            (&format!("{hash}x"), Some(Slip::Cut)),
            (&hash.replace('$', ""), Some(Slip::Eaten)),
            (&hash.replace('$', "$$"), Some(Slip::Doubled)),
            (eaten, Some(Slip::Eaten)),
            (&format!("b{}", &hash[6..]), Some(Slip::Eaten)),
            (&format!("'{hash}'"), Some(Slip::Quoted)),
            (&format!("QWEN_API_TOKEN={hash}"), Some(Slip::EnvLine)),
            ("0123456789abcdef", Some(Slip::Hex)),
            ("something else", Some(Slip::Differs)),
        ] {
            assert_eq!(deviation(text, &token), expected, "{text}");
        }
        assert_eq!(flaw("something else"), Some(Slip::Opaque));
        assert_eq!(flaw(&hash.replace('$', "")), Some(Slip::NoDollars));
        let opaque = Token::new("opaque").expect("a token");
        assert_eq!(deviation("opaque", &opaque), Some(Slip::Opaque));
        assert_eq!(deviation("other", &opaque), Some(Slip::Differs));
    }
}
