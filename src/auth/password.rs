//! The first password and the name that goes with it, put into the file where ComfyUI-Login keeps them.

use std::io;
use std::path::Path;

use super::token::LONGEST_PASSWORD;
use super::{Token, write};

/// What ComfyUI-Login uses; a check takes a good part of a second.
const COST: u32 = 12;

/// The longest user name, in characters.
const LONGEST_NAME: usize = 100;

/// The token of a new password.
pub(super) fn hash(password: &str) -> io::Result<Token> {
    let hash = bcrypt::hash(password, COST).map_err(io::Error::other)?;
    Token::new(&hash).ok_or_else(|| io::Error::other("an empty hash"))
}

/// Why a text cannot be a password.
pub(super) fn unusable_password(password: &str) -> Option<&'static str> {
    if password.is_empty() {
        Some("The password is empty.")
    } else if password.len() > LONGEST_PASSWORD {
        Some("The password is longer than 72 bytes, and bcrypt would ignore the rest.")
    } else {
        None
    }
}

/// The name without blanks around it, or why it cannot be one. It has to fit on a line.
pub(super) fn usable_name(name: Option<&str>) -> Result<&str, &'static str> {
    let name = name.map(str::trim).filter(|name| !name.is_empty()).ok_or("A user name is needed.")?;
    if name.chars().any(char::is_control) || name.chars().count() > LONGEST_NAME {
        return Err("The user name must be one line of at most 100 characters.");
    }
    Ok(name)
}

/// Writes the file of a first password. Fails if there is any file already.
pub(super) fn create(path: &Path, token: &Token, user: &str) -> io::Result<()> {
    write::create(path, &token.with_user(user))
}

/// Adds the name to a file that has none; the rights on it stay as they are.
pub(super) fn add_name(path: &Path, token: &Token, user: &str) -> io::Result<()> {
    write::replace_with_rights(path, &token.with_user(user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_on_a_line() {
        assert_eq!(usable_name(Some(" al\u{ed}ce ")), Ok("al\u{ed}ce"));
        for bad in [None, Some(""), Some(" "), Some("a\nb"), Some("a\0"), Some(&*"x".repeat(101))] {
            assert!(usable_name(bad).is_err(), "{bad:?}");
        }
        assert!(unusable_password("").is_some() && unusable_password(&"x".repeat(73)).is_some());
        assert!(unusable_password(&"x".repeat(72)).is_none());
    }
}
