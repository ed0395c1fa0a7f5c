//! What peers are told of their services that we cannot join with what others serve under their names: an exporter that
//! takes nothing in has no other way to learn of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::control::{Disagreement as Reason, Objection};
use proto::limits::DIGEST_SERVICES_MAX;
use registry::model::{Catalog, ClusterName, ConditionKind, Kind, ServiceName, Subject};
use registry::pure::union::{self, Disagreement};

use crate::view::View;

/// The objections of one view, by peer.
#[derive(Debug, Default)]
pub(super) struct Objections {
    view: Option<Arc<View>>,
    of_peers: BTreeMap<ClusterName, Vec<Objection>>,
}

impl Objections {
    /// What `peer` is told, at most as much as one digest holds.
    pub(super) fn to(&mut self, peer: &ClusterName, view: &Arc<View>) -> Vec<Objection> {
        if !self.view.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, view)) {
            self.of_peers = view.catalog.as_deref().map(|catalog| by_peer(catalog, view)).unwrap_or_default();
            self.view = Some(view.clone());
        }
        self.of_peers.get(peer).cloned().unwrap_or_default()
    }
}

/// Looks only at names of which a conflict is known: most catalogs have none.
fn by_peer(catalog: &Catalog, view: &View) -> BTreeMap<ClusterName, Vec<Objection>> {
    let mut of_peers = BTreeMap::<_, Vec<_>>::new();
    for condition in view.conditions.iter().filter(|condition| condition.kind() == ConditionKind::Conflict) {
        let Subject::Object(object) = &condition.object else { continue };
        if object.kind() != Kind::MeshService {
            continue;
        }
        let Ok(name) = ServiceName::new(object.namespace(), object.name()) else { continue };
        for (peer, disagreement) in union::disagreements(catalog, &name) {
            let of_peer = of_peers.entry(peer).or_default();
            let objection = objection(&name, disagreement);
            if of_peer.len() < DIGEST_SERVICES_MAX && !of_peer.contains(&objection) {
                of_peer.push(objection);
            }
        }
    }
    of_peers
}

fn objection(service: &ServiceName, disagreement: Disagreement) -> Objection {
    let reason = match disagreement {
        Disagreement::Ports => Reason::Ports,
        Disagreement::Contracts => Reason::Contracts,
    };
    Objection {
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        reason: reason.into(),
    }
}
