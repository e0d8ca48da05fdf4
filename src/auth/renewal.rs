//! Making a token, and bringing one from elsewhere.

use std::io;
use std::path::Path;

use super::forms::{Form, Holds};
use super::password::{hash, unusable_password};
use super::places::{Error, Place};
use super::register::random;
use super::{Slip, Token};

/// A token and the password behind it.
pub struct Minted {
    pub token: Token,
    pub password: String,
}

impl Token {
    /// The token of this password, or of a random one. Takes a good part of a second.
    pub fn mint(password: Option<&str>) -> io::Result<Minted> {
        let password = password.map_or_else(random, |password| Ok(password.to_owned()))?;
        match unusable_password(&password) {
            Some(why) => Err(io::Error::new(io::ErrorKind::InvalidInput, why)),
            None => Ok(Minted { token: hash(&password)?, password }),
        }
    }

    /// The token in a file of any of the forms, with the quotes and doubled `$` of careless copies taken off, and the
    /// password, if it is there.
    pub fn import(path: &Path) -> Result<(Self, Option<String>), Error> {
        let mut place = Place { path: path.to_owned(), form: Form::by_name(path).unwrap_or(Form::FirstLine) };
        if place.form == Form::FirstLine
            && place.text()?.trim_start_matches('\u{feff}').trim_start().starts_with('{')
        {
            place.form = Form::Document;
        }
        let kept = place.read()?;
        let token = match kept.token.oddity() {
            Some(Slip::Quoted) => Self::new(kept.token.reveal().trim_matches(['"', '\''])),
            Some(Slip::Doubled) => Self::new(&kept.token.reveal().replace("$$", "$")),
            Some(Slip::EnvLine) => kept
                .token
                .reveal()
                .split_once('=')
                .and_then(|(_, value)| Self::new(value.trim_matches(['"', '\'']))),
            _ => None,
        };
        let token = token.unwrap_or(kept.token);
        let spots = place.form.spots(&place.text()?).unwrap_or_default();
        let mut passwords =
            spots.into_iter().filter(|spot| spot.holds == Holds::Password).map(|spot| spot.value);
        let password = passwords.find(|password| token.is_bcrypt_hash() && token.has_password(password));
        Ok((token, password))
    }
}
