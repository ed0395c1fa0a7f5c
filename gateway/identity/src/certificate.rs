//! What one X.509 certificate says: its URI, its times, whether it is an authority.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
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
    /// Whether it may sign others (basic constraints).
    pub(crate) authority: bool,
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
        Ok(Self {
            uris,
            not_before: moment(certificate.validity().not_before.timestamp())?,
            not_after: moment(certificate.validity().not_after.timestamp())?,
            authority: constraints.is_some_and(|c| c.value.ca),
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

fn moment(seconds: i64) -> Result<SystemTime, Refusal> {
    let span = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    if seconds < 0 { epoch.checked_sub(span) } else { epoch.checked_add(span) }.ok_or(Refusal::Malformed)
}

/// A moment as people read it: `2026-11-20 10:03:21 UTC`.
pub(crate) fn utc(at: SystemTime) -> String {
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
