//! A directory that a process keeps for itself.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::OFlag;

use crate::{FileError, check_secret, content, open_with};

/// The bits of a mode that let others write.
const OTHERS_WRITE: u32 = 0o022;

const ROOT: u32 = 0;

/// A directory in which only we and root can put anything: checked when it is opened. A file in it is believed only if
/// it is a regular one that we or root own and nobody else can write, and what is no such file, but was put there while
/// the directory was open to others, is refused.
///
/// Its files are named without a slash.
#[derive(Clone, Debug)]
pub struct PrivateDir {
    path: PathBuf,
}

/// Whether the directory `path` is one that a [`PrivateDir`] can be.
///
/// # Errors
/// [`FileError`]: it is missing, or others can write to it.
pub fn check_private(path: &Path) -> Result<(), FileError> {
    let failed = || FileError::io("look at", path);
    // A link in its place is the operator's way to put it elsewhere, if nobody else can have made it.
    let itself = fs::symlink_metadata(path).map_err(failed())?;
    if itself.is_symlink() {
        check_owner(&itself, path)?;
    }
    let found = fs::metadata(path).map_err(failed())?;
    if !found.is_dir() {
        return Err(failed()(io::ErrorKind::NotADirectory.into()));
    }
    check_owner(&found, path)?;
    check_mode(&found, path)
}

impl PrivateDir {
    /// The directory `path`, made with those above it if need be, with mode 0700.
    ///
    /// # Errors
    /// [`FileError`]: it cannot be made, or others can write to it.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        // What is in it is nobody else's business.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(FileError::io("create directory", path))?;
        check_private(path)?;
        Ok(Self { path: path.into() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of its file `name`.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of its file `name`, of at most `most` bytes; none: there is no such file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, FileError> {
        let mut options = OpenOptions::new();
        options.read(true);
        let file = present(self.open_file(options, name))?;
        file.map(|file| content(&file, &self.join(name), most)).transpose()
    }

    /// As [`Self::read`], of a file that nobody but its owner may read.
    ///
    /// # Errors
    /// The same, and [`FileError::Readable`].
    pub fn read_secret(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, FileError> {
        let mut options = OpenOptions::new();
        options.read(true);
        let Some(file) = present(self.open_file(options, name))? else { return Ok(None) };
        check_secret(&file, &self.join(name))?;
        content(&file, &self.join(name), most).map(Some)
    }

    /// Its file `name`, to be read and written; none: there is no such file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn file(&self, name: &str) -> Result<Option<File>, FileError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        present(self.open_file(options, name))
    }

    /// A new, empty file `name` (mode 0600), to be read and written, in the place of whatever has that name.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn create(&self, name: &str) -> Result<File, FileError> {
        let path = self.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::io("replace", &path)(error));
            }
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(&path).map_err(FileError::io("create", &path))
    }

    /// Puts the file `new`, whose content is on the disk, in the place of `name`; once this returns that survives a power
    /// cut.
    ///
    /// # Errors
    /// [`FileError`]: if the file could not be replaced, what was there still is.
    pub fn rename(&self, new: &str, name: &str) -> Result<(), FileError> {
        let path = self.join(name);
        fs::rename(self.join(new), &path).map_err(FileError::io("replace", &path))?;
        let synced = File::open(&self.path).and_then(|dir| dir.sync_all());
        synced.map_err(FileError::io("sync directory", &self.path))
    }

    /// Puts `bytes` in the place of the content of `name` (mode 0600), by way of a file `name.new`: after a crash it is
    /// the old content or the new one. Once this returns it survives a power cut.
    ///
    /// # Errors
    /// [`FileError`]: if it could not be replaced, what was there still is.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let new = format!("{name}.new");
        let path = self.join(&new);
        let written = self.create(&new).and_then(|mut file| {
            file.write_all(bytes).map_err(FileError::io("write", &path))?;
            // The content must be on the disk before a name points to it.
            file.sync_all().map_err(FileError::io("sync", &path))?;
            self.rename(&new, name)
        });
        if written.is_err() {
            // Half of a file would hold the room that is missing.
            let _ = fs::remove_file(&path);
        }
        written
    }

    /// Its file `name`, made if need be, locked for this process until the lock is dropped, however the process ends;
    /// none: another one has it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn lock(&self, name: &str) -> Result<Option<Lock>, FileError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = self.open_file(options, name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(FileError::io("lock", &self.join(name))(source)),
        }
    }

    /// When its file `name` was written last; none: there is none.
    pub fn modified(&self, name: &str) -> Option<SystemTime> {
        fs::symlink_metadata(self.join(name)).and_then(|file| file.modified()).ok()
    }

    fn open_file(&self, options: OpenOptions, name: &str) -> Result<File, FileError> {
        let path = self.join(name);
        let file = open_with(options, OFlag::O_NOFOLLOW, &path)?;
        let found = file.metadata().map_err(FileError::io("look at", &path))?;
        check_owner(&found, &path)?;
        check_mode(&found, &path)?;
        Ok(file)
    }
}

/// A locked file of a [`PrivateDir`].
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// The file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not left to the closing: a child that has not begun its program yet holds a copy of the descriptor. Nothing is
        // lost where it fails, for the file is closed now.
        let _ = self.0.unlock();
    }
}

/// What was opened, unless there is no such file.
fn present(opened: Result<File, FileError>) -> Result<Option<File>, FileError> {
    match opened {
        Err(error) if error.is_missing() => Ok(None),
        opened => opened.map(Some),
    }
}

/// Root can do as it likes anyway.
fn check_owner(found: &Metadata, path: &Path) -> Result<(), FileError> {
    let (owner, us) = (found.uid(), nix::unistd::geteuid().as_raw());
    if owner == us || owner == ROOT { Ok(()) } else { Err(FileError::Owner { path: path.into(), owner, us }) }
}

fn check_mode(found: &Metadata, path: &Path) -> Result<(), FileError> {
    let mode = found.mode() & 0o7777;
    if mode & OTHERS_WRITE == 0 { Ok(()) } else { Err(FileError::Writable { path: path.into(), mode }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::sys::stat::Mode;
    use nix::unistd::{Uid, chown};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn fresh() -> (tempfile::TempDir, PrivateDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = PrivateDir::open(&folder.path().join("state/west")).unwrap();
        (folder, dir)
    }

    #[test]
    fn what_is_kept_is_ours_alone_and_replaced_whole() {
        let (_folder, dir) = fresh();
        assert_eq!(dir.read("catalog", 10).unwrap(), None);
        dir.replace("catalog", b"one").unwrap();
        dir.replace("catalog", b"two").unwrap();
        assert_eq!(dir.read("catalog", 10).unwrap().unwrap(), b"two");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(dir.path()), mode(&dir.join("catalog"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_planted_link_is_neither_read_nor_written_through() {
        let (folder, dir) = fresh();
        let target = folder.path().join("precious");
        fs::write(&target, "precious").unwrap();
        for name in ["catalog", "catalog.new", "lock", "registry", "dangling"] {
            symlink(if name == "dangling" { "nowhere" } else { "../../precious" }, dir.join(name)).unwrap();
        }
        let refused = |error: FileError| assert!(matches!(error, FileError::Link(_)), "{error}");
        refused(dir.read("catalog", 100).unwrap_err());
        refused(dir.lock("lock").unwrap_err());
        refused(dir.lock("dangling").unwrap_err());
        refused(dir.file("registry").unwrap_err());
        // In their places are files of our own then.
        dir.replace("catalog", b"ours").unwrap();
        dir.create("registry").unwrap().write_all(b"ours").unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        assert_eq!(dir.read("catalog", 100).unwrap().unwrap(), b"ours");
        assert!(!folder.path().join("state/nowhere").exists());
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::create_dir(&path).unwrap();
        for mode in [0o770, 0o707, 0o1777] {
            chmod(&path, mode);
            let said = PrivateDir::open(&path).unwrap_err().to_string();
            assert!(said.contains(&format!("mode {mode:04o}")) && said.contains("chmod go-w"), "{said}");
        }
        chmod(&path, 0o755);
        let dir = PrivateDir::open(&path).unwrap();
        dir.replace("catalog", b"one").unwrap();
        chmod(&dir.join("catalog"), 0o620);
        let error = dir.read("catalog", 10).unwrap_err();
        assert!(matches!(error, FileError::Writable { mode: 0o620, .. }), "{error}");
    }

    #[test]
    fn a_link_to_the_directory_is_the_operators_if_nobody_else_made_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("disk")).unwrap();
        let link = folder.path().join("state");
        symlink("disk", &link).unwrap();
        PrivateDir::open(&link).unwrap().replace("catalog", b"one").unwrap();
        assert!(folder.path().join("disk/catalog").exists());
    }

    #[test]
    fn what_is_no_regular_file_is_not_waited_for() {
        let (_folder, dir) = fresh();
        nix::unistd::mkfifo(&dir.join("fifo"), Mode::S_IRWXU).unwrap();
        for error in [dir.read("fifo", 10).unwrap_err(), dir.lock("fifo").unwrap_err()] {
            assert!(matches!(error, FileError::NotRegular { kind: "FIFO", .. }), "{error}");
        }
        dir.replace("fifo", b"now a file").unwrap();
        assert_eq!(dir.read("fifo", 10).unwrap().unwrap(), b"now a file");
    }

    #[test]
    fn a_lock_has_one_holder() {
        let (_folder, dir) = fresh();
        let held = dir.lock("lock").unwrap();
        assert!(held.is_some() && dir.lock("lock").unwrap().is_none());
        drop(held);
        assert!(dir.lock("lock").unwrap().is_some());
    }

    #[test]
    fn what_somebody_else_owns_is_refused_with_the_remedy() {
        // Only root can give files away.
        if !Uid::effective().is_root() {
            return;
        }
        const NOBODY: u32 = 65_534;
        let (folder, dir) = fresh();
        let give = |path: &Path| chown(path, Some(NOBODY.into()), None).unwrap();
        dir.replace("catalog", b"one").unwrap();
        give(&dir.join("catalog"));
        let said = dir.read("catalog", 10).unwrap_err().to_string();
        assert!(said.contains("belongs to user 65534") && said.contains("chown -R 0"), "{said}");
        give(dir.path());
        assert!(matches!(PrivateDir::open(dir.path()).unwrap_err(), FileError::Owner { owner: NOBODY, .. }));
        // Neither is a link to what is ours.
        fs::create_dir(folder.path().join("ours")).unwrap();
        let link = folder.path().join("link");
        symlink("ours", &link).unwrap();
        let not_followed = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        nix::unistd::fchownat(nix::fcntl::AT_FDCWD, &link, Some(NOBODY.into()), None, not_followed).unwrap();
        assert!(matches!(PrivateDir::open(&link).unwrap_err(), FileError::Owner { owner: NOBODY, .. }));
    }
}
