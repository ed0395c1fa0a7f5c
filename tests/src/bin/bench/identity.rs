//! What the proxies of the peers show each other.

use std::io;
use std::path::{Path, PathBuf};

use e2e::mesh::{Mesh, TRUST_DOMAIN};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// The name of a certificate that has one of DNS.
const SERVER_NAME: &str = "peer.example";

/// What every proxy of the peers shows.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Where the peers' files are.
    pub(crate) dir: PathBuf,
    /// The authority's certificate.
    pub(crate) authority: PathBuf,
    /// Certificate and key in one file.
    pub(crate) both: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Envoy's word for the kind of its name, and the name.
    pub(crate) name: (&'static str, String),
}

impl Identity {
    /// One of the same authority as our gateways'.
    pub(crate) fn issue(mesh: &Mesh) -> io::Result<Self> {
        let dir = mesh.dir().join("peers");
        mesh.issue("ca", "peer", &[], &dir);
        let name = ("URI", format!("spiffe://{TRUST_DOMAIN}/cluster/peer/gateway/gw-1"));
        Self::of(dir, mesh.dir().join("ca/ca.crt"), name)
    }

    /// One with a name of DNS, which Envoy asks for with HTTP/3, of an authority of its own.
    pub(crate) fn named(mesh: &Mesh) -> io::Result<Self> {
        let dir = mesh.dir().join("peers");
        std::fs::create_dir_all(&dir)?;
        write_named(&dir).map_err(io::Error::other)?;
        let authority = dir.join("ca.crt");
        Self::of(dir, authority, ("DNS", SERVER_NAME.into()))
    }

    fn of(dir: PathBuf, authority: PathBuf, name: (&'static str, String)) -> io::Result<Self> {
        let (certificate, key, both) = (dir.join("tls.crt"), dir.join("tls.key"), dir.join("both.pem"));
        std::fs::write(&both, [std::fs::read(&certificate)?, std::fs::read(&key)?].concat())?;
        Ok(Self { dir, authority, both, certificate, key, name })
    }
}

/// Writes `ca.crt`, and `tls.crt` and `tls.key` of a server and client in one.
fn write_named(dir: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "authority of the peers");
    let authority_key = KeyPair::generate()?;
    std::fs::write(dir.join("ca.crt"), authority.self_signed(&authority_key)?.pem())?;
    let issuer = Issuer::new(authority, authority_key);
    let mut leaf = CertificateParams::new([SERVER_NAME.to_owned()])?;
    leaf.distinguished_name.push(DnType::CommonName, SERVER_NAME);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    std::fs::write(dir.join("tls.crt"), leaf.signed_by(&key, &issuer)?.pem())?;
    std::fs::write(dir.join("tls.key"), key.serialize_pem())?;
    Ok(())
}
