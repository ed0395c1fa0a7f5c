//! The order of clusters, and why each stands where it stands.

use hashring::NodeIndex;
use registry::base::time::Tick;
use registry::model::{ClusterName, Member, Mode, OnOwnerUnavailable, ServiceName};

use super::Cluster;
use crate::view::{Server, Service, View};
use policy::health::State;
use policy::placement::Availability;

/// One request, as placement sees it.
pub(super) struct Asks<'a> {
    pub(super) service: &'a Service,
    pub(super) port: u16,
    pub(super) hash: Option<u64>,
    /// The moment, of the process's clock.
    pub(super) now: Tick,
}

impl Asks<'_> {
    fn availability(&self, node: NodeIndex) -> Availability {
        self.service.availability(node, self.port, self.now)
    }

    fn capacity(&self, node: NodeIndex) -> Option<u32> {
        self.service.capacity(node, self.port, self.now)
    }

    /// The clusters that the attempts would go to if each failed and nothing changed meanwhile.
    pub(super) fn order(&self, rng: &mut fastrand::Rng) -> Vec<NodeIndex> {
        let (availability, capacity) = (|node| self.availability(node), |node| self.capacity(node));
        self.service.placement.order(self.hash, availability, capacity, rng)
    }

    /// All members: first `order`, then those that it leaves out. Spares only where they would be tried.
    pub(super) fn clusters(&self, order: &[NodeIndex], view: &View, here: &ClusterName) -> Vec<Cluster> {
        let placement = &self.service.placement;
        let near: Vec<NodeIndex> =
            self.hash.map_or_else(Vec::new, |hash| placement.ring().near(hash).collect());
        let place = |list: &[NodeIndex], node| list.iter().position(|n| *n == node).map(|at| at + 1);
        let tiers = !(placement.mode() == Mode::Sharded && self.hash.is_some());
        let cluster = |(node, member): (NodeIndex, &Member)| {
            let at = place(order, node);
            Cluster {
                cluster: member.cluster.to_string(),
                region: member.region.clone(),
                weight: member.weight,
                place: at,
                near: place(&near, node),
                tier: placement.tier(node).filter(|_| tiers).map(|tier| tier + 1),
                availability: self.availability(node).as_str().into(),
                ready: self.capacity(node),
                why: match at {
                    Some(at) => self.why_tried(node, at),
                    None => self.why_skipped(node, member, view, here),
                },
            }
        };
        let spares = placement.spares().filter(|(node, _)| order.contains(node));
        let mut clusters: Vec<Cluster> = placement.nodes().chain(spares).map(cluster).collect();
        clusters.sort_by_key(|cluster| (cluster.place.unwrap_or(usize::MAX), cluster.near));
        clusters
    }

    fn why_tried(&self, node: NodeIndex, at: usize) -> String {
        let (placement, retry) = (&self.service.placement, &self.service.retry);
        if at > usize::from(retry.attempts) {
            return format!("not reached: a request has {} attempts", retry.attempts);
        }
        let suspect = self.availability(node) == Availability::Suspect;
        let last = if suspect { "; suspect, so behind all that are up" } else { "" };
        let why = match (placement.mode(), self.hash) {
            _ if self.service.pinned => "the name pins it".to_owned(),
            _ if node.get() >= placement.members().len() => {
                "no member of the placement, but none of the members can serve".to_owned()
            }
            (Mode::Sharded, Some(hash)) if placement.ring().owner(hash) == Some(node) => {
                "owns the key".into()
            }
            (Mode::Sharded, Some(_)) => "next in the key's near order".into(),
            (_, hash) => {
                let tier = placement.tier(node).map_or(0, |tier| tier + 1);
                let open = |other: NodeIndex| {
                    placement.tier(other) == placement.tier(node)
                        && self.availability(other) == self.availability(node)
                };
                let alone = placement.nodes().filter(|(other, _)| open(*other)).count() <= 1;
                match (alone, hash) {
                    (true, _) => format!("tier {tier}, alone in it"),
                    (false, Some(_)) => format!("tier {tier}, in the key's near order"),
                    (false, None) => {
                        format!("tier {tier}, drawn by ready capacity: another request may draw another")
                    }
                }
            }
        };
        why + last
    }

    fn why_skipped(&self, node: NodeIndex, member: &Member, view: &View, here: &ClusterName) -> String {
        let placement = &self.service.placement;
        match (self.service.server(node), self.availability(node)) {
            _ if member.weight == 0 => return "weight 0: it owns nothing and is sent nothing".into(),
            (Server::Unreachable, _) => {
                return why_unreachable(&self.service.name, &member.cluster, view, here);
            }
            (Server::Local(_), Availability::Down) => return "none of its endpoints takes requests".into(),
            (Server::Peer(_, facts), Availability::Down) if facts.ready(self.now) == Some(0) => {
                return "its digest says that none of its endpoints takes requests".into();
            }
            (Server::Peer(peer, _), Availability::Down) => {
                let gateways = peer.gateways();
                let down = gateways.iter().find(|gateway| gateway.state() == State::Down);
                let why = match down {
                    Some(gateway) => gateway.reason(),
                    None if !gateways.is_empty() => "its gateway drains".into(),
                    None => peer.last_error().unwrap_or_else(|| "none was ever up".into()),
                };
                return format!("no tunnel to it: {why}");
            }
            _ => {}
        }
        if placement.mode() == Mode::Sharded
            && self.hash.is_some()
            && placement.on_owner_unavailable() == OnOwnerUnavailable::Fail
        {
            return "not the owner, and `onOwnerUnavailable: fail` lets no other cluster serve the key"
                .into();
        }
        "in no tier: a list of tiers is closed".into()
    }
}

/// Why nothing of `service` can be sent to `cluster`, a member of its contract, from the cluster `here`.
pub(in crate::admin) fn why_unreachable(
    service: &ServiceName,
    cluster: &ClusterName,
    view: &View,
    here: &ClusterName,
) -> String {
    let Some(catalog) = &view.catalog else { return "no catalog is loaded".into() };
    if cluster == here {
        return "a member by contract, but this cluster declares no such service".into();
    }
    let Some(link) = catalog.declared.links.get(cluster) else {
        return "a member by contract, but no link leads to it".into();
    };
    let imported = catalog.imports.get(cluster).is_some_and(|imports| imports.services.contains_key(service));
    match link.import_rule(service) {
        None => "linked, but no rule of the link's `import` takes this service".into(),
        Some(_) if !imported => {
            "linked, but it exports no such service to this cluster, or was not heard yet".into()
        }
        Some(rule) if !rule.union => {
            "imported by its pinned name only: the link's `import` says no `union: true`".into()
        }
        Some(_) => "imported, but with other ports, so it stays out of the union".into(),
    }
}
