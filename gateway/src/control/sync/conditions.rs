//! What does not hold at this moment, as this gateway sees it: by what is declared and mirrored, and by what peers tell;
//! and what follows for each object.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use hashring::NodeIndex;
use registry::base::time::Tick;
use registry::model::{Condition, Member, Object, ObjectName, Reason, Subject};
use registry::pure::sources::Applied;
use registry::pure::union::Disagreement;
use registry::tasks::status::{self, Statuses};

use super::Knowledge;
use crate::control::listeners;
use crate::proxy::worker::Shared;
use crate::view::{Server, Service, View};

/// What is said of each object.
#[derive(Debug)]
pub struct SaidOf<'c>(BTreeMap<&'c ObjectName, Vec<&'c Condition>>);

impl<'c> SaidOf<'c> {
    /// Sorts `conditions` by object.
    pub fn new(conditions: &'c [Condition]) -> Self {
        let mut of = BTreeMap::<_, Vec<_>>::new();
        for condition in conditions {
            if let Subject::Object(object) = &condition.object {
                of.entry(object).or_default().push(condition);
            }
        }
        Self(of)
    }

    /// What is said of `object`.
    pub fn of(&self, object: &ObjectName) -> &[&'c Condition] {
        self.0.get(object).map_or(&[], Vec::as_slice)
    }
}

impl Knowledge {
    /// How every applied object is, as `view` has it.
    pub fn statuses(&self, shared: &Shared, view: &View) -> Statuses {
        let (_, applied) = self.sources();
        if applied.is_empty() {
            return Statuses::new();
        }
        let conditions = conditions(shared, view, shared.clock.now());
        let said = SaidOf::new(&conditions);
        let status = |(name, applied): (&ObjectName, &Arc<Applied>)| {
            let in_use = applied.object.as_ref().is_ok_and(|object| in_use(object, view));
            (name.clone(), status::of(&applied.stored, said.of(name), in_use))
        };
        applied.iter().map(status).collect()
    }
}

/// Whether requests are placed by what `object` says.
pub fn in_use(object: &Object, view: &View) -> bool {
    view.catalog.as_ref().is_some_and(|catalog| status::counts(object, &catalog.declared))
}

/// What does not hold.
pub fn conditions(shared: &Shared, view: &View, now: Tick) -> Vec<Condition> {
    let mut conditions = view.conditions.clone();
    conditions.extend(rings_differ(view, now));
    conditions.extend(objections(shared, view, now));
    conditions.extend(shared.listeners.conditions().iter().cloned());
    conditions.extend(listeners::unresolved(shared, view));
    let moment = Instant::now();
    conditions.extend(shared.peers.iter().filter_map(|peer| peer.over.condition(&peer.name, moment)));
    conditions
}

/// The fingerprint of the ring that a peer says it places a service by.
pub fn told_ring(service: &Service, node: NodeIndex, now: Tick) -> Option<u64> {
    match service.server(node) {
        Server::Peer(_, facts) => facts.ring(now),
        Server::Local(_) | Server::Via(..) | Server::Unreachable => None,
    }
}

/// The peers that place a service by another ring than we do. What nobody declared (generation 0) is learned, and
/// learned by and by.
pub fn other_rings<'v>(view: &'v View, now: Tick) -> impl Iterator<Item = (&'v Service, &'v str, u64)> {
    let declared = view.services().into_iter().filter(|service| service.placement.generation() > 0);
    declared.flat_map(move |service| {
        let ours = service.placement.ring().fingerprint();
        let told = move |(node, member): (NodeIndex, &'v Member)| {
            Some((&**service, member.cluster.as_str(), told_ring(service, node, now)?))
        };
        service.placement.nodes().filter_map(told).filter(move |&(_, _, ring)| ring != ours)
    })
}

/// What peers that we export to cannot join, where we do not see it ourselves.
fn objections(shared: &Shared, view: &View, now: Tick) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for peer in shared.peers.iter() {
        for (service, disagreement) in peer.facts.objections(now) {
            let object = Subject::from(&service);
            let reason = disagreement.reason();
            let local = view.local(&service.namespace, &service.name);
            let ours = local.is_some_and(|local| local.grant.allows(&peer.name));
            if !ours || view.conditions.iter().any(|c| c.object == object && c.reason == reason) {
                continue;
            }
            let message = match disagreement {
                Disagreement::Ports => format!(
                    "cluster `{0}` has other ports under this name and keeps ours out of its union; make them the \
                     same, or let its callers use the pinned name (see `ringway status` of {0})",
                    peer.name
                ),
                Disagreement::Contracts => format!(
                    "cluster `{0}` knows another placement of the same generation for it; make them the same, or \
                     raise the generation of the one that shall count (see `ringway status` of {0})",
                    peer.name
                ),
            };
            conditions.push(Condition::new(object, reason, message));
        }
    }
    conditions
}

fn rings_differ(view: &View, now: Tick) -> Vec<Condition> {
    let condition = |(service, peer, ring): (&Service, &str, u64)| {
        let message = format!(
            "cluster `{peer}` places it by the ring {ring:016x}, this one by {:016x}; compare `ringway status` of both, \
             and raise `generation` with every change of a placement",
            service.placement.ring().fingerprint()
        );
        Condition::new(&service.name, Reason::RingsDiffer, message)
    };
    other_rings(view, now).map(condition).collect()
}
