//! Whom we believe: per cluster, its trust domain and its authorities.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use rustls::pki_types::TrustAnchor;

use crate::certificate::Facts;
use crate::files::{self, show};
use crate::{FileError, InvalidIdentity, Refusal};

/// What is believed of other clusters. Immutable: a changed link or bundle makes a new one.
#[derive(Debug, Default)]
pub struct Trust {
    clusters: BTreeMap<String, Authorities>,
}

/// Who may vouch for the processes of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authorities {
    pub(crate) trust_domain: String,
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    /// How far each of them is believed, in their order.
    pub(crate) limits: Vec<Limits>,
}

/// What a certificate of an authority says of its own reach. The X.509 library takes of it a name, a key and the
/// constraints of names; the rest is for us to keep (RFC 5280, 6.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How many authorities may stand below it; none: any number.
    pub(crate) path_len: Option<u32>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Why nothing is believed of one cluster.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The cluster's or the trust domain's name is invalid.
    #[error(transparent)]
    Name(#[from] InvalidIdentity),
    /// There is no bundle.
    #[error(
        "{file}: no trust bundle for cluster `{cluster}`: put its ca.crt there (`ringway pki issue --peer {cluster}=FILE`)"
    )]
    Missing {
        /// Whose bundle.
        cluster: String,
        /// Where it should be.
        file: String,
    },
    /// The bundle cannot be read or is broken.
    #[error(transparent)]
    File(FileError),
    /// A certificate in the bundle is broken.
    #[error("{file}: certificate {position} of the bundle cannot be used")]
    Certificate {
        /// The bundle's path.
        file: String,
        /// Which one, from 1.
        position: usize,
        /// What is wrong with it.
        source: Refusal,
    },
    /// A certificate in the bundle may not sign others.
    #[error(
        "{file}: certificate {position} of the bundle is no authority (by its basic constraints or key usage); put the \
         peer's ca.crt here, not a tls.crt"
    )]
    NotAuthority {
        /// The bundle's path.
        file: String,
        /// Which one, from 1.
        position: usize,
    },
    /// An authority in the bundle says that it is of another trust domain.
    #[error(
        "{file}: certificate {position} of the bundle is the authority of {found}, the link says `{expected}`: \
         put the right bundle here or set the link's trustDomain"
    )]
    TrustDomain {
        /// The bundle's path.
        file: String,
        /// Which one, from 1.
        position: usize,
        /// The URI it carries.
        found: String,
        /// The trust domain of the link.
        expected: String,
    },
}

impl Trust {
    /// Loads `bundles/<cluster>.pem` below `dir` for each `(cluster, trust domain)`.
    ///
    /// A cluster whose bundle cannot be used is left out, so that nobody is believed to be of it, and named in the
    /// second value; the others work. Our own cluster is believed only if it is among `peers`.
    pub fn load<'a>(
        dir: &Path,
        peers: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> (Self, Vec<(String, TrustError)>) {
        let (mut clusters, mut problems) = (BTreeMap::new(), Vec::new());
        for (cluster, trust_domain) in peers {
            match authorities(dir, cluster, trust_domain) {
                Ok(found) => {
                    clusters.insert(cluster.to_owned(), found);
                }
                Err(problem) => problems.push((cluster.to_owned(), problem)),
            }
        }
        (Self { clusters }, problems)
    }

    /// Believes of `cluster`, whose bundle cannot be used now, what was believed `before`, if that was of the same trust
    /// domain. Gives whether it is believed.
    pub fn keep(&mut self, before: &Self, cluster: &str, trust_domain: &str) -> bool {
        let kept = before.of(cluster).filter(|authorities| authorities.trust_domain == trust_domain);
        self.clusters.extend(kept.map(|authorities| (cluster.to_owned(), authorities.clone())));
        kept.is_some()
    }

    /// The clusters that can be believed, in order of name.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        self.clusters.keys().map(String::as_str)
    }

    /// Until when anybody is believed to be of `cluster`: the last moment at which one of its authorities is valid.
    pub fn believed_until(&self, cluster: &str) -> Option<SystemTime> {
        self.of(cluster)?.limits.iter().map(|limits| limits.not_after).max()
    }

    /// The clusters of which something else is believed here than in `before`, or nothing any more, in order of name.
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a str> {
        let all: BTreeSet<&str> = self.clusters().chain(before.clusters()).collect();
        all.into_iter().filter(|cluster| self.of(cluster) != before.of(cluster))
    }

    pub(crate) fn of(&self, cluster: &str) -> Option<&Authorities> {
        self.clusters.get(cluster)
    }
}

fn authorities(dir: &Path, cluster: &str, trust_domain: &str) -> Result<Authorities, TrustError> {
    crate::id::check_cluster(cluster)?;
    crate::id::check_trust_domain(trust_domain)?;
    let path = dir.join("bundles").join(format!("{cluster}.pem"));
    let bundle = files::certificates(&path).map_err(|error| match error {
        FileError::Read(missing) if missing.is_missing() => {
            TrustError::Missing { cluster: cluster.to_owned(), file: show(&path) }
        }
        other => TrustError::File(other),
    })?;

    let (mut anchors, mut limits) = (Vec::with_capacity(bundle.len()), Vec::with_capacity(bundle.len()));
    for (position, der) in (1..).zip(&bundle) {
        let file = || show(&path);
        let broken = |source| TrustError::Certificate { file: file(), position, source };
        let facts = Facts::read(der).map_err(broken)?;
        if !facts.authority {
            return Err(TrustError::NotAuthority { file: file(), position });
        }
        if let Some(unknown) = facts.unknown {
            return Err(broken(Refusal::Critical(unknown)));
        }
        let own = format!("spiffe://{trust_domain}");
        if let Some(found) = facts.uris.iter().find(|uri| uri.starts_with("spiffe://") && **uri != own) {
            let (found, expected) = (found.clone(), trust_domain.to_owned());
            return Err(TrustError::TrustDomain { file: file(), position, found, expected });
        }
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|_| broken(Refusal::Malformed))?;
        anchors.push(anchor.to_owned());
        let Facts { path_len, not_before, not_after, .. } = facts;
        limits.push(Limits { path_len, not_before, not_after });
    }
    Ok(Authorities { trust_domain: trust_domain.to_owned(), anchors, limits })
}
