//! Files as a Ringway process reads and keeps them.
//!
//! What others put in place (manifests, certificates, keys, passwords) is read by [`read`] and [`read_secret`]: only
//! regular files, opened without waiting for anybody, at most so many bytes. What the process keeps for itself stands in
//! a [`PrivateDir`], which nobody else can write to, and where no symbolic link is followed.
//!
//! Everything here blocks on the disk, and a file system that hangs is not noticed: whoever must go on calls it on a
//! thread that may be left behind.

mod private;

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

pub use private::{Lock, PrivateDir, check_private};

/// The bits of a mode that let others read or write.
const OTHERS: u32 = 0o077;

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something that may never come to an end, or never begin.
    #[error("`{}` is a {kind}: only regular files are read; put one in its place", path.display())]
    NotRegular {
        /// Its path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It is longer than anything that makes sense there.
    #[error("`{}` is longer than {most} bytes: this is another file than was meant", path.display())]
    TooLong {
        /// Its path.
        path: PathBuf,
        /// How long it may be.
        most: u64,
    },
    /// It holds a secret, and others may read or replace it.
    #[error("others may read `{}` (mode {mode:04o}): `chmod 600 {}`", path.display(), path.display())]
    Readable {
        /// Its path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A symbolic link stands where this process keeps a file of its own.
    #[error("`{}` is a symbolic link, which this process did not put there: remove it", .0.display())]
    Link(PathBuf),
    /// Somebody else owns what this process keeps for itself.
    #[error(
        "`{}` belongs to user {owner}, and this process runs as user {us}: whoever owns it can replace what is in it; \
         `chown -R {us} {}`, or name another directory", path.display(), path.display()
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Others may write what this process keeps for itself.
    #[error(
        "others may write to `{}` (mode {mode:04o}): `chmod go-w {}`, or name a directory below it, which is then made \
         for this process alone", path.display(), path.display()
    )]
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl FileError {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// What the system said when `action` was tried with `path`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// The content of the regular file `path`, of at most `most` bytes. Symbolic links are followed: that is how
/// configuration is mounted.
///
/// # Errors
/// [`FileError`]; a file that is too long is read no further than that is seen.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    content(&open(path)?, path, most)
}

/// As [`read`], of a file that nobody but its owner may read or write.
///
/// # Errors
/// The same, and [`FileError::Readable`].
pub fn read_secret(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let file = open(path)?;
    check_secret(&file, path)?;
    content(&file, path, most)
}

/// Opens a regular file, wherever links lead.
fn open(path: &Path) -> Result<File, FileError> {
    // Before it is opened, for opening alone may do something to a device; and again once it is open.
    let found = fs::metadata(path).map_err(FileError::io("read", path))?;
    check_regular(found.file_type(), path)?;
    let mut options = OpenOptions::new();
    options.read(true);
    open_with(options, OFlag::empty(), path)
}

/// Opens a regular file with `options` and these further `flags`.
fn open_with(mut options: OpenOptions, flags: OFlag, path: &Path) -> Result<File, FileError> {
    // A FIFO that nobody writes to is open at once, to be refused. Nothing becomes our terminal.
    let flags = flags | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = options.custom_flags(flags.bits()).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(nix::libc::ELOOP) if flags.contains(OFlag::O_NOFOLLOW) => FileError::Link(path.into()),
        _ => FileError::Io { action: "open", path: path.into(), source: error },
    })?;
    let found = file.metadata().map_err(FileError::io("read", path))?;
    check_regular(found.file_type(), path)?;
    Ok(file)
}

fn check_regular(found: FileType, path: &Path) -> Result<(), FileError> {
    let kind = match found {
        _ if found.is_file() => return Ok(()),
        _ if found.is_dir() => "directory",
        _ if found.is_fifo() => "FIFO",
        _ if found.is_socket() => "socket",
        _ if found.is_symlink() => "symbolic link",
        _ => "device",
    };
    Err(FileError::NotRegular { path: path.into(), kind })
}

/// Whether nobody but its owner may read or write it: of the open file, not of the path, for what is checked is what is
/// read.
fn check_secret(file: &File, path: &Path) -> Result<(), FileError> {
    let mode = file.metadata().map_err(FileError::io("read", path))?.mode() & 0o7777;
    if mode & OTHERS == 0 { Ok(()) } else { Err(FileError::Readable { path: path.into(), mode }) }
}

fn content(file: &File, path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > most { Err(FileError::TooLong { path: path.into(), most }) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once_by_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // Without anybody at its other end, it would be waited for.
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("fifo", at("link")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        let found = [
            (at("fifo"), "FIFO"),
            (at("link"), "FIFO"),
            (at("socket"), "socket"),
            (at("directory"), "directory"),
            ("/dev/zero".into(), "device"),
        ];
        for (path, kind) in found {
            for error in [read(&path, 10).unwrap_err(), read_secret(&path, 10).unwrap_err()] {
                let said = error.to_string();
                assert!(said.contains(&format!("is a {kind}")), "{said}");
                assert!(!error.is_missing());
            }
        }
        assert!(read(&at("nothing"), 10).unwrap_err().is_missing());
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "0123456789").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert_eq!(read(&link, 10).unwrap(), b"0123456789");
        let error = read(&link, 9).unwrap_err();
        assert!(matches!(error, FileError::TooLong { most: 9, .. }), "{error}");
    }

    #[test]
    fn a_secret_that_others_may_read_or_write_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "secret").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let said = read_secret(&path, 10).unwrap_err().to_string();
            assert!(said.contains(&format!("mode {mode:04o}")) && said.contains("chmod 600"), "{said}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(read_secret(&path, 10).unwrap(), b"secret");
    }
}
