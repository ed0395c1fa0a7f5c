//! How an etcd is spoken to, and the files that say who we are there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::model::{EtcdOptions, EtcdUser};

/// Longest wait for one member's answer to one request, the connection to it included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The same for a word that a lease lives by: a member that says nothing must not cost the lease.
pub(super) const LEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest wait for an answer, whichever members are asked for it.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(6);

/// Longest wait for a connection, with TLS: shorter than all of them, so that it is certain that nothing was sent.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Pause before a connection with open watches is pinged. Longer than the 5 s which etcd takes for the least
/// (`--grpc-keepalive-min-time`), so that no jitter makes it take us for a flood.
const KEEP_ALIVE: Duration = Duration::from_secs(6);

/// Wait for the answer to such a ping: a frozen member's watches end 8 s after its last word.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a certificate, key or password file: far more than any has.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a file that names us to etcd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, is longer than any such file, or is a secret that others may read.
    #[error(transparent)]
    Read(#[from] files::FileError),
    /// There is nothing in it, as while it is being written.
    #[error("`{}` is empty", .0.display())]
    Empty(PathBuf),
    /// The password is no text.
    #[error("the first line of `{}` is no password: it is empty or not UTF-8", .0.display())]
    Password(PathBuf),
    /// The files were not read in time.
    #[error("the files of `registry.etcd` were not read within {0:?}: does their file system hang?")]
    Slow(Duration),
}

impl EtcdOptions {
    /// What a connection is made with. Blocks on the disk.
    pub(super) fn connect_options(&self) -> Result<ConnectOptions, FileError> {
        let mut options = ConnectOptions::new()
            .with_timeout(REQUEST_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_TIMEOUT)
            // etcd takes pings on a connection without a stream for a flood.
            .with_keep_alive_while_idle(false)
            // A member that lost its cluster says so instead of answering from the past.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(directory) = &self.tls {
            options = options.with_tls(tls(directory)?);
        }
        if let Some(EtcdUser { name, password_file }) = &self.user {
            options = options.with_user(name, password(password_file)?);
        }
        Ok(options)
    }
}

fn tls(directory: &Path) -> Result<TlsOptions, FileError> {
    let read = |name: &str| filled(directory.join(name), files::read);
    let options = TlsOptions::new().ca_certificate(Certificate::from_pem(read("ca.crt")?));
    let (certificate, key) = (read("tls.crt"), filled(directory.join("tls.key"), files::read_secret));
    match (certificate, key) {
        (Err(FileError::Read(one)), Err(FileError::Read(other)))
            if one.is_missing() && other.is_missing() =>
        {
            Ok(options)
        }
        (certificate, key) => Ok(options.identity(Identity::from_pem(certificate?, key?))),
    }
}

fn password(path: &Path) -> Result<String, FileError> {
    let text = String::from_utf8(filled(path.into(), files::read_secret)?).unwrap_or_default();
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(FileError::Password(path.into())),
    }
}

/// What `read` reads of a file that has something in it.
fn filled(
    path: PathBuf,
    read: fn(&Path, u64) -> Result<Vec<u8>, files::FileError>,
) -> Result<Vec<u8>, FileError> {
    let bytes = read(&path, FILE_BYTES_MAX)?;
    if bytes.is_empty() { Err(FileError::Empty(path)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_password_is_a_first_line_that_nobody_else_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        assert!(password(&path).unwrap_err().to_string().contains("cannot read"));
        write(&path, "se cret\nmore\n", 0o644);
        assert!(password(&path).unwrap_err().to_string().contains("mode 0644"));
        write(&path, "se cret\nmore\n", 0o600);
        assert_eq!(password(&path).unwrap(), "se cret");
        assert!(password(Path::new("/dev/zero")).unwrap_err().to_string().contains("is a device"));
        for none in ["", "\nsecret"] {
            write(&path, none, 0o600);
            assert!(password(&path).is_err(), "{none:?}");
        }
    }

    #[test]
    fn what_is_said_about_a_connection_never_holds_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let password_file = folder.path().join("password");
        write(&password_file, "sesame", 0o600);
        let user = Some(EtcdUser { name: "ringway".into(), password_file });
        let options = EtcdOptions { user, ..EtcdOptions::default() };
        assert!(options.connect_options().is_ok());
        assert!(!format!("{options:?}").contains("sesame"));
    }

    #[test]
    fn a_folder_without_a_client_certificate_will_do_half_of_one_will_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(tls(folder.path()).unwrap_err().to_string().contains("ca.crt"));
        write(&at("ca.crt"), "certificate", 0o644);
        assert!(tls(folder.path()).is_ok());
        write(&at("tls.crt"), "certificate", 0o644);
        assert!(tls(folder.path()).unwrap_err().to_string().contains("tls.key"));
        write(&at("tls.key"), "key", 0o640);
        assert!(tls(folder.path()).unwrap_err().to_string().contains("chmod 600"));
        write(&at("tls.key"), "key", 0o600);
        assert!(tls(folder.path()).is_ok());
    }
}
