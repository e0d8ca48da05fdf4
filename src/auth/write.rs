//! How a secret gets into a file: whole or not at all, and readable by its owner only.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use tempfile::NamedTempFile;

/// What others than the owner may have on a file with a secret: nothing.
pub(super) const OTHERS: u32 = 0o077;

/// Writes a file that must not be there yet, and the folders on the way to it.
pub(super) fn create(path: &Path, text: &str) -> io::Result<()> {
    let folder = folder_of(path)?;
    make(folder)?;
    beside(folder, text)?.persist_noclobber(path)?;
    File::open(folder)?.sync_all()
}

/// Writes a file whether it is there or not. Whoever reads it meanwhile finds the former text or the new one; a link
/// stays a link, and the file its owner's. What others could do with it they can no longer.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
            make(folder_of(path)?)?;
            path.to_owned()
        }
        Err(error) => return Err(error),
    };
    let folder = folder_of(&path)?;
    let written = beside(folder, text)?;
    if let Ok(former) = path.metadata() {
        let rights = former.permissions().mode() & 0o777 & !OTHERS;
        written.as_file().set_permissions(Permissions::from_mode(rights | 0o600))?;
        belong_to(written.as_file(), former.uid(), former.gid())?;
    }
    written.persist(&path)?;
    File::open(folder)?.sync_all()
}

/// As [`replace`], for a file that is there and stays as readable as it is.
pub(super) fn replace_with_rights(path: &Path, text: &str) -> io::Result<()> {
    let path = path.canonicalize()?;
    let former = path.metadata()?;
    let written = beside(folder_of(&path)?, text)?;
    belong_to(written.as_file(), former.uid(), former.gid())?;
    written.as_file().set_permissions(former.permissions())?;
    written.persist(path)?;
    Ok(())
}

/// Takes from others what they may do with a file.
pub(super) fn close(path: &Path) -> io::Result<()> {
    let mode = path.metadata()?.permissions().mode();
    std::fs::set_permissions(path, Permissions::from_mode(mode & 0o777 & !OTHERS))
}

/// Makes a folder that only its owner may look into, unless it is there.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn folder_of(path: &Path) -> io::Result<&Path> {
    let folder = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    Ok(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

/// A file of its own beside the one that is meant, gone unless it is renamed.
fn beside(folder: &Path, text: &str) -> io::Result<NamedTempFile> {
    // Made with mode 0600, less what the umask takes away.
    let mut file = NamedTempFile::new_in(folder)?;
    // Who writes as root into somebody's folder writes for that somebody: a server of theirs has to read it.
    let owner = folder.metadata()?;
    if file.as_file().metadata()?.uid() == 0 {
        belong_to(file.as_file(), owner.uid(), owner.gid())?;
    }
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn belong_to(file: &File, user: u32, group: u32) -> io::Result<()> {
    let is = file.metadata()?;
    if (is.uid(), is.gid()) == (user, group) {
        return Ok(());
    }
    // A group that is not ours cannot be kept by everybody, and gives no rights here.
    fchown(file, Some(user), Some(group)).or_else(|error| if is.uid() == user { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().expect("a file").permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_is_its_owners_and_never_written_twice() {
        let base = tempfile::tempdir().expect("a folder");
        let path = base.path().join("login/PASSWORD");
        create(&path, "one").expect("written");
        assert_eq!(mode(&path), 0o600);
        assert!(create(&path, "two").is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "one");
        let link = base.path().join("link");
        std::os::unix::fs::symlink(base.path().join("target"), &link).expect("a link");
        assert!(create(&link, "one").is_err() && !base.path().join("target").exists());
        assert!(replace(&link, "one").is_err(), "a link to nowhere is no place to write to");
    }

    #[test]
    fn a_replaced_file_loses_what_others_may_and_a_link_stays_one() {
        let base = tempfile::tempdir().expect("a folder");
        let (link, target) = (base.path().join("link"), base.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        std::fs::write(&target, "one").expect("written");
        std::fs::set_permissions(&target, Permissions::from_mode(0o644)).expect("set");
        replace_with_rights(&link, "two").expect("written");
        assert_eq!(mode(&target), 0o644);
        replace(&link, "three").expect("written");
        assert_eq!(mode(&target), 0o600);
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&target).expect("a file"), "three");
        let names = base.path().read_dir().expect("a folder").count();
        assert_eq!(names, 2, "nothing is left behind");
        replace(&base.path().join("a/b"), "new").expect("written");
        assert_eq!(mode(&base.path().join("a/b")), 0o600);
    }
}
