//! Our own certificate and key.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use crate::certificate::{Facts, utc};
use crate::files::{self, show};
use crate::{Identity, IdentityError, tls};

/// The certificate chain and private key that prove who this process is. Cheap to clone; never prints the key.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    not_before: SystemTime,
    not_after: SystemTime,
    key: Arc<CertifiedKey>,
}

impl Credentials {
    /// Loads `tls.crt` (our certificate first, then those between it and the authority) and `tls.key` from `dir`.
    ///
    /// That key and certificate belong together is seen before any date.
    ///
    /// After a new issue both files change, one after the other: a load between the two fails with
    /// [`IdentityError::Key`], and the next one works.
    ///
    /// # Errors
    /// When a file is missing or broken, the key is readable by others or fits another certificate, or the
    /// certificate carries no single identity, has expired or is not valid yet.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        Self::load_at(dir, SystemTime::now())
    }

    /// As [`Credentials::load`], judged at the moment `now`.
    ///
    /// # Errors
    /// The same.
    pub fn load_at(dir: &Path, now: SystemTime) -> Result<Self, IdentityError> {
        let (certificate, key) = (dir.join("tls.crt"), dir.join("tls.key"));
        let chain = files::certificates(&certificate)?;
        let private = files::private_key(&key)?;

        let bad = |source| IdentityError::Certificate { file: show(&certificate), source };
        let facts = Facts::read(&chain[0]).map_err(bad)?;
        let identity = facts.identity().map_err(bad)?;
        let key = CertifiedKey::from_der(chain, private, &tls::provider()).map_err(|source| {
            IdentityError::Key { key: show(&key), certificate: show(&certificate), source }
        })?;
        if now > facts.not_after {
            return Err(IdentityError::Expired { file: show(&certificate), at: utc(facts.not_after) });
        }
        if now < facts.not_before {
            return Err(IdentityError::NotYetValid { file: show(&certificate), at: facts.not_before });
        }
        Ok(Self { identity, not_before: facts.not_before, not_after: facts.not_after, key: Arc::new(key) })
    }

    /// Who we are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The first moment at which our certificate is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The last moment at which our certificate is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Our certificate, then those between it and the authority.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// Chain and key as the TLS library takes them.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("not_after", &utc(self.not_after))
            .finish_non_exhaustive()
    }
}
