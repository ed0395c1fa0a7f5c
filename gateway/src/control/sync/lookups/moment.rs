//! What a name means at one moment, as sidecars are told it.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use hashring::NodeIndex;
use proto::limits::LOOKUP_ANSWER_BYTES_MAX;
use proto::lookup::Answer;
use proto::message::encode_message;
use registry::base::time::Tick;
use registry::model::{Catalog, ClusterName, Endpoint, Member};
use registry::pure::lookup::{LocalEndpoints, Meaning, Reach, State, encode};
use registry::pure::union::{self, Placed};

use crate::view::{LocalService, Server, Service, View};
use policy::balance::Endpoints;
use policy::placement::Availability;
use policy::route;

/// All that names mean in one view.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) view: Arc<View>,
    catalog: Arc<Catalog>,
}

/// What a name leads to in a view. A view shares with the one before what did not change since: the same places mean
/// that nothing was declared otherwise.
#[derive(Clone, Debug)]
pub(super) struct Found {
    service: Arc<Service>,
    /// The cluster that the name pins.
    cluster: Option<ClusterName>,
    /// The same service, as far as it is served here.
    local: Option<Arc<LocalService>>,
}

/// How what changes without a new view is, of what a name leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pulse {
    /// A number that changes with any of it.
    pub(super) beat: u64,
    /// When a part of it stops to count unless it is told again, in microseconds.
    pub(super) until: Option<Tick>,
}

impl Moment {
    /// `None`: no view was built yet.
    pub(super) fn of(view: Arc<View>) -> Option<Self> {
        Some(Self { catalog: view.catalog.clone()?, view })
    }

    /// What a name, as a sidecar writes it, leads to.
    pub(super) fn find(&self, name: &str, domain: &str) -> Option<Found> {
        let authority = format!("{name}.{domain}");
        let target = route::parse(&authority, domain).ok()?;
        let service = self.view.service(&target)?.clone();
        let cluster = target.cluster().map(ClusterName::new).transpose().ok()?;
        let local = self.view.local(&service.name.namespace, &service.name.name).cloned();
        Some(Found { service, cluster, local })
    }

    /// The message that says what `name` means at `now`; nothing was found: that it means nothing.
    pub(super) fn answer(&self, name: &str, found: Option<&Found>, now: Tick) -> Bytes {
        let meaning = found.and_then(|found| Some(encode(&self.meaning(found, now)?)));
        let mut answer = Answer { name: name.to_owned(), meaning };
        let message = encode_message(&answer);
        match &mut answer.meaning {
            Some(meaning) if message.len() > LOOKUP_ANSWER_BYTES_MAX => {
                // Then it sends its requests here.
                meaning.endpoints = None;
                encode_message(&answer).into()
            }
            _ => message.into(),
        }
    }

    fn meaning(&self, found: &Found, now: Tick) -> Option<Meaning> {
        let service = &found.service;
        let placed = self.placed(service, found.cluster.as_ref())?;
        let port = service.ports.first().map_or(0, |port| port.number);
        let state = |(node, member): (NodeIndex, &Member)| {
            if matches!(service.server(node), Server::Local(_)) {
                // It judges these endpoints by itself.
                return (member.cluster.clone(), State { reach: Reach::Up, ready: None });
            }
            let reach = match service.availability(node, port, now) {
                Availability::Up => Reach::Up,
                Availability::Suspect | Availability::Unready => Reach::Suspect,
                Availability::Down | Availability::Unreachable => Reach::Down,
            };
            (member.cluster.clone(), State { reach, ready: service.capacity(node, port, now) })
        };
        let states = service.placement.nodes().chain(service.placement.spares()).map(state);
        let states = states.filter(|(cluster, _)| placed.servers.contains_key(cluster)).collect();
        let serves_here = placed.servers.contains_key(&self.catalog.cluster);
        let local = found.local.as_deref().filter(|_| serves_here);
        let local = local.and_then(|local| self.local(local, &placed));
        Some(Meaning { region: self.catalog.region.clone(), placed, states, local })
    }

    /// A name with all that places its requests.
    fn placed(&self, service: &Service, cluster: Option<&ClusterName>) -> Option<Placed> {
        let mut meaning = union::meaning(&self.catalog, &service.name);
        match cluster {
            None => meaning.union,
            Some(cluster) => meaning.pinned.remove(cluster),
        }
    }

    /// The endpoints of a service that is served here.
    fn local(&self, local: &LocalService, placed: &Placed) -> Option<LocalEndpoints> {
        let declared = self.catalog.declared.services.get(&placed.name)?;
        let failing: Vec<HashSet<&str>> =
            local.ports.iter().map(|(_, endpoints)| failing(endpoints)).collect();
        let fails_open = declared.health_check.as_ref().is_some_and(|check| check.fail_open);
        let all = |ids: &HashSet<&str>| ids.len() == declared.endpoints.len();
        let fails = |ids: &HashSet<&str>, id: &str| ids.contains(id) && !(fails_open && all(ids));
        let failing = |endpoint: &Endpoint| failing.iter().map(|ids| fails(ids, &endpoint.id)).collect();
        let endpoints = declared.endpoints.iter().map(|e| (e.clone(), failing(e))).collect();
        Some(LocalEndpoints { checked: declared.health_check.is_some(), endpoints })
    }
}

impl Found {
    /// Whether both are the same, so that only the pulse can differ.
    pub(super) fn is(&self, other: &Self) -> bool {
        let place = |local: &Option<Arc<LocalService>>| local.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.service, &other.service) && place(&self.local) == place(&other.local)
    }

    /// How it is at `now`.
    pub(super) fn pulse(&self, now: Tick) -> Pulse {
        let service = &self.service;
        let port = service.ports.first().map_or(0, |port| port.number);
        let (mut hasher, mut until) = (DefaultHasher::new(), None);
        for (node, _) in service.placement.nodes().chain(service.placement.spares()) {
            // What sidecars judge by themselves is no news to them.
            if matches!(service.server(node), Server::Local(_)) {
                continue;
            }
            service.availability(node, port, now).as_str().hash(&mut hasher);
            service.capacity(node, port, now).hash(&mut hasher);
            if let Server::Peer(_, facts) = service.server(node) {
                until = until.into_iter().chain(facts.counts_until(now)).min();
            }
        }
        for (_, endpoints) in self.local.iter().flat_map(|local| &local.ports) {
            endpoints.iter().for_each(|endpoint| endpoint.fails_checks().hash(&mut hasher));
        }
        Pulse { beat: hasher.finish(), until }
    }
}

/// The ids of those that fail their checks.
fn failing(endpoints: &Endpoints) -> HashSet<&str> {
    endpoints.iter().filter(|endpoint| endpoint.fails_checks()).map(|endpoint| endpoint.id()).collect()
}
