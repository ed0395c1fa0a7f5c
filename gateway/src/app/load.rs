//! What a gateway reads from its files, checked whole before anything is changed by it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use identity::{Credentials, Trust, TrustError};
use registry::manifest::{self, Problem, Problems};
use registry::model::{Condition, Gateway};
use registry::sources::{AppliedObjects, Files, Sources};
use tracing::{error, warn};

use super::files::Look;

/// The reason of the condition of a link whose bundle cannot be used.
const BUNDLE: &str = "BundleNotUsable";

/// Everything that is read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) gateway: Gateway,
    pub(super) files: Arc<Files>,
    pub(super) credentials: Arc<Credentials>,
    /// How the files looked before they were read.
    pub(super) look: Look,
    warnings: Vec<Problem>,
}

/// Whom a gateway believes.
#[derive(Debug)]
pub(super) struct Believed {
    pub(super) trust: Arc<Trust>,
    /// Whose bundle cannot be used, by cluster: links that stay down, unless what was believed before holds on.
    pub(super) untrusted: Vec<(String, TrustError)>,
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

/// Reads manifests from `files`, and the certificate from where they say. Blocks on the disk.
pub(super) fn load(files: &[PathBuf]) -> Result<Loaded, LoadError> {
    let look = Look::at_manifests(files);
    let manifests = manifest::load(files).map_err(LoadError::Manifests)?;
    let gateway = manifests.require_gateway().map_err(LoadError::Manifests)?.clone();
    let look = look.and_identity(&gateway.identity_dir);
    let credentials = credentials(&gateway)?;
    Ok(Loaded {
        gateway,
        files: Arc::new(Files::new(manifests.declared, manifests.documents)),
        credentials: Arc::new(credentials),
        look,
        warnings: manifests.warnings,
    })
}

/// Reads the bundles of all clusters that are linked, whatever declares the link. What was believed `before` holds on
/// where a bundle is there and cannot be used. Blocks on the disk.
pub(super) fn believe(
    gateway: &Gateway,
    files: &Arc<Files>,
    applied: &AppliedObjects,
    before: &Trust,
) -> Believed {
    let sources = Sources { files: files.clone(), applied: applied.clone(), ..Sources::default() };
    let links = sources.merge(&gateway.cluster).declared.links;
    let links = links.values().map(|l| (l.cluster.as_str(), l.trust_domain.as_str()));
    // Our own sidecars are believed by the bundle of our own cluster. Peers are never of it: admission sees to that.
    let own = (gateway.cluster.as_str(), gateway.trust_domain.as_str());
    let all: BTreeMap<_, _> = links.chain([own]).collect();
    let (mut trust, mut untrusted) =
        Trust::load(&gateway.identity_dir, all.iter().map(|(cluster, domain)| (*cluster, *domain)));
    for (cluster, problem) in &untrusted {
        if let (Some(domain), false) = (all.get(&**cluster), matches!(problem, TrustError::Missing { .. })) {
            trust.keep(before, cluster, domain);
        }
    }
    // Without one there are no sidecars, which is no fault.
    untrusted.retain(|(cluster, problem)| {
        cluster != gateway.cluster.as_str() || !matches!(problem, TrustError::Missing { .. })
    });
    Believed { trust: Arc::new(trust), untrusted }
}

impl Loaded {
    /// Says in the log what has no effect, or not the one meant.
    pub(super) fn say_warnings(&self) {
        for warning in &self.warnings {
            warn!("{}", warning.in_one_line());
        }
    }
}

impl Believed {
    /// Says in the log which links stay down.
    pub(super) fn say_warnings(&self, gateway: &Gateway) {
        for (cluster, problem) in &self.untrusted {
            if self.trust.clusters().any(|believed| believed == cluster) {
                error!(peer = %cluster, error = %problem, "A trust bundle cannot be used; what it said before holds on.");
            } else if cluster == gateway.cluster.as_str() {
                error!(error = %problem, "Sidecars are refused: the trust bundle of our own cluster cannot be used.");
            } else {
                error!(peer = %cluster, error = %problem, "The link stays down: its trust bundle cannot be used.");
            }
        }
    }

    /// A link without a usable bundle stays down and says so; the others work.
    pub(super) fn conditions(&self, gateway: &Gateway) -> Vec<Condition> {
        let condition = |(cluster, problem): &(String, TrustError)| Condition {
            object: match cluster == gateway.cluster.as_str() {
                true => format!("Gateway {}", gateway.id),
                false => format!("Link {cluster}"),
            },
            kind: "ResolvedRefs",
            status: false,
            reason: BUNDLE,
            message: problem.to_string(),
        };
        self.untrusted.iter().map(condition).collect()
    }
}

fn credentials(gateway: &Gateway) -> Result<Credentials, LoadError> {
    let credentials = Credentials::load(&gateway.identity_dir)?;
    let found = credentials.identity();
    let ours = found.cluster == gateway.cluster.as_str()
        && found.trust_domain == gateway.trust_domain
        && found.gateway() == Some(gateway.id.as_str());
    if ours {
        return Ok(credentials);
    }
    Err(LoadError::WrongIdentity {
        found: found.to_string(),
        id: gateway.id.clone(),
        cluster: gateway.cluster.to_string(),
        trust_domain: gateway.trust_domain.clone(),
    })
}
