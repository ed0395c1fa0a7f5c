//! A small certificate authority: enough to start two clusters, with files any other PKI can make too.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::certificate::{Facts, utc};
use crate::files::{self, show};
use crate::id::{check_cluster, check_trust_domain};
use crate::{FileError, Identity, InvalidIdentity, Refusal, Role};

/// How long an authority made by [`init`] is valid.
pub const AUTHORITY_VALID: Duration = Duration::from_secs(10 * 365 * DAY);

/// How long a certificate is valid where nothing else is asked for.
pub const DEFAULT_VALID: Duration = Duration::from_secs(365 * DAY);

/// How far back a validity starts: the peer's clock may be behind ours by this much.
pub const SKEW: Duration = Duration::from_secs(5 * 60);

const DAY: u64 = 24 * 60 * 60;

/// Why no authority or certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name is invalid.
    #[error(transparent)]
    Name(#[from] InvalidIdentity),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An authority is there already.
    #[error("{0}: exists already, and is not overwritten: everything it signed would lose its worth")]
    Exists(String),
    /// The authority's certificate cannot be used.
    #[error("{file}: cannot be used as an authority")]
    Authority {
        /// The certificate's file.
        file: String,
        /// What is wrong with it.
        source: Refusal,
    },
    /// The certificate given as the authority's may not sign others.
    #[error("{0}: is no authority's certificate")]
    NotAuthority(String),
    /// The authority's key and certificate do not belong together.
    #[error("{key} is not the key of {certificate}")]
    KeyMismatch {
        /// The key's file.
        key: String,
        /// The certificate's file.
        certificate: String,
    },
    /// The authority has expired, or will have before the asked validity starts.
    #[error("{file}: this authority expired on {at}: make a new one (`ringway pki init`)")]
    Expired {
        /// The authority's file.
        file: String,
        /// When, in UTC.
        at: String,
    },
    /// The authority's certificate does not name its trust domain, nor did the caller.
    #[error("{0}: does not name its trust domain: give --trust-domain")]
    NoTrustDomain(String),
    /// The caller's trust domain is not the authority's.
    #[error("{file}: is the authority of `{found}`, not of `{asked}`")]
    TrustDomain {
        /// The authority's file.
        file: String,
        /// The trust domain it names.
        found: String,
        /// The one asked for.
        asked: String,
    },
    /// The validity ends before it starts, or lies outside what a certificate can say.
    #[error("a validity from {from} to {to} is not possible")]
    Validity {
        /// Its start.
        from: String,
        /// Its end.
        to: String,
    },
    /// The cryptographic library failed.
    #[error("the certificate could not be made")]
    Make(#[from] rcgen::Error),
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// From a little before `now` (see [`SKEW`]) until `valid_for` after it.
    pub fn from_now(now: SystemTime, valid_for: Duration) -> Self {
        Self {
            not_before: now.checked_sub(SKEW).unwrap_or(now),
            not_after: now.checked_add(valid_for).unwrap_or(now),
        }
    }

    fn apply(self, params: &mut CertificateParams) -> Result<(), PkiError> {
        let impossible = || PkiError::Validity { from: utc(self.not_before), to: utc(self.not_after) };
        let stamp = |at: SystemTime| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            OffsetDateTime::from_unix_timestamp(i64::try_from(since.as_secs()).ok()?).ok()
        };
        if self.not_after <= self.not_before {
            return Err(impossible());
        }
        params.not_before = stamp(self.not_before).ok_or_else(impossible)?;
        params.not_after = stamp(self.not_after).ok_or_else(impossible)?;
        Ok(())
    }
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The URI in the certificate.
    pub uri: String,
    /// The last moment at which it is valid.
    pub not_after: SystemTime,
    /// The files written, in order.
    pub files: Vec<PathBuf>,
}

/// Makes an authority for `trust_domain`: `ca.crt` and `ca.key` (0600) in `out_dir`, valid for [`AUTHORITY_VALID`]
/// from `now`. It can sign certificates of processes, but no further authorities.
///
/// # Errors
/// When the trust domain is invalid, either file exists, or one cannot be written.
pub fn init(trust_domain: &str, out_dir: &Path, now: SystemTime) -> Result<Made, PkiError> {
    check_trust_domain(trust_domain)?;
    let (certificate, key) = (out_dir.join("ca.crt"), out_dir.join("ca.key"));
    for path in [&certificate, &key] {
        if path.symlink_metadata().is_ok() {
            return Err(PkiError::Exists(show(path)));
        }
    }
    let uri = format!("spiffe://{trust_domain}");
    let validity = Validity::from_now(now, AUTHORITY_VALID);
    let mut params = params("Ringway CA", &uri)?;
    validity.apply(&mut params)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let signed = params.self_signed(&pair)?;

    files::directory(out_dir)?;
    files::create_new(&key, pair.serialize_pem().as_bytes(), true)?;
    files::create_new(&certificate, signed.pem().as_bytes(), false)?;
    Ok(Made { uri, not_after: validity.not_after, files: vec![certificate, key] })
}

/// What [`issue`] is asked for.
#[derive(Clone, Debug)]
pub struct Issue {
    /// Where `ca.crt` and `ca.key` are.
    pub ca_dir: PathBuf,
    /// The cluster the process belongs to.
    pub cluster: String,
    /// What it is there.
    pub role: Role,
    /// The clusters it shall believe, each with its bundle's file; none: the authority in `ca_dir`.
    pub peers: Vec<(String, Option<PathBuf>)>,
    /// Where to write.
    pub out_dir: PathBuf,
    /// The trust domain; needed only for an authority whose certificate does not name it.
    pub trust_domain: Option<String>,
    /// When the certificate is valid; its end is cut to the authority's.
    pub validity: Validity,
}

/// Issues a certificate: `tls.key` (0600), `tls.crt`, `bundles/<own cluster>.pem` and one bundle for each peer.
///
/// Everything asked for is checked before anything is written; each file is replaced in one step.
///
/// # Errors
/// When a name, the authority or a bundle is not usable, or a file cannot be written.
pub fn issue(ask: &Issue) -> Result<Made, PkiError> {
    let authority = Authority::load(&ask.ca_dir)?;
    let trust_domain = authority.trust_domain(ask.trust_domain.as_deref())?;
    let identity = Identity::new(&trust_domain, &ask.cluster, ask.role.clone())?;

    let not_after = ask.validity.not_after.min(authority.facts.not_after);
    let validity = Validity { not_after, ..ask.validity };
    if validity.not_after <= validity.not_before {
        return Err(match not_after == ask.validity.not_after {
            true => PkiError::Validity { from: utc(validity.not_before), to: utc(not_after) },
            false => PkiError::Expired { file: show(&authority.certificate), at: utc(not_after) },
        });
    }

    let bundles = ask.out_dir.join("bundles");
    let own = [(ask.cluster.clone(), None)];
    let mut out = Vec::new();
    for (cluster, file) in own.iter().chain(&ask.peers) {
        check_cluster(cluster)?;
        let pem = files::certificates_pem(file.as_ref().unwrap_or(&authority.certificate))?;
        out.push((bundles.join(format!("{cluster}.pem")), pem, false));
    }

    let uri = identity.to_string();
    let mut params = params(&ask.cluster, &uri)?;
    validity.apply(&mut params)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let signed = params.signed_by(&pair, &authority.issuer)?;
    // Last, and the certificate at the very end: who watches for it then finds all the rest in place.
    out.push((ask.out_dir.join("tls.key"), pair.serialize_pem().into_bytes(), true));
    out.push((ask.out_dir.join("tls.crt"), signed.pem().into_bytes(), false));

    files::directory(&bundles)?;
    for (path, bytes, secret) in &out {
        files::replace(path, bytes, *secret)?;
    }
    Ok(Made { uri, not_after, files: out.into_iter().map(|(path, ..)| path).collect() })
}

/// An authority's certificate and key.
struct Authority {
    certificate: PathBuf,
    facts: Facts,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn load(dir: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
        let der: CertificateDer<'static> = files::certificates(&certificate)?.swap_remove(0);
        let bad = |source| PkiError::Authority { file: show(&certificate), source };
        let facts = Facts::read(&der).map_err(bad)?;
        if !facts.authority {
            return Err(PkiError::NotAuthority(show(&certificate)));
        }
        let pair = KeyPair::try_from(&files::private_key(&key)?)?;
        if pair.public_key_raw() != facts.public_key {
            return Err(PkiError::KeyMismatch { key: show(&key), certificate: show(&certificate) });
        }
        let issuer = Issuer::from_ca_cert_der(&der, pair)?;
        Ok(Self { certificate, facts, issuer })
    }

    /// The trust domain this authority signs for: what its certificate says, else what the caller says.
    fn trust_domain(&self, asked: Option<&str>) -> Result<String, PkiError> {
        let named = self.facts.uris.iter().find_map(|uri| uri.strip_prefix("spiffe://"));
        match (named, asked) {
            (Some(found), Some(asked)) if found != asked => Err(PkiError::TrustDomain {
                file: show(&self.certificate),
                found: found.to_owned(),
                asked: asked.to_owned(),
            }),
            (Some(one), _) | (None, Some(one)) => Ok(one.to_owned()),
            (None, None) => Err(PkiError::NoTrustDomain(show(&self.certificate))),
        }
    }
}

fn params(common_name: &str, uri: &str) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri)?)];
    Ok(params)
}
