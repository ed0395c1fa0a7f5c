//! Who a Ringway process is, and whom it believes.
//!
//! A process is named by the one URI in its certificate ([`Identity`], a SPIFFE ID). It loads its own certificate
//! and key as [`Credentials`] and what it believes of others as [`Trust`]: for each peer cluster, that cluster's
//! trust domain and *its* authorities only. [`server_config`] and [`client_config`] turn both into TLS 1.3
//! configurations that check every peer so; a [`Refusal`] says why one was turned away.
//!
//! All of it is immutable: a changed file or link makes new values, and new configurations for new connections.
//! [`pki`] makes the files in the first place.

mod certificate;
mod credentials;
mod files;
mod id;
pub mod pki;
mod refusal;
mod tls;
mod trust;
mod verify;

use std::time::SystemTime;

pub use certificate::{not_after, peer_identity, utc};
pub use credentials::Credentials;
pub use files::FileError;
pub use id::{Identity, InvalidIdentity, MAX_URI, Role};
pub use refusal::{Refusal, reason, reason_in};
pub use tls::{client_config, server_config};
pub use trust::{Trust, TrustError};

/// Why credentials or a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is missing, too long, not what it should be, or readable by others.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate does not say who we are.
    #[error("{file}: this certificate cannot be used as a Ringway identity")]
    Certificate {
        /// The certificate's file.
        file: String,
        /// What is wrong with it.
        source: Refusal,
    },
    /// Our own certificate has expired.
    #[error("{file}: the certificate expired on {at}: issue a new one (`ringway pki issue`)")]
    Expired {
        /// The certificate's file.
        file: String,
        /// When, in UTC.
        at: String,
    },
    /// Our own certificate is not valid yet.
    #[error("{file}: the certificate is valid only from {}: check this machine's clock", utc(*.at))]
    NotYetValid {
        /// The certificate's file.
        file: String,
        /// From when.
        at: SystemTime,
    },
    /// Key and certificate do not belong together, or the key is of an unknown kind.
    #[error("{key} does not fit {certificate}: both must come from one `ringway pki issue`")]
    Key {
        /// The key's file.
        key: String,
        /// The certificate's file.
        certificate: String,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// The TLS library refused the settings.
    #[error("no TLS configuration could be made for {identity}")]
    Tls {
        /// Whose configuration.
        identity: Box<Identity>,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// The cluster to dial is not among the trusted ones.
    #[error("cluster `{0}` cannot be dialled: no trust bundle is loaded for it (`bundles/{0}.pem`)")]
    NoTrust(String),
}
