//! TLS 1.3 as Ringway uses it: both sides prove who they are, every time.
//!
//! No resumption, no tickets, no early data: each would let a connection live on what an earlier handshake proved.
//! The key exchange is X25519MLKEM768 wherever both sides know it, which all Ringway processes do.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use crate::verify::{Expect, Verifier};
use crate::{Credentials, IdentityError, Trust};

/// The cryptography in use: aws-lc-rs, post-quantum first.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..aws_lc_rs::default_provider()
    }
}

/// The configuration for accepting: it demands a certificate and takes gateways of the clusters in `trust`, and
/// workloads of our own cluster if that is among them. `alpn` lists the protocols accepted, the preferred first.
///
/// # Errors
/// When the TLS library refuses the settings.
pub fn server_config(
    credentials: &Credentials,
    trust: Arc<Trust>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, IdentityError> {
    let provider = Arc::new(provider());
    let verifier = Verifier {
        trust,
        expect: Expect::AnyLinked { own: credentials.identity().cluster.clone() },
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| failed(credentials, source))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.certified())));
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The configuration for dialling: only a gateway of exactly `cluster` is accepted. `alpn` lists the protocols
/// offered, the preferred first.
///
/// The server's name (SNI) is not sent; what is passed as such to the TLS library does not matter.
///
/// # Errors
/// When nothing is believed of `cluster`, or the TLS library refuses the settings.
pub fn client_config(
    credentials: &Credentials,
    trust: Arc<Trust>,
    cluster: &str,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, IdentityError> {
    if trust.of(cluster).is_none() {
        return Err(IdentityError::NoTrust(cluster.to_owned()));
    }
    let provider = Arc::new(provider());
    let verifier = Verifier {
        trust,
        expect: Expect::GatewayOf(cluster.to_owned()),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| failed(credentials, source))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.certified())));
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

fn failed(credentials: &Credentials, source: rustls::Error) -> IdentityError {
    IdentityError::Tls { identity: Box::new(credentials.identity().clone()), source }
}
