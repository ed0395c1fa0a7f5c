//! What one X.509 certificate says: its URI, its times, whether it is an authority.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Identity, Refusal};

/// The identity of a chain that was verified in a handshake made with this crate's configurations.
///
/// # Errors
/// When the chain is empty or its first certificate carries no single, valid Ringway identity.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<Identity, Refusal> {
    Facts::read(chain.first().ok_or(Refusal::NoCertificate)?)?.identity()
}

/// The last moment at which `certificate` is valid.
///
/// # Errors
/// When it is no X.509 certificate.
pub fn not_after(certificate: &CertificateDer<'_>) -> Result<SystemTime, Refusal> {
    Ok(Facts::read(certificate)?.not_after)
}

/// What is read of a certificate.
pub(crate) struct Facts {
    /// All URIs among its alternative names.
    pub(crate) uris: Vec<String>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Whether it may sign certificates: by its basic constraints, and by its key usage if it has one (RFC 5280, 4.2.1.3
    /// and 4.2.1.9).
    pub(crate) authority: bool,
    /// How many authorities may stand between it and a process's certificate; none: any number.
    pub(crate) path_len: Option<u32>,
    /// Whether its key may sign a handshake (RFC 8446, 4.4.2.2: if there is a key usage, it must say so).
    pub(crate) signs: bool,
    /// A critical extension that neither we nor the X.509 library act on, by its number.
    pub(crate) unknown: Option<String>,
    /// The public key's bits, to compare with a private key's.
    pub(crate) public_key: Vec<u8>,
}

impl Facts {
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, Refusal> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Refusal::Malformed)?;
        if !rest.is_empty() {
            return Err(Refusal::Malformed);
        }
        let mut uris = Vec::new();
        if let Some(names) = certificate.subject_alternative_name().map_err(|_| Refusal::Malformed)? {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                    // A name we cannot read might be a second URI.
                    GeneralName::Invalid(..) => return Err(Refusal::Malformed),
                    _ => {}
                }
            }
        }
        let constraints = certificate.basic_constraints().map_err(|_| Refusal::Malformed)?;
        let constraints = constraints.map(|c| c.value).filter(|c| c.ca);
        let usage = certificate.key_usage().map_err(|_| Refusal::Malformed)?.map(|usage| usage.value);
        let unknown = certificate
            .extensions()
            .iter()
            .find(|extension| extension.critical && !is_acted_on(extension.parsed_extension()));
        Ok(Self {
            uris,
            not_before: moment(certificate.validity().not_before.timestamp())?,
            not_after: moment(certificate.validity().not_after.timestamp())?,
            authority: constraints.is_some() && usage.is_none_or(|usage| usage.key_cert_sign()),
            path_len: constraints.and_then(|c| c.path_len_constraint),
            signs: usage.is_none_or(|usage| usage.digital_signature()),
            unknown: unknown.map(|extension| extension.oid.to_id_string()),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        })
    }

    /// The one URI, read as an identity: a certificate with two names could be taken for either.
    pub(crate) fn identity(&self) -> Result<Identity, Refusal> {
        match &self.uris[..] {
            [] => Err(Refusal::NoIdentity),
            [uri] => Ok(uri.parse::<Identity>()?),
            many => Err(Refusal::ManyIdentities(many.len())),
        }
    }
}

/// Whether what a critical extension demands is seen to, here or by the X.509 library.
fn is_acted_on(extension: &ParsedExtension<'_>) -> bool {
    matches!(
        extension,
        ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::NameConstraints(_)
            | ParsedExtension::CRLDistributionPoints(_)
            // Any policy will do for us.
            | ParsedExtension::CertificatePolicies(_)
    )
}

fn moment(seconds: i64) -> Result<SystemTime, Refusal> {
    let span = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    if seconds < 0 { epoch.checked_sub(span) } else { epoch.checked_add(span) }.ok_or(Refusal::Malformed)
}

/// A moment as people read it: `2026-11-20 10:03:21 UTC`.
pub fn utc(at: SystemTime) -> String {
    let seconds = match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |s| -s),
    };
    match OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(t) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        ),
        Err(_) => format!("second {seconds} of the Unix epoch"),
    }
}
