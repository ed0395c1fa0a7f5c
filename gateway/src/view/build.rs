//! Builds views: binds contracts to rings, endpoints and peers, and keeps what did not change.

mod told;

use std::sync::Arc;

use hashring::RingError;
use registry::base::time::Tick;
use registry::model::{
    Algorithm, Catalog, ClusterName, Condition, HostPort, Member, Port, Reason, Service as Declared,
    ServiceName,
};
use registry::pure::union::{self, Meaning, Placed};

use super::{LocalService, Server, Service, View};
use crate::peers::{PeerCluster, Peers};
use crate::telemetry::metrics::{Direction, Metrics};
use policy::balance::{EndpointSpec, Endpoints, Rule};
use policy::placement::{Placement, Placements};

/// Builds views; keeps what several services share.
#[derive(Debug)]
pub struct ViewBuilder {
    cluster: ClusterName,
    region: String,
    placements: Placements,
    /// When counters that nothing counts for any more are forgotten.
    forget_at: Tick,
}

/// Counters are swept at most so often, in microseconds: it is a look at all of them.
const FORGET_MICROS: u64 = 1_000_000;

/// What every view is built with.
struct Means<'a> {
    metrics: &'a Metrics,
    /// The view before: endpoints and budgets that stay keep what it knows of them.
    previous: &'a View,
    now: Tick,
}

impl ViewBuilder {
    /// For a gateway of `cluster` in `region`.
    pub fn new(cluster: ClusterName, region: String) -> Self {
        Self { cluster, region, placements: Placements::default(), forget_at: Tick::ZERO }
    }

    /// The view of `catalog` at `now`, after `previous`, which this builder has built or which is empty. Only names
    /// whose meaning may have changed are looked at, unless a link has changed.
    pub fn build(
        &mut self,
        catalog: Arc<Catalog>,
        peers: &Peers,
        metrics: &Metrics,
        previous: &View,
        now: Tick,
    ) -> View {
        let means = Means { metrics, previous, now };
        let linked: Vec<_> = peers.iter().collect();
        let same_peers = linked.iter().map(Arc::as_ptr).eq(previous.peers.iter().map(Arc::as_ptr));
        let before = previous.catalog.as_deref().filter(|_| same_peers);
        let unnamed = if same_peers {
            previous.unnamed.clone()
        } else {
            let nothing = Arc::from("");
            let of = |peer: &PeerCluster| metrics.requests(Direction::Inbound, &nothing, Some(&peer.name));
            Arc::new(linked.iter().map(|peer| (peer.name.clone(), of(peer))).collect())
        };
        let mut view = View { peers: linked, unnamed, ..View::default() };
        match before.and_then(|before| union::changed(before, &catalog)) {
            Some(names) => {
                view.union = previous.union.clone();
                view.pinned = previous.pinned.clone();
                view.local = previous.local.clone();
                view.complaints = previous.complaints.clone();
                for name in names {
                    self.put(name, union::meaning(&catalog, name), (&catalog, peers), &means, &mut view);
                }
            }
            None => {
                for (name, meaning) in union::meanings(&catalog) {
                    self.put(name, meaning, (&catalog, peers), &means, &mut view);
                }
            }
        }
        view.conditions = view.complaints.values().flat_map(|of_one| of_one.iter().cloned()).collect();
        view.conditions.sort();
        if now >= self.forget_at {
            metrics.forget_unused();
            self.forget_at = now.after(FORGET_MICROS);
        }
        view.catalog = Some(catalog);
        view
    }

    /// Puts into `view` what `name` means now, in the place of what it meant.
    fn put(
        &mut self,
        name: &ServiceName,
        meaning: Meaning,
        (catalog, peers): (&Catalog, &Peers),
        means: &Means<'_>,
        view: &mut View,
    ) {
        let Meaning { union, pinned, mut conditions } = meaning;
        if let Some(services) = view.local.get_mut(&name.namespace) {
            services.remove(&name.name);
        }
        if let Some(service) = catalog.declared.services.get(name) {
            let placement = union.as_ref().and_then(|placed| self.placement(placed).ok());
            let seed = union.as_ref().map_or(0, |placed| placed.contract.seed);
            let rule = self.rule(service, union.as_ref().map(|placed| placed.balance), seed, &mut conditions);
            let ports = ports(service, &rule, means.previous, means.now);
            let linked = peers.iter().map(|peer| peer.name.clone());
            let local = local(service, ports, placement, linked, means.metrics);
            view.local.entry(name.namespace.clone()).or_default().insert(name.name.clone(), Arc::new(local));
        }
        let way = |cluster: &ClusterName| {
            peers.get(cluster).map_or(Server::Unreachable, |peer| {
                let facts = peer.facts.of(name);
                Server::Peer(peer, facts)
            })
        };
        let prefix: Arc<str> = name.host_prefix().into();
        view.union.remove(&prefix);
        for (cluster, services) in &mut view.pinned {
            if pinned.keys().all(|offering| offering.as_str() != &**cluster) {
                services.remove(&prefix);
            }
        }
        let union = union.as_ref().map(|placed| (None, placed));
        for (cluster, placed) in union.into_iter().chain(pinned.iter().map(|(c, placed)| (Some(c), placed))) {
            let service = self.service(placed, cluster, way, means, (view, &mut conditions));
            let services = match cluster {
                None => &mut view.union,
                Some(cluster) => view.pinned.entry(cluster.as_str().into()).or_default(),
            };
            match service {
                Some(service) => services.insert(prefix.clone(), Arc::new(service)),
                None => services.remove(&prefix),
            };
        }
        match conditions.is_empty() {
            true => view.complaints.remove(name),
            false => view.complaints.insert(name.clone(), conditions.into()),
        };
    }

    fn placement(&mut self, placed: &Placed) -> Result<Arc<Placement>, RingError> {
        let known: &[Member] = &placed.members;
        // Only where a contract may leave them out.
        let spares = placed.contract.members.as_ref().map_or_else(Vec::new, |_| placed.servers());
        self.placements.get(&placed.contract, known, spares, &self.cluster, &self.region)
    }

    /// What a name means here; `way` leads to clusters whose endpoints are not known here.
    fn service(
        &mut self,
        placed: &Placed,
        pinned: Option<&ClusterName>,
        way: impl Fn(&ClusterName) -> Server,
        means: &Means<'_>,
        (view, conditions): (&View, &mut Vec<Condition>),
    ) -> Option<Service> {
        let metrics = means.metrics;
        let placement = match self.placement(placed) {
            Ok(placement) => placement,
            Err(error) => {
                let text = format!("its members make no ring: {error}; requests for it find no such name");
                conditions.push(Condition::new(&placed.name, Reason::NoRing, text));
                return None;
            }
        };
        let label: Arc<str> = placed.name.to_string().into();
        let server = |member: &Member| {
            if !placed.servers.contains_key(&member.cluster) {
                return Server::Unreachable;
            }
            let local = view.local(&placed.name.namespace, &placed.name.name);
            match local.filter(|_| member.cluster == self.cluster) {
                Some(local) => Server::Local(local.clone()),
                None => way(&member.cluster),
            }
        };
        let servers = placement.everyone().iter().map(server).collect();
        let counters = placement.everyone().iter();
        let counters =
            counters.map(|m| metrics.requests(Direction::Outbound, &label, Some(&m.cluster))).collect();
        let before = means.previous.named(&placed.name.host_prefix(), pinned);
        Some(Service {
            name: placed.name.clone(),
            ports: placed.ports.clone(),
            placement,
            hash: placed.contract.hash.clone(),
            contract_from: placed.contract_from.clone(),
            pinned: pinned.is_some(),
            retry: placed.retry.clone(),
            timeout: placed.timeout.clone(),
            budgets: before.map(|before| before.budgets.clone()).unwrap_or_default(),
            counters,
            unanswered: metrics.requests(Direction::Outbound, &label, None),
            durations: metrics.durations(Direction::Outbound, &label),
            connections: metrics.connections(Direction::Outbound, &label),
            servers,
        })
    }

    /// How the endpoints of a service are treated.
    fn rule(
        &mut self,
        service: &Declared,
        algorithm: Option<Algorithm>,
        seed: u64,
        conditions: &mut Vec<Condition>,
    ) -> Rule {
        let algorithm = algorithm.unwrap_or(Algorithm::P2cEwma);
        let ring = match algorithm {
            Algorithm::P2cEwma | Algorithm::RoundRobin => None,
            Algorithm::Ring => match self.placements.rings.inner(&service.endpoints, seed) {
                Ok(ring) => Some(ring),
                Err(error) => {
                    let text = format!("its endpoints make no ring: {error}; keys are not looked at");
                    conditions.push(Condition::new(&service.name, Reason::NoRing, text));
                    None
                }
            },
        };
        let check = service.health_check.as_ref();
        Rule {
            algorithm,
            ring,
            checked: check.is_some(),
            fail_open: check.is_some_and(|check| check.fail_open),
        }
    }
}

/// The ports of a service with their endpoints.
fn ports(service: &Declared, rule: &Rule, previous: &View, now: Tick) -> Vec<(Port, Endpoints)> {
    let before = previous.local(&service.name.namespace, &service.name.name);
    let endpoints = |port: &Port| {
        let specs = service.endpoints.iter().filter_map(|endpoint| {
            let number = endpoint.ports.get(&port.name)?;
            Some(EndpointSpec {
                id: endpoint.id.clone(),
                address: HostPort { host: endpoint.host.clone(), port: number },
                protocol: port.protocol,
                weight: endpoint.weight,
                capacity: endpoint.capacity,
            })
        });
        let kept = before.and_then(|b| b.endpoints(port.number));
        (port.clone(), Endpoints::new(rule.clone(), specs, kept, now))
    };
    service.ports.iter().map(endpoints).collect()
}

fn local(
    service: &Declared,
    ports: Vec<(Port, Endpoints)>,
    placement: Option<Arc<Placement>>,
    linked: impl Iterator<Item = ClusterName>,
    metrics: &Metrics,
) -> LocalService {
    let label: Arc<str> = service.name.to_string().into();
    let inbound = linked.map(|name| {
        let counters = metrics.requests(Direction::Inbound, &label, Some(&name));
        (name, counters)
    });
    LocalService {
        name: service.name.clone(),
        grant: service.export.clone(),
        ports,
        health_check: service.health_check.clone().map(Arc::new),
        placement,
        inbound: inbound.collect(),
        durations: metrics.durations(Direction::Inbound, &label),
        connections: metrics.connections(Direction::Inbound, &label),
    }
}
