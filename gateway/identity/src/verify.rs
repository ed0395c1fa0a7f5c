//! The check of a peer's certificate: who it says it is, and whether *that* cluster's authorities say so too.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, PeerIncompatible, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::certificate::Facts;
use crate::trust::Authorities;
use crate::{Identity, Refusal, Role, Trust};

/// Whom a connection may lead to.
pub(crate) enum Expect {
    /// We dialled: a gateway of exactly this cluster.
    GatewayOf(String),
    /// We were dialled: a gateway of any believed cluster, or a workload of our own, named here.
    AnyLinked {
        /// Our own cluster.
        own: String,
    },
}

pub(crate) struct Verifier {
    pub(crate) trust: Arc<Trust>,
    pub(crate) expect: Expect,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<Identity, Refusal> {
        let identity = Facts::read(leaf)?.identity()?;
        self.expected(&identity)?;
        vouched(&self.trust, self.algorithms, identity, leaf, between, now, usage)
    }

    fn expected(&self, identity: &Identity) -> Result<(), Refusal> {
        let (cluster, role) = (&identity.cluster, &identity.role);
        match (&self.expect, role) {
            (Expect::GatewayOf(expected), _) if cluster != expected => {
                Err(Refusal::Cluster { identity: Box::new(identity.clone()), expected: expected.clone() })
            }
            (Expect::AnyLinked { own }, Role::Workload { .. }) if cluster == own => Ok(()),
            (_, Role::Workload { .. }) => Err(Refusal::NotGateway(Box::new(identity.clone()))),
            (_, Role::Gateway { .. }) => Ok(()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }
}

impl Trust {
    /// Whether a peer that was believed in a handshake would be believed again at `now`: its certificate is valid then,
    /// and the authorities of its cluster, as they are now, vouch for it. `chain` is what the peer showed; `we_dialled`
    /// says on which side it stood.
    ///
    /// # Errors
    /// Why it would not be.
    pub fn still_believes(
        &self,
        chain: &[CertificateDer<'_>],
        we_dialled: bool,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let (leaf, between) = chain.split_first().ok_or(Refusal::NoCertificate)?;
        let identity = Facts::read(leaf)?.identity()?;
        let usage = if we_dialled { KeyUsage::server_auth() } else { KeyUsage::client_auth() };
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let algorithms = crate::tls::provider().signature_verification_algorithms;
        vouched(self, algorithms, identity, leaf, between, now, usage).map(drop)
    }
}

/// Whether the authorities of *its* cluster vouch for the certificate `leaf` of `identity`.
fn vouched(
    trust: &Trust,
    algorithms: WebPkiSupportedAlgorithms,
    identity: Identity,
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<Identity, Refusal> {
    let Some(authorities) = trust.of(&identity.cluster) else {
        return Err(Refusal::NotLinked(Box::new(identity)));
    };
    if authorities.trust_domain != identity.trust_domain {
        let expected = authorities.trust_domain.clone();
        return Err(Refusal::TrustDomain { identity: Box::new(identity), expected });
    }
    if !Facts::read(leaf)?.signs {
        let (whose, what) = ("the process", "handshakes");
        return Err(Refusal::KeyUsage { identity: Box::new(identity), whose, what });
    }
    let chain = EndEntityCert::try_from(leaf).map_err(|_| Refusal::Malformed)?;
    // Why the first way up that the library found does not lead to the top; it looks for another one then.
    let refused = RefCell::new(None);
    let reaches = |path: &VerifiedPath<'_>| {
        authorities.reach(path, &identity, now).map_err(|refusal| {
            refused.borrow_mut().get_or_insert(refusal);
            webpki::Error::UnknownIssuer
        })
    };
    let (anchors, all) = (&authorities.anchors, algorithms.all);
    let verified = chain.verify_for_usage(all, anchors, between, now, usage, None, Some(&reaches)).map(drop);
    match (verified, refused.into_inner()) {
        (Ok(()), _) => Ok(identity),
        (Err(_), Some(refusal)) => Err(refusal),
        (Err(fault), None) => Err(Refusal::of_chain(identity, fault)),
    }
}

impl Authorities {
    /// Whether the authority at the top of `path` is believed so far, and each one below it may sign certificates: what the
    /// X.509 library leaves out. That checks signatures, times, names, purposes and path lengths of all below the top.
    fn reach(&self, path: &VerifiedPath<'_>, identity: &Identity, now: UnixTime) -> Result<(), Refusal> {
        let identity = || Box::new(identity.clone());
        let mut below = 0;
        for authority in path.intermediate_certificates() {
            below += 1;
            if !Facts::read(&authority.der())?.authority {
                let (whose, what) = ("an authority below the one that is trusted", "certificates");
                return Err(Refusal::KeyUsage { identity: identity(), whose, what });
            }
        }
        // The library took it from this list.
        let top = self.anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
        let Some(limits) = top.and_then(|top| self.limits.get(top)) else {
            return Err(Refusal::UnknownAuthority(identity()));
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match limits.path_len {
            _ if now > limits.not_after => {
                Err(Refusal::AuthorityExpired { identity: identity(), at: limits.not_after })
            }
            _ if now < limits.not_before => {
                Err(Refusal::AuthorityNotYetValid { identity: identity(), at: limits.not_before })
            }
            Some(allowed) if below > allowed as usize => {
                Err(Refusal::PathLength { identity: identity(), allowed, found: below })
            }
            _ => Ok(()),
        }
    }
}

/// TLS 1.2 is never offered nor accepted; should a library do so all the same, this ends it.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        // The address dialled names no one: the identity does.
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, between, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A peer has one certificate: hints would only tell strangers whom we are linked to.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, between, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Verifier");
        match &self.expect {
            Expect::GatewayOf(cluster) => out.field("gateway_of", cluster),
            Expect::AnyLinked { own } => out.field("own", own),
        };
        out.finish_non_exhaustive()
    }
}
