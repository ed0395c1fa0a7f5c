//! What a gateway reads from its files, checked whole before anything is changed by it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use identity::{Credentials, IdentityError, TrustError};
use registry::manifest::{self, Problem, Problems};
use registry::model::{Gateway, Reason};
use registry::pure::sources::Files;
use tokio::task::JoinError;
use tracing::warn;

use super::files::Look;

/// Everything that is read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) gateway: Gateway,
    pub(super) files: Arc<Files>,
    pub(super) certificate: Certificate,
    /// How the files looked before they were read.
    pub(super) look: Look,
    warnings: Vec<Problem>,
}

/// Our certificate and key.
#[derive(Debug)]
pub(super) enum Certificate {
    /// They can be used.
    Valid(Arc<Credentials>),
    /// All is right with them but that the time of the certificate has not come.
    NotBefore {
        /// When it comes.
        at: SystemTime,
        /// What is said of it until then.
        why: IdentityError,
    },
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The manifests cannot be used; nothing was touched.
    #[error("the manifests cannot be used")]
    Manifests(#[source] Problems),
    /// Our certificate or key cannot be used.
    #[error("the identity cannot be used; `ringway pki issue` makes one")]
    Identity(#[from] identity::IdentityError),
    /// The certificate is another process's.
    #[error(
        "the certificate is for {found}, this Gateway is `{id}` of cluster `{cluster}` in trust domain \
         `{trust_domain}`; issue one with `ringway pki issue --cluster {cluster} --gateway {id}`"
    )]
    WrongIdentity {
        /// What the certificate says.
        found: String,
        /// `metadata.name`.
        id: String,
        /// `spec.cluster`.
        cluster: String,
        /// `spec.trustDomain`.
        trust_domain: String,
    },
    /// The certificate is no workload's of this Sidecar's cluster.
    #[error(
        "the certificate is for {found}, a Sidecar of cluster `{cluster}` in trust domain `{trust_domain}` needs a \
         workload's; issue one with `ringway pki issue --cluster {cluster} --workload NAMESPACE/ACCOUNT`"
    )]
    NoWorkload {
        /// What the certificate says.
        found: String,
        /// `spec.cluster`.
        cluster: String,
        /// `spec.trustDomain`.
        trust_domain: String,
    },
    /// A Sidecar believes nobody without the bundle of its own cluster.
    #[error("the trust bundle of our own cluster cannot be used")]
    OwnBundle(#[source] TrustError),
}

/// Why a change was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The files cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A bundle that this change touches cannot be used. One that is gone is no error: it takes the link down.
    #[error("the trust bundle of `{0}` cannot be used: {1}")]
    Bundle(String, String),
    /// It changes what is read at the start only.
    #[error("{0} cannot change at run time: restart this process, or put the old value back")]
    Restart(String),
    /// Reading panicked.
    #[error("reading the files failed")]
    Read(#[from] JoinError),
}

/// Reads manifests from `files`, and the certificate from where they say. Blocks on the disk.
pub(super) fn load(files: &[PathBuf]) -> Result<Loaded, LoadError> {
    let look = Look::at_manifests(files);
    let manifests = manifest::load(files).map_err(LoadError::Manifests)?;
    let gateway = manifests.require_gateway().map_err(LoadError::Manifests)?.clone();
    let look = look.and_identity(&gateway.identity_dir);
    let certificate = certificate(&gateway.identity_dir, |found| ours(&gateway, found))?;
    Ok(Loaded {
        gateway,
        files: Arc::new(Files::new(manifests.declared, manifests.documents)),
        certificate,
        look,
        warnings: manifests.warnings,
    })
}

/// Reads the certificate and key in `directory`, which must be ours as `is_ours` sees it. Blocks on the disk.
pub(super) fn certificate(
    directory: &Path,
    is_ours: impl FnOnce(&Credentials) -> Result<(), LoadError>,
) -> Result<Certificate, LoadError> {
    let now = SystemTime::now();
    let (credentials, early) = match Credentials::load_at(directory, now) {
        Err(why @ IdentityError::NotYetValid { at, .. }) => {
            // Whatever else is wrong with it is said now, not when its time has come.
            (Credentials::load_at(directory, at)?, Some((at, why)))
        }
        read => (read?, None),
    };
    is_ours(&credentials)?;
    Ok(match early {
        None => Certificate::Valid(Arc::new(credentials)),
        Some((at, why)) => Certificate::NotBefore { at, why },
    })
}

/// Whether a certificate is that of `gateway`.
fn ours(gateway: &Gateway, credentials: &Credentials) -> Result<(), LoadError> {
    let found = credentials.identity();
    let ours = found.cluster == gateway.cluster.as_str()
        && found.trust_domain == gateway.trust_domain
        && found.gateway() == Some(gateway.id.as_str());
    if ours {
        return Ok(());
    }
    Err(LoadError::WrongIdentity {
        found: found.to_string(),
        id: gateway.id.clone(),
        cluster: gateway.cluster.to_string(),
        trust_domain: gateway.trust_domain.clone(),
    })
}

impl Certificate {
    /// As a process needs it that has no other one.
    ///
    /// # Errors
    /// When its time has not come.
    pub(super) fn valid(self) -> Result<Arc<Credentials>, LoadError> {
        match self {
            Self::Valid(credentials) => Ok(credentials),
            Self::NotBefore { why, .. } => Err(why.into()),
        }
    }
}

impl Refused {
    /// What the condition says that shows it.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Load(LoadError::Manifests(_)) => Reason::InvalidManifests,
            Self::Load(
                LoadError::Identity(_) | LoadError::WrongIdentity { .. } | LoadError::NoWorkload { .. },
            ) => Reason::InvalidIdentity,
            Self::Load(LoadError::OwnBundle(_)) | Self::Bundle(..) => Reason::InvalidBundle,
            Self::Restart(_) => Reason::RestartNeeded,
            Self::Read(_) => Reason::ReadFailed,
        }
    }
}

impl Loaded {
    /// Says in the log what has no effect, or not the one meant.
    pub(super) fn say_warnings(&self) {
        for warning in &self.warnings {
            warn!("{}", warning.in_one_line());
        }
    }
}
