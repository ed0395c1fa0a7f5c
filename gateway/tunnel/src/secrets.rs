//! The keys of a UDP port. They outlive the process, so that the next start can tell peers that this one is dead.

use std::fmt;
use std::path::{Path, PathBuf};

use files::{FileError, PrivateDir};
use rustls::crypto::{SecureRandom, aws_lc_rs};

const KEY_BYTES: usize = 32;
/// First bytes of the file.
const MAGIC: [u8; 8] = *b"rwtunkey";
/// The byte after them: the version of the file's format.
const VERSION: u8 = 1;
const FILE_BYTES: usize = MAGIC.len() + 1 + 2 * KEY_BYTES;

/// What the connection IDs and stateless resets (RFC 9000, 10.3) of a UDP port are made with.
///
/// Both keys belong to one gateway process and all its later starts, and to nobody else: keep them where the process
/// keeps its state ([`Secrets::load_or_create`] with [`Secrets::FILE`] in a directory that it alone has locked). With
/// new keys at every start peers notice a restart only by silence.
#[derive(Clone)]
pub struct Secrets {
    pub(crate) reset_key: [u8; KEY_BYTES],
    pub(crate) cid_key: [u8; KEY_BYTES],
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The system refused, or others may read or replace the keys.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not what was written.
    #[error(
        "`{}` does not hold tunnel keys of this version; remove it, and new ones are made (peers then notice this one \
         restart by silence only)", .0.display()
    )]
    Damaged(PathBuf),
    /// The system has no randomness.
    #[error("the system gives no random bytes for keys")]
    Random,
}

impl Secrets {
    /// The name of their file in a state directory.
    pub const FILE: &str = "tunnel-keys";

    /// New keys.
    ///
    /// # Errors
    /// [`SecretsError::Random`].
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, SecretsError> {
        let mut made = Self { reset_key: [0; KEY_BYTES], cid_key: [0; KEY_BYTES] };
        random.fill(&mut made.reset_key).map_err(|_| SecretsError::Random)?;
        random.fill(&mut made.cid_key).map_err(|_| SecretsError::Random)?;
        Ok(made)
    }

    /// The keys in the file [`Secrets::FILE`] of `directory`, or new ones, which are in the file (mode 0600) before they
    /// are returned. Blocks on the disk. The directory must be this process's alone: two that start at once would each
    /// make their own.
    ///
    /// # Errors
    /// [`SecretsError`]; a file that is there is never overwritten.
    pub fn load_or_create(directory: &Path) -> Result<Self, SecretsError> {
        let directory = PrivateDir::open(directory)?;
        match directory.read_secret(Self::FILE, FILE_BYTES as u64) {
            Ok(Some(bytes)) => {
                Self::decode(&bytes).ok_or_else(|| SecretsError::Damaged(directory.join(Self::FILE)))
            }
            Ok(None) => {
                let made = Self::generate(aws_lc_rs::default_provider().secure_random)?;
                directory.replace(Self::FILE, &made.encode())?;
                Ok(made)
            }
            Err(FileError::TooLong { path, .. }) => Err(SecretsError::Damaged(path)),
            Err(failed) => Err(failed.into()),
        }
    }

    fn encode(&self) -> Vec<u8> {
        [&MAGIC[..], &[VERSION], &self.reset_key, &self.cid_key].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let keys = bytes.strip_prefix(&MAGIC)?.strip_prefix(&[VERSION])?;
        let (reset_key, rest) = keys.split_first_chunk()?;
        Some(Self { reset_key: *reset_key, cid_key: rest.try_into().ok()? })
    }
}

/// Says nothing of the keys.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(Secrets::FILE);
        (dir, path)
    }

    #[test]
    fn a_second_start_finds_the_keys_of_the_first() {
        let (dir, path) = file();
        let first = Secrets::load_or_create(dir.path()).unwrap();
        let second = Secrets::load_or_create(dir.path()).unwrap();
        assert_eq!((first.reset_key, first.cid_key), (second.reset_key, second.cid_key));
        assert_ne!(first.reset_key, first.cid_key);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn keys_of_two_gateways_differ() {
        let ((a, _), (b, _)) = (file(), file());
        assert_ne!(
            Secrets::load_or_create(a.path()).unwrap().cid_key,
            Secrets::load_or_create(b.path()).unwrap().cid_key
        );
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused_and_left_as_it_is() {
        let (dir, path) = file();
        let whole = Secrets::load_or_create(dir.path()).unwrap().encode();
        let longer = [&whole[..], b"x"].concat();
        for bytes in [&b""[..], b"hello", &whole[1..], &whole[..whole.len() - 1], &longer] {
            fs::write(&path, bytes).unwrap();
            assert!(
                matches!(Secrets::load_or_create(dir.path()), Err(SecretsError::Damaged(_))),
                "{bytes:?}"
            );
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn keys_that_others_may_read_are_refused() {
        let (dir, path) = file();
        Secrets::load_or_create(dir.path()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Secrets::load_or_create(dir.path()).unwrap_err();
        assert!(
            error.to_string().contains("mode 0640") && error.to_string().contains("chmod 600"),
            "{error}"
        );
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let (dir, path) = file();
        let elsewhere = tempfile::tempdir().unwrap();
        let (known, new) = (elsewhere.path().join(Secrets::FILE), elsewhere.path().join("new"));
        Secrets::load_or_create(elsewhere.path()).unwrap();
        // Whoever knows our keys could end our tunnels.
        std::os::unix::fs::symlink(&known, &path).unwrap();
        std::os::unix::fs::symlink(&new, dir.path().join("tunnel-keys.new")).unwrap();
        assert!(matches!(Secrets::load_or_create(dir.path()), Err(SecretsError::File(FileError::Link(_)))));
        fs::remove_file(&path).unwrap();
        Secrets::load_or_create(dir.path()).unwrap();
        assert!(!new.exists());
    }

    #[test]
    fn debug_output_says_nothing_of_the_keys() {
        let secrets = Secrets { reset_key: [0xab; KEY_BYTES], cid_key: [0xcd; KEY_BYTES] };
        assert_eq!(format!("{secrets:?}"), "Secrets { .. }");
    }
}
