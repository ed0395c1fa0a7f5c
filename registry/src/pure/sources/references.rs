//! What objects refer to that is not there. The service of a policy is no matter of declarations alone: see
//! [`crate::pure::union`].

use std::collections::BTreeSet;

use crate::model::{
    ClusterName, Condition, Declared, Grant, Kind, ObjectName, Policy, Reason, Service, Tier,
};

/// Clusters that no Link leads to, object by object.
pub(super) fn unresolved(declared: &Declared, own: &ClusterName) -> Vec<Condition> {
    let services = declared.services.values().flat_map(|service| {
        let name = ObjectName::new(Kind::MeshService, &service.name.namespace, &service.name.name);
        granted(service).map(move |cluster| (name.clone(), "spec.export.to", cluster))
    });
    let policies = declared
        .policies
        .values()
        .flat_map(|policy| placed(policy).map(move |(field, cluster)| (policy.object(), field, cluster)));
    let listeners = declared.listeners.values().flat_map(|listener| {
        let pinned = listener.leads().filter_map(|lead| lead.cluster.as_ref());
        pinned.map(move |cluster| (listener.object(), "spec.cluster", cluster))
    });
    let missing = services
        .chain(policies)
        .chain(listeners)
        .filter(|(_, _, cluster)| *cluster != own && !declared.links.contains_key(*cluster))
        .map(|(object, field, cluster)| {
            let text = format!("{field}: no Link leads to the cluster `{cluster}`");
            Condition::new(object, Reason::LinkNotFound, text)
        });
    missing.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The clusters that a service is exported to by name.
fn granted(service: &Service) -> impl Iterator<Item = &ClusterName> {
    let named = match &service.export {
        Grant::Clusters(clusters) => Some(clusters),
        Grant::Nobody | Grant::Everyone => None,
    };
    named.into_iter().flatten()
}

/// The clusters that a placement names, and as what.
fn placed(policy: &Policy) -> impl Iterator<Item = (&'static str, &ClusterName)> {
    let placement = policy.placement.iter();
    placement.flat_map(|contract| {
        let members = contract.members.iter().flatten().map(|m| ("spec.placement.members", &m.cluster));
        let tiers = contract.tiers.iter().flatten().flatten().filter_map(|tier| match tier {
            Tier::Cluster(cluster) => Some(("spec.placement.tiers", cluster)),
            Tier::Local | Tier::SameRegion | Tier::Any => None,
        });
        members.chain(tiers)
    })
}
