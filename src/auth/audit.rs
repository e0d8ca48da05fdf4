//! Whether every place that holds the token holds the same one, written so that everybody can read it; and mending
//! those that do not.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::forms::{Form, Holds, Location, Spot, locations};
use super::places::{Credential, Error, Place, Places};
use super::slip::{Slip, deviation, flaw};
use super::{Token, write};

/// The place of variables.
pub const ENVIRONMENT: &str = "the environment";

/// What was found at one place.
#[derive(Clone, Debug)]
pub struct Finding {
    pub place: String,
    /// Which value of several; empty where there is one.
    pub at: String,
    /// What is wrong; nothing, where all is well.
    pub slip: Option<Slip>,
}

/// The token that counts, all the places where it should be, and what is there.
pub struct Audit {
    pub token: Token,
    /// Where the token was taken from.
    pub source: PathBuf,
    /// The password behind it, where a place knows it.
    pub password: Option<String>,
    replicas: Vec<Replica>,
    pub findings: Vec<Finding>,
}

/// The files that were to be written, and how that went.
pub type Written = Vec<(PathBuf, std::io::Result<()>)>;

/// A file that should hold the token, or the password.
#[derive(Debug)]
struct Replica {
    place: Place,
    password: bool,
    /// Who says that it is there, where that is not us.
    named_by: Option<PathBuf>,
    sound: bool,
}

impl Places {
    /// The place whose token counts: the one that was chosen; else the one that a server here would use, unless what it
    /// holds is malformed and another place has a whole bcrypt hash.
    fn truth(&self, chosen: Option<&Path>) -> Result<Option<(Token, Place)>, Error> {
        if let Some(path) = chosen {
            let form = self.in_order().into_iter().find(|place| place.path == path).map(|place| place.form);
            let form = form.or_else(|| Form::by_name(path)).unwrap_or(Form::FirstLine);
            let kept = Place { path: path.to_owned(), form }.read()?;
            return Ok(Some((kept.token, kept.place)));
        }
        let there = self.in_order().into_iter().filter(|place| place.is_there() || self.is_only(place));
        let mut read: Vec<_> = there.map(|place| place.read()).collect();
        if read.is_empty() {
            return Ok(None);
        }
        let is_whole =
            |kept: &Result<Credential, Error>| kept.as_ref().is_ok_and(|kept| kept.token.is_bcrypt_hash());
        let chosen = if is_meant(&read) { 0 } else { read.iter().position(is_whole).unwrap_or_default() };
        let kept = read.swap_remove(chosen)?;
        Ok(Some((kept.token, kept.place)))
    }

    /// Looks at every place, at the files that the places name, and at `more`. `variables` are those of the environment.
    /// None where there is no token yet.
    pub fn audit(
        &self,
        chosen: Option<&Path>,
        more: &[PathBuf],
        variables: &[(String, String)],
    ) -> Result<Option<Audit>, Error> {
        let Some((token, source)) = self.truth(chosen)? else { return Ok(None) };
        let mut audit = Audit {
            token,
            source: source.path,
            password: None,
            replicas: self.replicas(more),
            findings: Vec::new(),
        };
        audit.learn_password();
        for at in 0..audit.replicas.len() {
            audit.look(at);
        }
        for (name, value) in variables {
            let slip = deviation(value, &audit.token);
            audit.findings.push(Finding { place: ENVIRONMENT.to_owned(), at: name.clone(), slip });
        }
        Ok(Some(audit))
    }

    /// Puts another token, and its password where one is kept, at every place and into `more`, whatever is there.
    pub fn put(&self, token: &Token, password: Option<&str>, more: &[PathBuf]) -> Written {
        let put = |replica: &Replica| (replica.place.path.clone(), replica.put(token, password));
        self.replicas(more).iter().filter(|replica| replica.has_folder()).map(put).collect()
    }

    /// Whether there is a token, be it unusable.
    pub fn have_any(&self) -> bool {
        self.in_order().iter().any(Place::is_there)
    }

    /// Writes a first token to the usual places. Fails where there is one already.
    pub fn set_up(&self, token: &Token, password: Option<&str>, user: &str) -> Written {
        let put = |place: Place| {
            let text = match place.form {
                Form::Password => Ok(token.with_user(user)),
                form => form.rewritten("", token, password).map_err(std::io::Error::other),
            };
            let written = text.and_then(|text| write::create(&place.path, &text));
            (place.path, written)
        };
        self.usual().into_iter().map(put).collect()
    }

    /// Every file that should hold the token: those that are there, and those that the document names.
    fn replicas(&self, more: &[PathBuf]) -> Vec<Replica> {
        let own = |place: Place| Replica { place, password: false, named_by: None, sound: true };
        let mut replicas: Vec<_> = self.in_order().into_iter().filter(Place::is_there).map(own).collect();
        let hidden = std::fs::read_dir(self.base().join(".secrets")).into_iter().flatten().flatten();
        let mut settings: Vec<_> =
            hidden.map(|entry| entry.path()).filter(|path| is_settings(path)).collect();
        settings.sort_unstable();
        settings.insert(0, self.base().join(".env"));
        settings.retain(|path| path.is_file());
        let named: Vec<_> = replicas.iter().flat_map(|replica| named_in(replica, self.base())).collect();
        replicas.extend(settings.into_iter().map(|path| own(Place { path, form: Form::Variables })));
        let more = more.iter().map(|path| {
            let form = Form::by_name(path).unwrap_or(Form::FirstLine);
            own(Place { path: path.clone(), form })
        });
        replicas.extend(more.chain(named));
        let mut seen = BTreeSet::new();
        replicas.retain(|replica| {
            let path = &replica.place.path;
            seen.insert(
                path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.clone()),
            )
        });
        replicas
    }
}

/// Whether the first of these is a token that somebody can have meant: a hash, or a text that is neither the password of
/// a hash elsewhere nor what a shell left of it.
fn is_meant(read: &[Result<Credential, Error>]) -> bool {
    let Some((Ok(first), others)) = read.split_first() else { return false };
    let comes_from = |other: &Credential| {
        let (text, hash) = (first.token.reveal(), &other.token);
        hash.is_bcrypt_hash() && (hash.without_dollars(text) || hash.has_password(text))
    };
    match first.token.oddity() {
        None => true,
        Some(Slip::Opaque | Slip::Hex) => !others.iter().flatten().any(comes_from),
        Some(_) => false,
    }
}

/// `.env` and its kin.
fn is_settings(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".env"))
}

/// The files that a document names, below the folder that it lies in.
fn named_in(replica: &Replica, base: &Path) -> Vec<Replica> {
    let text = if replica.place.form == Form::Document { replica.place.text().ok() } else { None };
    let document = text.and_then(|text| serde_json::from_str(text.trim_start_matches('\u{feff}')).ok());
    let named = document.map(|document| locations(&document)).unwrap_or_default();
    let replica = |Location { path, password }: Location| {
        let path = base.join(path);
        // Anything else is written to by nobody, whatever a document says.
        let form = Form::by_name(&path)?;
        let form = if password { Form::FirstLine } else { form };
        let named_by = Some(replica.place.path.clone());
        Some(Replica { place: Place { path, form }, password, named_by, sound: true })
    };
    named.into_iter().filter_map(replica).collect()
}

impl Audit {
    /// Takes the password from a document whose password it really is.
    fn learn_password(&mut self) {
        if !self.token.is_bcrypt_hash() {
            return;
        }
        let documents = self.replicas.iter().filter(|replica| replica.place.form == Form::Document);
        let spots = documents
            .filter_map(|replica| replica.place.form.spots(&replica.place.text().ok()?).ok())
            .flatten();
        let passwords = spots.filter(|spot| spot.holds == Holds::Password && spot.at.contains("raw_token"));
        self.password = passwords.map(|spot| spot.value).find(|password| self.token.has_password(password));
    }

    fn look(&mut self, at: usize) {
        let slips = self.slips(&self.replicas[at]);
        let replica = &mut self.replicas[at];
        replica.sound = slips.is_empty();
        let place = replica.place.path.display().to_string();
        let spots = if slips.is_empty() { vec![(String::new(), None)] } else { slips };
        // A file of settings that sets none of ours is none of our business.
        if replica.place.form == Form::Variables && replica.sound && self.sets_nothing(at) {
            return;
        }
        let finding = |(at, slip)| Finding { place: place.clone(), at, slip };
        self.findings.extend(spots.into_iter().map(finding));
    }

    fn sets_nothing(&self, at: usize) -> bool {
        let place = &self.replicas[at].place;
        place.text().is_ok_and(|text| place.form.spots(&text).is_ok_and(|spots| spots.is_empty()))
    }

    /// What is wrong with one file, and where in it.
    fn slips(&self, replica: &Replica) -> Vec<(String, Option<Slip>)> {
        let whole = |slip| vec![(String::new(), Some(slip))];
        let text = match (replica.place.text(), &replica.named_by) {
            (Ok(text), _) => text,
            (Err(Error::Read { source, .. }), Some(by)) if source.kind() == ErrorKind::NotFound => {
                return whole(Slip::Missing(by.display().to_string()));
            }
            (Err(error), _) => return whole(Slip::Unreadable(error.to_string())),
        };
        let spots = match replica.place.form.spots(&text) {
            Ok(spots) => spots,
            Err(problem) => return whole(Slip::Unreadable(problem.to_string())),
        };
        let judged = spots.iter().flat_map(|spot| {
            let own = self.judge(spot, replica.password).into_iter().chain(spot.slips.iter().cloned());
            own.map(|slip| (spot.at.clone(), Some(slip)))
        });
        let mode = replica.place.path.metadata().map_or(0, |about| about.permissions().mode());
        let readable = (mode & write::OTHERS != 0 && !spots.is_empty()).then_some(Slip::Readable);
        judged.chain(readable.map(|slip| (String::new(), Some(slip)))).collect()
    }

    fn judge(&self, spot: &Spot, password: bool) -> Option<Slip> {
        let holds = if password { Holds::Password } else { spot.holds };
        match holds {
            Holds::Token => deviation(&spot.value, &self.token),
            // The name promises a hash, so that an opaque text is a mistake here.
            Holds::Hash => match deviation(&spot.value, &self.token) {
                Some(Slip::Opaque) => Some(Slip::NoHash),
                slip => slip,
            },
            Holds::Password if self.password.as_deref() == Some(&spot.value) => None,
            Holds::Password if flaw(&spot.value).is_none() => Some(Slip::HashForPassword),
            Holds::Password => (!self.token.has_password(&spot.value)).then_some(Slip::OtherPassword),
        }
    }

    /// Puts the token wherever it should be and is not, and takes from others the right to read it; the files that
    /// were written, and what could not be.
    pub fn mend(&self) -> Written {
        let broken = self.replicas.iter().filter(|replica| !replica.sound && replica.has_folder());
        let password = self.password.as_deref();
        broken.map(|replica| (replica.place.path.clone(), replica.put(&self.token, password))).collect()
    }
}

impl Replica {
    fn has_folder(&self) -> bool {
        self.place.path.parent().is_some_and(Path::is_dir)
    }

    fn put(&self, token: &Token, password: Option<&str>) -> std::io::Result<()> {
        let Place { path, form } = &self.place;
        let former = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.password && password.is_none() => {
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            // Not even text; what else could be kept of it?
            Err(error) if error.kind() == ErrorKind::InvalidData && *form != Form::Document => String::new(),
            former => former?,
        };
        let text = match (self.password, password) {
            (true, None) => former.clone(),
            (true, Some(password)) => format!("{password}\n"),
            _ => form.rewritten(&former, token, password).map_err(std::io::Error::other)?,
        };
        if text == former { write::close(path) } else { write::replace(path, &text) }
    }
}
