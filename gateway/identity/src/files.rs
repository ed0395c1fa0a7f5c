//! Reading and writing certificates and keys.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The longest file read, in bytes: a bundle of some two hundred certificates; more is a wrong path.
const MAX_FILE: u64 = 256 * 1024;

/// The most certificates in one file: a peer's authorities in rotation are two or three.
const MAX_CERTIFICATES: usize = 64;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, is longer than any certificate file, or is a key that others may read.
    #[error(transparent)]
    Read(#[from] files::FileError),
    /// It could not be written.
    #[error("{file}: cannot be written")]
    Write {
        /// Its path.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is not PEM, or broken.
    #[error("{file}: is not valid PEM: {fault}")]
    Pem {
        /// Its path.
        file: String,
        /// What the PEM reader said.
        fault: String,
    },
    /// It has no certificate.
    #[error("{0}: has no CERTIFICATE section")]
    NoCertificate(String),
    /// It has more certificates than make sense.
    #[error("{0}: has more than {MAX_CERTIFICATES} certificates")]
    TooManyCertificates(String),
    /// It holds something besides certificates.
    #[error("{file}: holds a {kind} besides certificates; only certificates belong here")]
    NotOnlyCertificates {
        /// Its path.
        file: String,
        /// What else.
        kind: String,
    },
    /// It has no private key of a known kind.
    #[error("{0}: has no PRIVATE KEY section")]
    NoKey(String),
}

/// The certificates of a PEM file, in order: at least one, and nothing else.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    certificates_in(&files::read(path, MAX_FILE)?, path)
}

/// As [`certificates`], of text already read from `path`.
fn certificates_in(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        match section.map_err(|e| FileError::Pem { file: show(path), fault: e.to_string() })? {
            (SectionKind::Certificate, der) => found.push(der.into()),
            (kind, _) => {
                return Err(FileError::NotOnlyCertificates { file: show(path), kind: format!("{kind:?}") });
            }
        }
        if found.len() > MAX_CERTIFICATES {
            return Err(FileError::TooManyCertificates(show(path)));
        }
    }
    if found.is_empty() { Err(FileError::NoCertificate(show(path))) } else { Ok(found) }
}

/// The PEM text of a file that holds certificates only.
pub(crate) fn certificates_pem(path: &Path) -> Result<Vec<u8>, FileError> {
    let pem = files::read(path, MAX_FILE)?;
    certificates_in(&pem, path).map(|_| pem)
}

/// The private key of a PEM file that nobody else may read.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let pem = files::read_secret(path, MAX_FILE)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| FileError::NoKey(show(path)))
}

/// Puts `bytes` at `path` in one step; with `secret`, at no moment can anybody but the owner read them.
pub(crate) fn replace(path: &Path, bytes: &[u8], secret: bool) -> Result<(), FileError> {
    let fresh = path.with_added_extension("new");
    let put = || {
        // What a broken-off earlier run left behind.
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        create(&fresh, bytes, secret)?;
        fs::rename(&fresh, path)
    };
    put().map_err(|source| FileError::Write { file: show(path), source })
}

/// Creates `path` with `bytes` unless it exists.
pub(crate) fn create_new(path: &Path, bytes: &[u8], secret: bool) -> Result<(), FileError> {
    create(path, bytes, secret).map_err(|source| FileError::Write { file: show(path), source })
}

fn create(path: &Path, bytes: &[u8], secret: bool) -> io::Result<()> {
    let mode = if secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a directory and those above it.
pub(crate) fn directory(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(|source| FileError::Write { file: show(path), source })
}

pub(crate) fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_secret_is_the_owners_alone_even_where_a_readable_file_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.key");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        // What a run that was killed half-way left, readable by all.
        fs::write(dir.path().join("tls.key.new"), "left over").unwrap();

        replace(&path, b"new", true).unwrap();
        assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, b"new".to_vec()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_exists_is_not_created_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.key");
        create_new(&path, b"one", true).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(matches!(create_new(&path, b"two", true), Err(FileError::Write { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn only_certificates_are_taken_for_certificates() {
        let path = Path::new("x.pem");
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(certificates_in(certificate.repeat(2).as_bytes(), path).unwrap().len(), 2);

        let told = |pem: String| certificates_in(pem.as_bytes(), path).unwrap_err().to_string();
        assert_eq!(
            told(format!("{certificate}{key}")),
            "x.pem: holds a PrivateKey besides certificates; only certificates belong here"
        );
        assert_eq!(told("nothing".into()), "x.pem: has no CERTIFICATE section");
        assert_eq!(told(certificate.repeat(MAX_CERTIFICATES + 1)), "x.pem: has more than 64 certificates");
        assert!(told("-----BEGIN CERTIFICATE-----\nAAAA\n".into()).starts_with("x.pem: is not valid PEM: "));
    }

    #[test]
    fn a_file_too_long_or_without_an_end_is_refused() {
        assert!(certificates(Path::new("/dev/zero")).unwrap_err().to_string().contains("is a device"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long.pem");
        fs::write(&path, vec![b'#'; 256 * 1024 + 1]).unwrap();
        let error = certificates(&path).unwrap_err().to_string();
        assert!(error.contains("longer than 262144 bytes"), "{error}");
    }
}
