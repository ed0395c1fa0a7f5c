//! Which clusters serve a name, and by whose rule: the union over clusters and the names pinned to one.
//!
//! Pure: a catalog in, everything derived from it out. Knows nothing of health, so nothing here changes when a
//! cluster dies; that only changes what a request skips.

mod contract;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{
    Algorithm, Catalog, ClusterName, Condition, Contract, Import, ImportRule, Member, PeerImports, Placement,
    Policy, Port, Reason, Retry, Service, ServiceName, Timeout,
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

/// What a peer declares otherwise than another cluster under the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// Its ports: it stays out of the union.
    Ports,
    /// Its placement, in the same generation.
    Contracts,
}

impl Disagreement {
    /// The reason of the condition that shows it.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Ports => Reason::PortsDiffer,
            Self::Contracts => Reason::ContractsDiffer,
        }
    }
}

/// What was found not to hold of one name: for us, and for those peers that may not see it themselves.
#[derive(Default)]
struct Found {
    conditions: Vec<Condition>,
    disagreements: BTreeMap<ClusterName, Disagreement>,
}

/// One name with all that places its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The service.
    pub name: ServiceName,
    /// Its ports; the first is the default.
    pub ports: Arc<[Port]>,
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

impl Placed {
    /// The clusters that serve, as members that nobody declared.
    pub fn servers(&self) -> Vec<Member> {
        let member = |(cluster, server): (&ClusterName, &Server)| Member {
            cluster: cluster.clone(),
            region: server.region.clone(),
            weight: DEFAULT_WEIGHT,
        };
        self.servers.iter().map(member).collect()
    }
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
    ports: &'a Arc<[Port]>,
    contract: Option<&'a Contract>,
    say: Say,
}

/// Whether a cluster has a say in the contract of what it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    /// It has.
    Has,
    /// The Link to it says `placement: ignore`.
    Ignored,
    /// It has been silent for too long.
    Lapsed,
}

/// What one name of a catalog means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// Its union name, if anyone serves it there.
    pub union: Option<Placed>,
    /// Its pinned names.
    pub pinned: BTreeMap<ClusterName, Placed>,
    /// What does not hold of it.
    pub conditions: Vec<Condition>,
}

/// Derives every name's meaning from a catalog.
///
/// Imports of a cluster to which no link exists (any more), or that no import rule takes in, count for nothing.
pub fn resolve(catalog: &Catalog) -> Resolved {
    let mut resolved = Resolved::default();
    for (name, meaning) in meanings(catalog) {
        let pinned = meaning.pinned.into_iter();
        resolved.pinned.extend(pinned.map(|(cluster, placed)| ((name.clone(), cluster), placed)));
        resolved.union.extend(meaning.union.map(|placed| (name.clone(), placed)));
        resolved.conditions.extend(meaning.conditions);
    }
    resolved.conditions.sort();
    resolved
}

/// Derives the meaning of every name that is declared, imported or named by a policy.
pub fn meanings(catalog: &Catalog) -> impl Iterator<Item = (&ServiceName, Meaning)> {
    offers(catalog).into_iter().map(|(name, offers)| (name, mean(catalog, name, &offers)))
}

/// Derives the meaning of one name; of one that a catalog does not know, nothing.
pub fn meaning(catalog: &Catalog, name: &ServiceName) -> Meaning {
    mean(catalog, name, &offers_of(catalog, name))
}

/// Everyone's offers of one service, by ascending cluster name.
fn offers_of<'a>(catalog: &'a Catalog, name: &ServiceName) -> Vec<Offer<'a>> {
    let mut offers: Vec<_> =
        catalog.declared.services.get(name).map(|own| ours(catalog, own)).into_iter().collect();
    for (cluster, imports) in &catalog.imports {
        let Some(rule) = catalog.declared.links.get(cluster).and_then(|link| link.import_rule(name)) else {
            continue;
        };
        offers.extend(imports.services.get(name).map(|import| theirs(cluster, import, imports, rule)));
    }
    offers.sort_by_key(|offer| offer.cluster);
    offers
}

/// The peers that disagree with others on one name, with us or among each other.
pub fn disagreements(catalog: &Catalog, name: &ServiceName) -> BTreeMap<ClusterName, Disagreement> {
    let mut found = Found::default();
    let offers = offers_of(catalog, name);
    contract::choose(name, &catalog.cluster, &join(catalog, name, &offers, &mut found), &mut found);
    found.disagreements.remove(&catalog.cluster);
    found.disagreements
}

/// The names whose meaning may differ between two catalogs; `None`: every one.
///
/// Looks only at what the two do not share.
pub fn changed<'a>(before: &'a Catalog, after: &'a Catalog) -> Option<BTreeSet<&'a ServiceName>> {
    let of_all = |catalog: &'a Catalog| (&catalog.cluster, &catalog.region, &catalog.declared.links);
    if of_all(before) != of_all(after) {
        return None;
    }
    let (old, new) = (&before.declared, &after.declared);
    let mut names: BTreeSet<_> = new.services.differing(&old.services, Arc::eq).collect();
    names.extend(new.policies.differing(&old.policies, Arc::eq));
    for cluster in before.imports.keys().chain(after.imports.keys()) {
        match (before.imports.get(cluster), after.imports.get(cluster)) {
            (Some(old), Some(new)) if old.contracts_lapsed != new.contracts_lapsed => {
                names.extend(old.services.keys().chain(new.services.keys()));
            }
            (Some(old), Some(new)) => names.extend(new.services.differing(&old.services, Arc::eq)),
            (only, None) | (None, only) => names.extend(only.iter().flat_map(|only| only.services.keys())),
        }
    }
    Some(names)
}

/// What a name means of which these are all offers, by ascending cluster name.
fn mean(catalog: &Catalog, name: &ServiceName, offers: &[Offer<'_>]) -> Meaning {
    let policy = catalog.declared.policies.get(name).map(|policy| &**policy);
    let mut found = Found::default();
    let joined = join(catalog, name, offers, &mut found);
    let union = (!joined.is_empty()).then(|| place(catalog, name, policy, &joined, &mut found));
    let pinned = |offer: &Offer<'_>| {
        // A cluster in the union serves by the union's contract, whoever declared it; one outside by its own.
        let of_union = union.as_ref().filter(|placed| placed.servers.contains_key(offer.cluster));
        (offer.cluster.clone(), pin(name, policy, offer, of_union))
    };
    let pinned = offers.iter().map(pinned).collect();
    let mut conditions = found.conditions;
    conditions.extend(policy.and_then(|policy| stray(catalog, policy, offers)));
    Meaning { union, pinned, conditions }
}

/// Everyone's offers by service, each list by ascending cluster name; an empty one where only a policy names it.
fn offers(catalog: &Catalog) -> BTreeMap<&ServiceName, Vec<Offer<'_>>> {
    let named = catalog.declared.policies.keys().map(|name| (name, Vec::new()));
    let mut by_name: BTreeMap<&ServiceName, Vec<Offer<'_>>> = named.collect();
    for service in catalog.declared.services.values() {
        by_name.entry(&service.name).or_default().push(ours(catalog, service));
    }
    for (cluster, imports) in &catalog.imports {
        let Some(link) = catalog.declared.links.get(cluster) else { continue };
        for import in imports.services.values() {
            let Some(rule) = link.import_rule(&import.name) else { continue };
            by_name.entry(&import.name).or_default().push(theirs(cluster, import, imports, rule));
        }
    }
    for offers in by_name.values_mut() {
        offers.sort_by_key(|offer| offer.cluster);
    }
    by_name
}

fn ours<'a>(catalog: &'a Catalog, service: &'a Service) -> Offer<'a> {
    let policy = catalog.declared.policies.get(&service.name);
    Offer {
        cluster: &catalog.cluster,
        region: &catalog.region,
        ports: &service.ports,
        contract: policy.and_then(|policy| policy.placement.as_ref()),
        say: Say::Has,
    }
}

fn theirs<'a>(
    cluster: &'a ClusterName,
    import: &'a Import,
    imports: &PeerImports,
    rule: &ImportRule,
) -> Offer<'a> {
    let say = match (rule.placement, imports.contracts_lapsed) {
        (Placement::Ignore, _) => Say::Ignored,
        (Placement::Accept, true) => Say::Lapsed,
        (Placement::Accept, false) => Say::Has,
    };
    let contract = import.contract.as_deref();
    Offer { cluster, region: &import.region, ports: &import.ports, contract, say }
}

/// The offers that make up the union name: ours, and those imported with `union: true` whose ports are the same.
fn join<'o, 'a>(
    catalog: &Catalog,
    name: &ServiceName,
    offers: &'o [Offer<'a>],
    found: &mut Found,
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
    found.disagreements.extend(other.iter().map(|offer| (offer.cluster.clone(), Disagreement::Ports)));
    found.conditions.extend(other.iter().map(|offer| {
        let text = format!(
            "cluster `{}` declares other ports ({}) than `{}` ({}) and stays out of the union; make them the \
             same, or call it by its pinned name {}.{}",
            offer.cluster,
            list_ports(offer.ports),
            reference.cluster,
            list_ports(reference.ports),
            name.host_prefix(),
            offer.cluster,
        );
        Condition::new(name, Disagreement::Ports.reason(), text)
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
    catalog: &Catalog,
    name: &ServiceName,
    policy: Option<&Policy>,
    joined: &[&Offer<'_>],
    found: &mut Found,
) -> Placed {
    let (contract, contract_from) = match contract::choose(name, &catalog.cluster, joined, found) {
        Some((contract, from)) => (contract.clone(), Some(from.clone())),
        None => (Contract::default(), None),
    };
    if let (Some(members), Some(from)) = (&contract.members, &contract_from) {
        found.conditions.extend(contract::outsiders(name, members, from, joined));
    }
    let known = || joined.iter().map(|offer| member(offer)).collect();
    Placed {
        members: contract.members.clone().unwrap_or_else(known),
        contract,
        contract_from,
        ..named(name, policy, joined)
    }
}

/// The name of `offer` alone. Its ring has this one cluster: of the contract the key counts, which places a request among
/// the cluster's endpoints, and the seed that it is hashed by.
fn pin(name: &ServiceName, policy: Option<&Policy>, offer: &Offer<'_>, union: Option<&Placed>) -> Placed {
    let alone = |Contract { generation, seed, hash, .. }: &Contract| Contract {
        generation: *generation,
        seed: *seed,
        hash: hash.clone(),
        ..Contract::default()
    };
    let own = offer.contract.filter(|_| offer.say == Say::Has);
    let (contract, contract_from) = match (union, own) {
        (Some(union), _) => (alone(&union.contract), union.contract_from.clone()),
        (None, Some(own)) => (alone(own), Some(offer.cluster.clone())),
        (None, None) => (Contract::default(), None),
    };
    Placed { contract, contract_from, ..named(name, policy, &[offer]) }
}

/// What a name has whoever's contract counts: our request policy, the servers, and the members nobody declared.
fn named(name: &ServiceName, policy: Option<&Policy>, offers: &[&Offer<'_>]) -> Placed {
    let server = |offer: &&Offer<'_>| (offer.cluster.clone(), Server { region: offer.region.into() });
    Placed {
        name: name.clone(),
        ports: offers.first().map(|offer| offer.ports.clone()).unwrap_or_default(),
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

/// What is said of a policy that has no effect, or whose placement has none.
fn stray(catalog: &Catalog, policy: &Policy, offers: &[Offer<'_>]) -> Option<Condition> {
    let condition = |reason, message| Some(Condition::new(policy.object(), reason, message));
    let service = &policy.service;
    if offers.is_empty() {
        // It waits for it.
        let message = format!(
            "{service} is neither declared here nor imported; declare a MeshService, or check the link and the \
             peer's grant"
        );
        return condition(Reason::BackendNotFound, message);
    }
    if policy.placement.is_some() && offers.iter().all(|offer| *offer.cluster != catalog.cluster) {
        // Where the service has no endpoint, its placement travels nowhere.
        let message = format!(
            "cluster `{}` does not serve {service}, so this placement counts nowhere; declare it in a cluster that \
             serves, or declare the MeshService here",
            catalog.cluster
        );
        return condition(Reason::PlacementInert, message);
    }
    None
}
