//! Which clusters serve a name, and by whose rule: the union over clusters and the names pinned to one.
//!
//! Pure: a catalog in, everything derived from it out. Knows nothing of health, so nothing here changes when a
//! cluster dies; that only changes what a request skips.

mod contract;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{
    Algorithm, Catalog, ClusterName, Condition, Contract, Member, PeerImports, Policy, Port, Retry,
    ServiceName, Timeout,
};

/// The weight of a member that no contract names, in hundredths.
pub const DEFAULT_WEIGHT: u32 = 100;

/// What the names of a catalog mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// `<service>.<namespace>.mesh`: what we serve, and what we import with `union: true`.
    pub union: BTreeMap<ServiceName, Placed>,
    /// `<service>.<namespace>.<cluster>.mesh`: each of our services under our own name, each import under its
    /// cluster's. One server, one member: a pinned name skips the ring of clusters.
    pub pinned: BTreeMap<(ServiceName, ClusterName), Placed>,
    /// What does not hold, by object; nothing is said of what is well.
    pub conditions: Vec<Condition>,
}

/// One name with all that places its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The service.
    pub name: ServiceName,
    /// Its ports; the first is the default.
    pub ports: Vec<Port>,
    /// The clusters that serve it and that we may use. A member that is not here is `Unreachable`.
    pub servers: BTreeMap<ClusterName, Server>,
    /// The contract that counts.
    pub contract: Contract,
    /// The cluster that declared it; none: nobody did.
    pub contract_from: Option<ClusterName>,
    /// The nodes of the cluster ring by ascending name: those of the contract, else the servers at
    /// [`DEFAULT_WEIGHT`].
    pub members: Vec<Member>,
    /// What is tried again: of this cluster, where the request enters.
    pub retry: Retry,
    /// How long things may take: of this cluster, where the request enters.
    pub timeout: Timeout,
    /// How one of our own endpoints is picked.
    pub balance: Algorithm,
}

/// A cluster that serves a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The cluster's region as it tells it itself.
    pub region: String,
}

/// What one cluster says of a service, ours or a peer's.
struct Offer<'a> {
    cluster: &'a ClusterName,
    region: &'a str,
    ports: &'a [Port],
    contract: Option<&'a Contract>,
}

/// Derives every name's meaning from a catalog.
///
/// Imports of a cluster to which no link exists (any more), or that no import rule takes in, count for nothing.
pub fn resolve(catalog: &Catalog) -> Resolved {
    let mut resolved = Resolved::default();
    for (name, offers) in offers(catalog) {
        let policy = catalog.declared.policies.get(name).map(|policy| &**policy);
        let joined = join(catalog, name, &offers, &mut resolved.conditions);
        let union = (!joined.is_empty()).then(|| place(name, policy, &joined, &mut resolved.conditions));
        for offer in &offers {
            // A cluster in the union serves by the union's contract, whoever declared it; one outside by its own.
            let of_union = union.as_ref().filter(|placed| placed.servers.contains_key(offer.cluster));
            let pinned = pin(name, policy, offer, of_union);
            resolved.pinned.insert((name.clone(), offer.cluster.clone()), pinned);
        }
        resolved.union.extend(union.map(|placed| (name.clone(), placed)));
    }
    resolved.conditions.extend(unresolved_policies(catalog));
    resolved.conditions.extend(inert_placements(catalog));
    resolved.conditions.sort();
    resolved
}

/// Everyone's offers by service, each list by ascending cluster name.
fn offers(catalog: &Catalog) -> BTreeMap<&ServiceName, Vec<Offer<'_>>> {
    let mut by_name: BTreeMap<&ServiceName, Vec<Offer<'_>>> = BTreeMap::new();
    for service in catalog.declared.services.values() {
        let policy = catalog.declared.policies.get(&service.name);
        by_name.entry(&service.name).or_default().push(Offer {
            cluster: &catalog.cluster,
            region: &catalog.region,
            ports: &service.ports,
            contract: policy.and_then(|policy| policy.placement.as_ref()),
        });
    }
    for (cluster, imports) in &catalog.imports {
        let Some(link) = catalog.declared.links.get(cluster) else { continue };
        for import in imports.services.values().filter(|import| link.import_rule(&import.name).is_some()) {
            by_name.entry(&import.name).or_default().push(Offer {
                cluster,
                region: &import.region,
                ports: &import.ports,
                contract: import.contract.as_ref(),
            });
        }
    }
    for offers in by_name.values_mut() {
        offers.sort_by_key(|offer| offer.cluster);
    }
    by_name
}

/// The offers that make up the union name: ours, and those imported with `union: true` whose ports are the same.
fn join<'o, 'a>(
    catalog: &Catalog,
    name: &ServiceName,
    offers: &'o [Offer<'a>],
    conditions: &mut Vec<Condition>,
) -> Vec<&'o Offer<'a>> {
    let joins = |offer: &&Offer<'_>| {
        let link = catalog.declared.links.get(offer.cluster);
        *offer.cluster == catalog.cluster
            || link.and_then(|link| link.import_rule(name)).is_some_and(|rule| rule.union)
    };
    let candidates: Vec<_> = offers.iter().filter(joins).collect();
    let ours = candidates.iter().find(|offer| *offer.cluster == catalog.cluster);
    let Some(&reference) = ours.or(candidates.first()) else { return candidates };
    let (same, other): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|offer| same_ports(offer.ports, reference.ports));
    conditions.extend(other.iter().map(|offer| Condition {
        object: object(name),
        kind: "Conflict",
        status: true,
        reason: "PortsDiffer",
        message: format!(
            "cluster `{}` declares other ports ({}) than `{}` ({}) and stays out of the union; make them the \
             same, or call it by its pinned name {}.{}",
            offer.cluster,
            list_ports(offer.ports),
            reference.cluster,
            list_ports(reference.ports),
            name.host_prefix(),
            offer.cluster,
        ),
    }));
    same
}

/// Whether two clusters mean the same ports: same names, numbers and protocols; the order only decides which one
/// is the default, so the first must agree as well.
fn same_ports(a: &[Port], b: &[Port]) -> bool {
    let sorted = |ports: &[Port]| {
        let mut ports = ports.to_vec();
        ports.sort_by_key(|port| port.number);
        ports
    };
    a == b || (a.first() == b.first() && sorted(a) == sorted(b))
}

fn list_ports(ports: &[Port]) -> String {
    let show = |port: &Port| format!("{} {} {:?}", port.name, port.number, port.protocol).to_lowercase();
    ports.iter().map(show).collect::<Vec<_>>().join(", ")
}

/// The union name of `joined`, which is not empty and agrees on the ports.
fn place(
    name: &ServiceName,
    policy: Option<&Policy>,
    joined: &[&Offer<'_>],
    conditions: &mut Vec<Condition>,
) -> Placed {
    let (contract, contract_from) = match contract::choose(name, joined, conditions) {
        Some((contract, from)) => (contract.clone(), Some(from.clone())),
        None => (Contract::default(), None),
    };
    if let (Some(members), Some(from)) = (&contract.members, &contract_from) {
        conditions.extend(contract::outsiders(name, members, from, joined));
    }
    let known = || joined.iter().map(|offer| member(offer)).collect();
    Placed {
        members: contract.members.clone().unwrap_or_else(known),
        contract,
        contract_from,
        ..named(name, policy, joined)
    }
}

/// The name of `offer` alone.
fn pin(name: &ServiceName, policy: Option<&Policy>, offer: &Offer<'_>, union: Option<&Placed>) -> Placed {
    let (contract, contract_from) = match (union, offer.contract) {
        (Some(union), _) => (union.contract.clone(), union.contract_from.clone()),
        (None, Some(own)) => (own.clone(), Some(offer.cluster.clone())),
        (None, None) => (Contract::default(), None),
    };
    Placed { contract, contract_from, ..named(name, policy, &[offer]) }
}

/// What a name has whoever's contract counts: our request policy, the servers, and the members nobody declared.
fn named(name: &ServiceName, policy: Option<&Policy>, offers: &[&Offer<'_>]) -> Placed {
    let server = |offer: &&Offer<'_>| (offer.cluster.clone(), Server { region: offer.region.into() });
    Placed {
        name: name.clone(),
        ports: offers.first().map(|offer| offer.ports.to_vec()).unwrap_or_default(),
        servers: offers.iter().map(server).collect(),
        contract: Contract::default(),
        contract_from: None,
        members: offers.iter().map(|offer| member(offer)).collect(),
        retry: policy.map(|policy| policy.retry.clone()).unwrap_or_default(),
        timeout: policy.map(|policy| policy.timeout.clone()).unwrap_or_default(),
        balance: policy.map_or(Algorithm::P2cEwma, |policy| policy.balance),
    }
}

fn member(offer: &Offer<'_>) -> Member {
    Member { cluster: offer.cluster.clone(), region: offer.region.into(), weight: DEFAULT_WEIGHT }
}

/// Policies of a service that is neither declared here nor imported (yet): they wait for it, without effect.
fn unresolved_policies(catalog: &Catalog) -> impl Iterator<Item = Condition> + '_ {
    let declared = &catalog.declared;
    let unresolved = |policy: &&Arc<Policy>| {
        !declared.services.contains_key(&policy.service) && !is_imported(catalog, &policy.service)
    };
    declared.policies.values().filter(unresolved).map(|policy| Condition {
        object: policy.object().to_string(),
        kind: "ResolvedRefs",
        status: false,
        reason: "BackendNotFound",
        message: format!(
            "{} is neither declared here nor imported; declare a MeshService, or check the link and the peer's grant",
            policy.service
        ),
    })
}

fn is_imported(catalog: &Catalog, service: &ServiceName) -> bool {
    let imports = |(cluster, imports): (&ClusterName, &Arc<PeerImports>)| {
        let link = catalog.declared.links.get(cluster);
        link.is_some_and(|link| link.import_rule(service).is_some()) && imports.services.contains_key(service)
    };
    catalog.imports.iter().any(imports)
}

/// Policies whose placement says something here, where the service has no endpoint: it travels nowhere.
fn inert_placements(catalog: &Catalog) -> impl Iterator<Item = Condition> + '_ {
    let inert = |policy: &&Arc<Policy>| {
        let served = catalog.declared.services.contains_key(&policy.service);
        policy.placement.is_some() && !served && is_imported(catalog, &policy.service)
    };
    catalog.declared.policies.values().filter(inert).map(|policy| Condition {
        object: policy.object().to_string(),
        kind: "Programmed",
        status: false,
        reason: "PlacementInert",
        message: format!(
            "cluster `{}` does not serve {}, so this placement counts nowhere; declare it in a cluster that \
             serves, or declare the MeshService here",
            catalog.cluster, policy.service
        ),
    })
}

/// The object a service's conditions stand on, whether or not this cluster has a manifest for it.
fn object(name: &ServiceName) -> String {
    format!("MeshService {name}")
}
