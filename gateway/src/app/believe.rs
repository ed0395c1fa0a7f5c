//! Whom a gateway believes: the bundles of all clusters that are linked, whatever declares the link.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::{Trust, TrustError};
use registry::base::causes::chain;
use registry::model::{Condition, Gateway, Kind, ObjectName, Reason, Subject};
use registry::pure::sources::{AppliedObjects, Files, Sources};
use tracing::error;

/// Clusters with the trust domain of each: those that are linked, and our own, whose sidecars are believed by its bundle.
pub(super) type Linked = BTreeMap<String, String>;

/// Whom a gateway believes.
#[derive(Clone, Debug)]
pub(super) struct Believed {
    pub(super) trust: Arc<Trust>,
    /// Whose bundle cannot be used: links that stay down, unless what was believed before holds on.
    pub(super) untrusted: Vec<Untrusted>,
}

/// A cluster whose bundle cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Untrusted {
    pub(super) cluster: String,
    /// Why.
    pub(super) why: String,
    /// Whether there is no bundle at all, which may be meant; else it may be right some time.
    pub(super) missing: bool,
}

/// The clusters that `files` and what is `applied` link for `gateway`.
pub(super) fn linked(gateway: &Gateway, files: &Arc<Files>, applied: &AppliedObjects) -> Linked {
    let sources = Sources { files: files.clone(), applied: applied.clone(), ..Sources::default() };
    let links = sources.merge(&gateway.cluster).declared.links;
    let links = links.values().map(|l| (l.cluster.to_string(), l.trust_domain.clone()));
    // Peers are never of our own cluster: admission sees to that.
    links.chain([(gateway.cluster.to_string(), gateway.trust_domain.clone())]).collect()
}

/// Reads the bundles of `linked` clusters. What was believed `before` holds on where a bundle is there and cannot be used.
/// Blocks on the disk.
pub(super) fn believe(gateway: &Gateway, linked: &Linked, before: &Trust) -> Believed {
    let wanted = linked.iter().map(|(cluster, domain)| (&**cluster, &**domain));
    let (mut trust, problems) = Trust::load(&gateway.identity_dir, wanted);
    let mut untrusted = Vec::new();
    for (cluster, problem) in problems {
        let missing = matches!(problem, TrustError::Missing { .. });
        if let (Some(domain), false) = (linked.get(&cluster), missing) {
            trust.keep(before, &cluster, domain);
        }
        untrusted.push(Untrusted { cluster, why: chain(&problem), missing });
    }
    Believed { trust: Arc::new(trust), untrusted }
}

impl Believed {
    /// What is known of `linked` clusters without a look at the disk: nobody is believed of one that is new, for the
    /// reason `unread`. Gives whether there is such a one, too.
    pub(super) fn narrowed(&self, linked: &Linked, unread: &str) -> (Self, bool) {
        let mut trust = Trust::default();
        let (mut untrusted, mut fresh) = (Vec::new(), false);
        for (cluster, domain) in linked {
            let believed = trust.keep(&self.trust, cluster, domain);
            match self.untrusted.iter().find(|known| known.cluster == *cluster) {
                Some(known) => untrusted.push(known.clone()),
                None if believed => {}
                None => {
                    fresh = true;
                    untrusted.push(Untrusted {
                        cluster: cluster.clone(),
                        why: unread.into(),
                        missing: false,
                    });
                }
            }
        }
        (Self { trust: Arc::new(trust), untrusted }, fresh)
    }

    /// Whether a bundle is there that cannot be used, and may be used some time.
    pub(super) fn is_waiting(&self) -> bool {
        self.untrusted.iter().any(|untrusted| !untrusted.missing)
    }

    /// Says in the log which links stay down.
    pub(super) fn say_warnings(&self, gateway: &Gateway) {
        for Untrusted { cluster, why, .. } in self.faults(gateway) {
            if self.trust.clusters().any(|believed| believed == cluster) {
                error!(peer = %cluster, error = why, "Trust bundle unusable; keeping the previous one.");
            } else if cluster == gateway.cluster.as_str() {
                error!(error = why, "Own trust bundle unusable; refusing sidecars.");
            } else {
                error!(peer = %cluster, error = why, "Link down: its trust bundle is unusable.");
            }
        }
    }

    /// A link without a usable bundle stays down and says so; the others work.
    pub(super) fn conditions(&self, gateway: &Gateway) -> Vec<Condition> {
        let condition = |Untrusted { cluster, why, .. }: &Untrusted| {
            let object = match cluster == gateway.cluster.as_str() {
                true => Subject::Gateway(gateway.id.as_str().into()),
                false => ObjectName::new(Kind::Link, "", cluster).into(),
            };
            Condition::new(object, Reason::BundleNotUsable, why.clone())
        };
        self.faults(gateway).map(condition).collect()
    }

    /// Without a bundle of our own cluster there are no sidecars, which is no fault.
    fn faults(&self, gateway: &Gateway) -> impl Iterator<Item = &Untrusted> {
        self.untrusted
            .iter()
            .filter(|untrusted| !(untrusted.missing && untrusted.cluster == gateway.cluster.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked(clusters: &[(&str, &str)]) -> Linked {
        clusters.iter().map(|(cluster, domain)| ((*cluster).into(), (*domain).into())).collect()
    }

    #[test]
    fn what_is_known_of_links_needs_no_disk_unless_one_is_new() {
        let missing = Untrusted { cluster: "north".into(), why: "no bundle".into(), missing: true };
        let before = Believed { trust: Arc::default(), untrusted: vec![missing.clone()] };
        let (same, fresh) = before.narrowed(&linked(&[("north", "a")]), "unread");
        assert_eq!((same.untrusted, fresh), (vec![missing.clone()], false));
        let (fewer, fresh) = before.narrowed(&linked(&[]), "unread");
        assert_eq!((fewer.untrusted, fresh), (vec![], false));
        let (more, fresh) = before.narrowed(&linked(&[("east", "a"), ("north", "a")]), "unread");
        let unread = Untrusted { cluster: "east".into(), why: "unread".into(), missing: false };
        assert_eq!((more.untrusted, fresh), (vec![unread, missing], true));
    }
}
