//! The first password and the name that goes with it, put into the file where ComfyUI-Login keeps them.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use super::Token;
use super::token::LONGEST_PASSWORD;

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

/// Writes the file of a first password, readable by its owner only. Fails if there is any file already.
pub(super) fn create(path: &Path, token: &Token, user: &str) -> io::Result<()> {
    let folder = folder_of(path)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    write_beside(folder, &token.with_user(user))?.persist_noclobber(path)?;
    File::open(folder)?.sync_all()
}

/// Adds the name to a file that has none; the rights on it stay as they are.
pub(super) fn add_name(path: &Path, token: &Token, user: &str) -> io::Result<()> {
    // A link stays a link.
    let path = path.canonicalize()?;
    let rights = path.metadata()?.permissions();
    let written = write_beside(folder_of(&path)?, &token.with_user(user))?;
    written.as_file().set_permissions(rights)?;
    written.persist(path)?;
    Ok(())
}

fn folder_of(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))
}

fn write_beside(folder: &Path, text: &str) -> io::Result<tempfile::NamedTempFile> {
    // Made with mode 0600, and gone unless it is renamed.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_first_password_is_written_once_and_for_its_owner() {
        let base = tempfile::tempdir().expect("a folder");
        let path = base.path().join("login/PASSWORD");
        let token = Token::new("hash").expect("a token");
        create(&path, &token, "alice").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "hash\nalice");
        assert_eq!(path.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        assert!(create(&path, &token, "eve").is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "hash\nalice");
        assert_eq!(
            base.path().join("login").read_dir().expect("a folder").count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn a_link_is_never_written_through_at_first_and_kept_later() {
        let base = tempfile::tempdir().expect("a folder");
        let (link, target) = (base.path().join("PASSWORD"), base.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        let token = Token::new("hash").expect("a token");
        assert!(create(&link, &token, "alice").is_err());
        assert!(!target.exists());
        std::fs::write(&target, "hash").expect("written");
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o640)).expect("set");
        add_name(&link, &token, "alice").expect("written");
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&target).expect("a file"), "hash\nalice");
        assert_eq!(target.metadata().expect("a file").permissions().mode() & 0o777, 0o640);
    }

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
