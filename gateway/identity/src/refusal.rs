//! Why a peer was turned away, in words that survive the TLS and QUIC libraries.
//!
//! rustls carries a verifier's own error only as an opaque value and prints it with `Debug`; quinn keeps nothing but
//! that print and sends it to the peer in its CONNECTION_CLOSE. So a refusal is wrapped in [`Spoken`], whose `Debug`
//! is the plain sentence, and [`reason`] and [`reason_in`] take it out again. The price is one alert for every
//! refusal, `certificate_unknown`. As the peer may read the sentence, it names no file and no cluster but the two
//! concerned.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::{AlertDescription, CertificateError, OtherError};

use crate::certificate::utc;
use crate::{Identity, InvalidIdentity};

/// Why a certificate was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificate was presented.
    #[error("no certificate was presented")]
    NoCertificate,
    /// The bytes are no X.509 certificate.
    #[error("the certificate cannot be read as X.509")]
    Malformed,
    /// The certificate has no URI among its alternative names.
    #[error("the certificate carries no SPIFFE ID (no URI in its subject alternative names)")]
    NoIdentity,
    /// The certificate has several URIs among its alternative names.
    #[error("the certificate carries {0} URIs; exactly one SPIFFE ID is allowed")]
    ManyIdentities(usize),
    /// The certificate's URI is no Ringway identity.
    #[error("the certificate's URI is no Ringway identity: {0}")]
    InvalidIdentity(#[from] InvalidIdentity),
    /// There is no link to the cluster the certificate names, or the link has no usable trust bundle.
    #[error("there is no link with a trust bundle for cluster `{}`, which {} belongs to", .0.cluster, .0)]
    NotLinked(Box<Identity>),
    /// The link to this cluster expects another trust domain.
    #[error("{identity} is of another trust domain than the link's, `{expected}`")]
    TrustDomain {
        /// Whom the certificate names.
        identity: Box<Identity>,
        /// What the link expects.
        expected: String,
    },
    /// Another cluster answered than the one that was dialled.
    #[error("cluster `{expected}` was dialled, but {identity} answered: check the link's addresses")]
    Cluster {
        /// Whom the certificate names.
        identity: Box<Identity>,
        /// The cluster that was dialled.
        expected: String,
    },
    /// A workload's certificate where only a gateway may stand.
    #[error("{0} is no gateway: only a gateway may speak for a cluster")]
    NotGateway(Box<Identity>),
    /// None of the authorities in that cluster's bundle signed the certificate.
    #[error("{} is not signed by an authority in the trust bundle held here for cluster `{}`", .0, .0.cluster)]
    UnknownAuthority(Box<Identity>),
    /// The certificate, or one between it and the authority, has expired.
    #[error("the certificate of {identity} expired on {}", utc(*.at))]
    Expired {
        /// Whom the certificate names.
        identity: Box<Identity>,
        /// The end of its validity.
        at: SystemTime,
    },
    /// The certificate, or one between it and the authority, is not valid yet.
    #[error("the certificate of {identity} is valid only from {}: are both clocks right?", utc(*.at))]
    NotYetValid {
        /// Whom the certificate names.
        identity: Box<Identity>,
        /// The start of its validity.
        at: SystemTime,
    },
    /// The certificate was issued for another purpose than TLS in this direction.
    #[error("the certificate of {0} is not issued for this use (extended key usage)")]
    Usage(Box<Identity>),
    /// The certificate's key, or that of one between it and the authority, is for something else.
    #[error(
        "the certificate chain of {identity} does not hold: the key of {whose} may not sign {what} (key usage)"
    )]
    KeyUsage {
        /// Whom the certificate names.
        identity: Box<Identity>,
        /// Which certificate of the chain.
        whose: &'static str,
        /// What it signed.
        what: &'static str,
    },
    /// The chain is longer than its authority allows.
    #[error(
        "the certificate chain of {identity} has {found} authorities below the one that is trusted, which allows \
         {allowed} (path length)"
    )]
    PathLength {
        /// Whom the certificate names.
        identity: Box<Identity>,
        /// How many its authority allows.
        allowed: u32,
        /// How many there are.
        found: usize,
    },
    /// The authority in the trust bundle has expired.
    #[error(
        "the authority that vouches for {identity} expired on {}: put a new one into the trust bundle", utc(*.at)
    )]
    AuthorityExpired {
        /// Whom the certificate names.
        identity: Box<Identity>,
        /// The end of the authority's validity.
        at: SystemTime,
    },
    /// The authority in the trust bundle is not valid yet.
    #[error(
        "the authority that vouches for {identity} is valid only from {}: is this clock right?", utc(*.at)
    )]
    AuthorityNotYetValid {
        /// Whom the certificate names.
        identity: Box<Identity>,
        /// The start of the authority's validity.
        at: SystemTime,
    },
    /// An authority demands what is not known here (RFC 5280, 4.2).
    #[error("the certificate has a critical extension that is not known here ({0})")]
    Critical(String),
    /// The chain breaks another rule of RFC 5280.
    #[error("the certificate chain of {identity} does not hold: {fault:?}")]
    Chain {
        /// Whom the certificate names.
        identity: Box<Identity>,
        /// The rule, as the X.509 library names it.
        fault: webpki::Error,
    },
}

impl Refusal {
    /// What the X.509 library found wrong with the chain of `identity`.
    pub(crate) fn of_chain(identity: Identity, fault: webpki::Error) -> Self {
        let identity = Box::new(identity);
        let at = |t: rustls::pki_types::UnixTime| SystemTime::UNIX_EPOCH + Duration::from_secs(t.as_secs());
        match fault {
            webpki::Error::CertExpired { not_after, .. } => Self::Expired { identity, at: at(not_after) },
            webpki::Error::CertNotValidYet { not_before, .. } => {
                Self::NotYetValid { identity, at: at(not_before) }
            }
            // Another authority may bear the same subject: then its signature is what does not fit.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                Self::UnknownAuthority(identity)
            }
            webpki::Error::RequiredEkuNotFoundContext(_) => Self::Usage(identity),
            fault => Self::Chain { identity, fault },
        }
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        CertificateError::Other(OtherError(Arc::new(Spoken(refusal)))).into()
    }
}

/// A refusal whose `Debug` is its sentence.
struct Spoken(Refusal);

impl fmt::Debug for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Spoken {}

/// What a failed handshake means, in one line.
pub fn reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::NoCertificatesPresented => Refusal::NoCertificate.to_string(),
        rustls::Error::AlertReceived(AlertDescription::CertificateUnknown) => {
            "the peer refused our certificate; its log says why".into()
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the peer demands a certificate and got none".into()
        }
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | rustls::Error::NoApplicationProtocol => {
            "the peer does not speak this tunnel protocol (ALPN)".into()
        }
        other => reason_in(&other.to_string()).to_owned(),
    }
}

/// The sentence of a [`Refusal`] within a text that rustls or quinn made of it; any other text as it is.
///
/// For quinn, which keeps only the text: `TransportError::reason` where we refused, and the reason of the
/// `ConnectionClosed` where the peer did.
pub fn reason_in(text: &str) -> &str {
    const BEFORE: &str = "Other(OtherError(";
    match text.split_once(BEFORE) {
        // The peer's library may have cut the end off.
        Some((_, sentence)) => sentence.strip_suffix("))").unwrap_or(sentence),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_sentence_survives_what_the_libraries_make_of_it() {
        let identity: Identity = "spiffe://acme.example/cluster/east/gateway/gw-1".parse().unwrap();
        let refusal = Refusal::UnknownAuthority(Box::new(identity));
        let sentence = "spiffe://acme.example/cluster/east/gateway/gw-1 is not signed by an authority \
                        in the trust bundle held here for cluster `east`";
        let error = rustls::Error::from(refusal);
        assert_eq!(reason(&error), sentence);
        // As quinn prints it, here and at the peer, and as a full packet may cut it.
        let printed = format!("aborted by peer: the cryptographic handshake failed: error 46: {error}");
        assert_eq!(reason_in(&printed), sentence);
        assert_eq!(reason_in(&printed[..printed.len() - 12]), &sentence[..sentence.len() - 10]);
        assert_eq!(reason_in("timed out"), "timed out");
    }

    #[test]
    fn dates_are_for_people() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(utc(at(1_795_169_001)), "2026-11-20 10:03:21 UTC");
        assert_eq!(utc(at(0)), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1969-12-31 23:59:59 UTC");
        assert_eq!(utc(at(1 << 60)), "second 1152921504606846976 of the Unix epoch");
    }
}
