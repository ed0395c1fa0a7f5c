//! What a gateway reads from its files, checked whole before anything is changed by it.

use std::path::PathBuf;
use std::sync::Arc;

use identity::{Credentials, Trust, TrustError};
use registry::manifest::{self, Problem, Problems};
use registry::model::{Condition, Declared, Gateway};
use tracing::{error, warn};

/// The reason of the condition of a link whose bundle cannot be used.
pub(super) const BUNDLE: &str = "BundleNotUsable";

/// Everything that is read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) gateway: Gateway,
    pub(super) declared: Declared,
    pub(super) credentials: Arc<Credentials>,
    pub(super) trust: Arc<Trust>,
    /// Links that stay down because their bundle cannot be used, by cluster.
    pub(super) untrusted: Vec<(String, TrustError)>,
    warnings: Vec<Problem>,
    conditions: Vec<Condition>,
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

/// Reads manifests from `files`, and certificates and bundles from where they say. Blocks on the disk.
pub(super) fn load(files: &[PathBuf]) -> Result<Loaded, LoadError> {
    let manifests = manifest::load(files).map_err(LoadError::Manifests)?;
    let gateway = manifests.require_gateway().map_err(LoadError::Manifests)?.clone();
    let credentials = credentials(&gateway)?;
    let links = manifests.declared.links.values();
    let links = links.map(|l| (l.cluster.as_str(), l.trust_domain.as_str()));
    // Our own sidecars are believed by the bundle of our own cluster. Peers are never of it: admission sees to that.
    let own = (gateway.cluster.as_str(), gateway.trust_domain.as_str());
    let (trust, mut untrusted) = Trust::load(&gateway.identity_dir, links.chain([own]));
    // Without one there are no sidecars, which is no fault.
    untrusted.retain(|(cluster, problem)| {
        cluster != gateway.cluster.as_str() || !matches!(problem, TrustError::Missing { .. })
    });
    Ok(Loaded {
        gateway,
        declared: manifests.declared,
        credentials: Arc::new(credentials),
        trust: Arc::new(trust),
        untrusted,
        warnings: manifests.warnings,
        conditions: manifests.conditions,
    })
}

impl Loaded {
    /// Says in the log what has no effect, or not the one meant.
    pub(super) fn say_warnings(&self) {
        for warning in &self.warnings {
            warn!("{warning}");
        }
        for (cluster, problem) in &self.untrusted {
            if cluster == self.gateway.cluster.as_str() {
                error!(error = %problem, "Sidecars are refused: the trust bundle of our own cluster cannot be used.");
            } else {
                error!(peer = %cluster, error = %problem, "The link stays down: its trust bundle cannot be used.");
            }
        }
    }

    /// What the files leave open. A link without a usable bundle stays down and says so; the others work.
    pub(super) fn conditions(&self) -> Vec<Condition> {
        let untrusted = self.untrusted.iter().map(|(cluster, problem)| Condition {
            object: match cluster == self.gateway.cluster.as_str() {
                true => format!("Gateway {}", self.gateway.id),
                false => format!("Link {cluster}"),
            },
            kind: "ResolvedRefs",
            status: false,
            reason: BUNDLE,
            message: problem.to_string(),
        });
        untrusted.chain(self.conditions.iter().cloned()).collect()
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
