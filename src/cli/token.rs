//! `comfyd token`: the token in all its places, and tokens with names.

mod named;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::{self, Level, Line};
use super::{Failure, Result, print, print_progress, warn};
use crate::auth::{Audit, ENVIRONMENT, Finding, Places, Scope, Slip, TOKEN_NAMES, Token, Written};

/// Make, show, check and mend the token, and give out tokens with names
#[derive(Debug, clap::Args)]
#[command(after_help = "\
PLACES
  below the base directory, as the server looks for them: login/PASSWORD,
  .secrets/comfyui_auth_tokens.conf, .secrets/qwen-api-user.token, other .secrets/*.token;
  besides these, .env, .secrets/.env*, the files that the .conf names under `locations`,
  the variables of the environment, and files given on the command line

EXIT STATUS
  0  all is well; warnings do not count
  1  a place differs or is malformed, or something could not be done
  2  bad usage

EXAMPLES
  comfyd token new                                     # a first token, in the three usual places
  comfyd token check notebooks/.env                    # all the places, and one more
  comfyd token sync --from .secrets/comfyui_auth_tokens.conf
  comfyd token new alice --scope generate --expires 30d")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Args)]
struct PlaceArgs {
    /// Folder with login/ and .secrets/ below it
    #[arg(long, value_name = "DIR", default_value = ".", env = "COMFYD_BASE_DIRECTORY")]
    base_directory: PathBuf,
    /// The only file with the token, as for `comfyd serve`
    #[arg(long, value_name = "FILE", env = "COMFYD_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl PlaceArgs {
    fn places(&self) -> Result<Places> {
        let file = self.token_file.as_deref().map(absolute).transpose()?;
        Ok(places(&absolute(&self.base_directory)?, file.as_deref()))
    }
}

/// So that a file has one name, however it was given.
fn absolute(path: &Path) -> Result<PathBuf> {
    Ok(std::path::absolute(path)?)
}

fn absolutes(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    paths.iter().map(|path| absolute(path)).collect()
}

/// The places that a server with these flags looks at.
pub(super) fn places(base: &Path, token_file: Option<&Path>) -> Places {
    let places = Places::below(base);
    match token_file {
        Some(file) => places.only(file),
        None => places,
    }
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make the first token, from a password; with a NAME, a token for somebody else, which is printed once
    New {
        /// Whose token it shall be
        name: Option<String>,
        /// What it opens
        #[arg(long, value_name = "read|generate|admin", default_value = "generate", requires = "name")]
        #[arg(value_parser = named::scope)]
        scope: Scope,
        /// How long it lasts, as in 30d, 12h or 90m [default: until it is revoked]
        #[arg(long, value_name = "TIME", requires = "name", value_parser = named::life)]
        expires: Option<Duration>,
        /// The user who logs in with the password
        #[arg(long, value_name = "NAME", default_value = "admin", conflicts_with = "name")]
        user: String,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// List the tokens with names
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// Take a token with a name back
    Revoke {
        /// Whose
        name: String,
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// Show where the token is, and what it looks like without giving it away
    Show {
        /// Hide what matters; the default
        #[arg(long)]
        masked: bool,
        /// Print the token alone, as scripts send it
        #[arg(long, conflicts_with = "masked")]
        reveal: bool,
        /// Print the password alone, where a place knows it
        #[arg(long, conflicts_with_all = ["masked", "reveal"])]
        password: bool,
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// Look whether every place holds the token, and nothing else
    Check {
        /// More files that should hold it: .env of notebooks, token files
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Compare with the token in this file [default: the place that the server uses]
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// Put the token wherever `check` finds something else
    Sync {
        /// More files that should hold it
        files: Vec<PathBuf>,
        /// Take the token from this file [default: the place that the server uses]
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// Put another token, and its password, at every place
    Rotate {
        /// More files that should hold it
        files: Vec<PathBuf>,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        places: PlaceArgs,
    },
    /// Take the token from a file of any of these forms
    Import {
        /// The file; `-` reads a token from standard input
        file: PathBuf,
        /// Take a token that is no bcrypt hash as well
        #[arg(long)]
        opaque: bool,
        #[command(flatten)]
        places: PlaceArgs,
    },
}

#[derive(Debug, clap::Args)]
struct PasswordArgs {
    /// A file with the password on its first line, `-` for standard input [default: a random password]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordArgs {
    fn read(&self) -> Result<Option<String>> {
        let Some(path) = &self.password_file else { return Ok(None) };
        let text = read(path)?;
        Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
    }
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(text)
}

pub(super) fn run(args: Args) -> Result {
    match args.action {
        Action::New { name: Some(_), password: PasswordArgs { password_file: Some(_) }, .. } => {
            Err(Failure::usage("a token with a name has no password").hint("leave --password-file out"))
        }
        Action::New { name: Some(name), scope, expires, places, .. } => {
            named::issue(&places.places()?, &name, scope, expires)
        }
        Action::New { name: None, user, password, places, .. } => {
            new(&places.places()?, &user, password.read()?)
        }
        Action::List { json, places } => named::list(&places.places()?, json),
        Action::Revoke { name, places } => named::revoke(&places.places()?, &name),
        Action::Show { reveal, password, places, .. } => show(&places.places()?, reveal, password),
        Action::Check { files, json, from, places } => {
            report::conclude(&lines(&audit(&places.places()?, from.as_deref(), &files)?), json)
        }
        Action::Sync { files, from, places } => sync(&places.places()?, from.as_deref(), &files),
        Action::Rotate { files, password, places } => rotate(&places.places()?, &files, password.read()?),
        Action::Import { file, opaque, places } => import(&places.places()?, &file, opaque),
    }
}

/// The names in the environment under which clients look for the token, with their values.
pub(super) fn variables() -> Vec<(String, String)> {
    let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    TOKEN_NAMES.iter().filter_map(|name| Some(((*name).to_owned(), set(name)?))).collect()
}

fn audit(places: &Places, from: Option<&Path>, files: &[PathBuf]) -> Result<Audit> {
    let from = from.map(absolute).transpose()?;
    let audit = places.audit(from.as_deref(), &absolutes(files)?, &variables()).map_err(|error| {
        Failure::from(error)
            .hint("mend that file, or choose another one with `comfyd token sync --from FILE`")
    })?;
    audit.ok_or_else(no_token)
}

fn no_token() -> Failure {
    Failure::from("there is no token yet").hint("`comfyd token new` makes one")
}

/// What an audit found, line by line.
pub(super) fn lines(audit: &Audit) -> Vec<Line> {
    let source = audit.source.display().to_string();
    audit.findings.iter().map(|finding| line(finding, finding.place == source)).collect()
}

fn line(finding: &Finding, counts: bool) -> Line {
    let place = match finding.at.as_str() {
        "" => finding.place.clone(),
        at => format!("{}, {at}", finding.place),
    };
    match &finding.slip {
        None if counts => Line::ok(place, "the token that counts"),
        None => Line::ok(place, "the same token"),
        Some(slip) => {
            let level = if slip.is_fault() { Level::Fail } else { Level::Warn };
            // Where the token that counts is wrong itself, copying it around helps nobody.
            let is_sound = matches!(
                slip,
                Slip::Readable | Slip::ByteOrderMark | Slip::CarriageReturn | Slip::Blanks | Slip::Opaque
            );
            let mend = if finding.place == ENVIRONMENT {
                "unset it, or set it to what `comfyd token show --reveal` prints"
            } else if counts && !is_sound {
                "`comfyd token sync --from FILE` with a place that is right, or `comfyd token rotate`"
            } else {
                slip.mend()
            };
            Line { level, place, found: slip.to_string(), mend: mend.to_owned() }
        }
    }
}

/// Tells what was written; fails if something could not be.
fn tell_written(written: Written) -> Result {
    let mut failed = 0;
    for (path, done) in &written {
        match done {
            Ok(()) => print_progress(&format!("wrote {}", path.display())),
            Err(error) => {
                failed += 1;
                Line::fail(
                    path.display().to_string(),
                    format!("cannot be written: {error}"),
                    write_mend(error),
                )
                .tell();
            }
        }
    }
    match failed {
        0 => Ok(()),
        count => Err(format!("places that could not be written: {count}").into()),
    }
}

fn write_mend(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind as Kind;
    match error.kind() {
        Kind::AlreadyExists => "`comfyd token rotate` replaces the token, `comfyd token sync` its copies",
        Kind::ResourceBusy => "a file that is mounted by itself can only be written where it comes from",
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => "run this as the owner of the file",
        Kind::Other => "mend the file by hand, or move it away",
        _ => "check the folder and the disk",
    }
}

fn new(places: &Places, user: &str, password: Option<String>) -> Result {
    if places.have_any() {
        let there = Failure::usage("there is a token already");
        return Err(there.hint("`comfyd token rotate` replaces it, `comfyd token new NAME` adds one"));
    }
    let given = password.is_some();
    let minted = Token::mint(password.as_deref())?;
    // A password that somebody chose may open other doors as well.
    let kept = (!given).then_some(minted.password.as_str());
    tell_written(places.set_up(&minted.token, kept, user))?;
    print_progress(if given {
        "scripts send what `comfyd token show --reveal` prints; browsers log in with the password"
    } else {
        "scripts send what `comfyd token show --reveal` prints; browsers log in with `comfyd token show --password`"
    });
    Ok(())
}

fn show(places: &Places, reveal: bool, password: bool) -> Result {
    let audit = audit(places, None, &[])?;
    if password {
        let known = audit.password.as_deref();
        let known = known
            .ok_or_else(|| Failure::from("no place knows the password").hint("it was chosen by somebody"))?;
        print(&format!("{known}\n"));
    } else if reveal {
        print(&format!("{}\n", audit.token.reveal()));
    } else {
        print(&format!("{}  {}\n", audit.token.masked(), audit.source.display()));
    }
    Ok(())
}

fn sync(places: &Places, from: Option<&Path>, files: &[PathBuf]) -> Result {
    let before = audit(places, from, files)?;
    print_progress(&format!("the token of {} counts", before.source.display()));
    let written = tell_written(before.mend());
    let source = before.source.clone();
    let after = audit(places, Some(&source), files)?;
    written.and(report::conclude(&lines(&after), false))
}

fn rotate(places: &Places, files: &[PathBuf], password: Option<String>) -> Result {
    if !places.have_any() {
        return Err(no_token());
    }
    let minted = Token::mint(password.as_deref())?;
    tell_written(places.put(&minted.token, Some(&minted.password), &absolutes(files)?))?;
    print_progress("a running server takes the new token within a second; all sessions end");
    if password.is_none() && audit(places, None, files)?.password.is_none() {
        warn(
            "no place keeps the new password, so that nobody can log in at /login: --password-file sets one",
        );
    }
    Ok(())
}

fn import(places: &Places, file: &Path, opaque: bool) -> Result {
    let (token, password) = if file == Path::new("-") {
        let text = read(file)?;
        (Token::new(text.lines().next().unwrap_or_default()).ok_or("standard input holds no token")?, None)
    } else {
        Token::import(file)?
    };
    if let Some(slip) = token.oddity().filter(|slip| !(opaque && matches!(slip, Slip::Opaque | Slip::Hex))) {
        let refused = Failure::from(format!("{}: {slip}", file.display()));
        return Err(
            refused.hint("`--opaque` takes any text for a token; `comfyd token new` makes a bcrypt hash")
        );
    }
    if places.have_any() {
        tell_written(places.put(&token, password.as_deref(), &[]))
    } else {
        tell_written(places.set_up(&token, password.as_deref(), "admin"))
    }
}
