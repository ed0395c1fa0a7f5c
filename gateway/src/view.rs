//! What every request looks at: catalog, rings and endpoints of one moment, immutable and swapped whole.

mod told;

use std::collections::HashMap;
use std::sync::Arc;

use hashring::{NodeIndex, RingError};
use registry::lookup::{Reach, State};
use registry::model::{
    Algorithm, Catalog, ClusterName, Condition, Grant, HashKey, HealthCheck, HostPort, Member, Port, Retry,
    Service as Declared, ServiceName, Timeout,
};
use registry::union::{self, Placed};

use crate::balance::{EndpointSpec, Endpoints, Rule, Standing};
use crate::facts::Facts;
use crate::metrics::{Direction, Durations, Metrics, RequestCounters};
use crate::peers::{PeerCluster, Peers};
use crate::placement::{Availability, Placement, Rings};
use crate::retry::Budget;
use crate::route::Target;

pub use told::Names;

/// One moment.
#[derive(Debug, Default)]
pub struct View {
    /// By `name.namespace`.
    union: HashMap<Box<str>, Arc<Service>>,
    /// By cluster, then by `name.namespace`.
    pinned: HashMap<Box<str>, HashMap<Box<str>, Arc<Service>>>,
    /// What is served here, by namespace, then by name.
    local: HashMap<Box<str>, HashMap<Box<str>, Arc<LocalService>>>,
    /// What does not hold.
    pub conditions: Vec<Condition>,
    /// The catalog that it shows.
    pub catalog: Option<Arc<Catalog>>,
}

/// A name that callers can use.
#[derive(Debug)]
pub struct Service {
    /// What it names.
    pub name: ServiceName,
    /// Its ports, the first is the default.
    pub ports: Vec<Port>,
    /// Where its requests go.
    pub placement: Placement,
    /// Where the key comes from.
    pub hash: Vec<HashKey>,
    /// The cluster whose contract counts.
    pub contract_from: Option<ClusterName>,
    /// Whether the name pins a cluster.
    pub pinned: bool,
    /// What is tried again.
    pub retry: Retry,
    /// How long it may take.
    pub timeout: Timeout,
    /// Spent by retries and hedges; outlives views.
    pub budgets: Arc<Budgets>,
    /// Requests by the node that answered.
    counters: Box<[RequestCounters]>,
    /// Requests that nobody answered.
    pub unanswered: RequestCounters,
    /// How long heads of answers took.
    pub durations: Durations,
    servers: Box<[Server]>,
}

/// What a node of the cluster ring is to us.
#[derive(Clone, Debug)]
pub enum Server {
    /// This cluster.
    Local(Arc<LocalService>),
    /// A linked cluster, and what it tells of the service.
    Peer(Arc<PeerCluster>, Arc<Facts>),
    /// Whatever cluster, from a sidecar: through a gateway of its own, which has told how that cluster is.
    Via(Arc<PeerCluster>, State),
    /// Not linked, not imported, or not joined to the union.
    Unreachable,
}

/// The budgets of a service: they look back, so a new view must not forget them.
#[derive(Debug, Default)]
pub struct Budgets {
    /// For retries.
    pub retries: Budget,
    /// For hedges.
    pub hedges: Budget,
}

/// A service that is served here.
#[derive(Debug)]
pub struct LocalService {
    /// Its name.
    pub name: ServiceName,
    /// Which peers may call it.
    pub grant: Grant,
    /// Its ports with their endpoints.
    pub ports: Vec<(Port, Endpoints)>,
    /// How its endpoints are checked.
    pub health_check: Option<Arc<HealthCheck>>,
    /// Our own idea of its placement, to check a peer's against.
    pub placement: Option<Placement>,
    /// What peers ask, by peer.
    inbound: HashMap<ClusterName, RequestCounters>,
    /// How long heads of answers to peers took.
    pub durations: Durations,
}

impl View {
    /// The service of a name.
    pub fn service(&self, target: &Target<'_>) -> Option<&Arc<Service>> {
        match target.cluster() {
            None => self.union.get(target.prefix()),
            Some(cluster) => self.pinned.get(cluster)?.get(target.prefix()),
        }
    }

    /// A service that is served here.
    pub fn local(&self, namespace: &str, name: &str) -> Option<&Arc<LocalService>> {
        self.local.get(namespace)?.get(name)
    }

    /// Everything that is served here.
    pub fn locals(&self) -> impl Iterator<Item = &Arc<LocalService>> {
        self.local.values().flat_map(HashMap::values)
    }

    /// The union names, sorted.
    pub fn services(&self) -> Vec<&Arc<Service>> {
        let mut services: Vec<_> = self.union.values().collect();
        services.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        services
    }

    /// A union name.
    pub fn union_of(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.union.get(name.host_prefix().as_str())
    }
}

impl Service {
    /// What a node is to us.
    ///
    /// # Panics
    /// When `node` is of another ring.
    pub fn server(&self, node: NodeIndex) -> &Server {
        &self.servers[node.get()]
    }

    /// The counters of what a node answered.
    ///
    /// # Panics
    /// When `node` is of another ring.
    pub fn counters(&self, node: NodeIndex) -> &RequestCounters {
        &self.counters[node.get()]
    }

    /// Whether a node can serve `port` now.
    pub fn availability(&self, node: NodeIndex, port: u16, now: u64) -> Availability {
        match self.server(node) {
            Server::Local(local) => match local.standing(port, now) {
                Standing::Ready => Availability::Up,
                Standing::LastChoice => Availability::Suspect,
                Standing::Out => Availability::Down,
            },
            // It would refuse, a round trip later.
            Server::Peer(_, facts) if facts.ready(now) == Some(0) => Availability::Down,
            Server::Peer(peer, _) => peer.availability(),
            Server::Via(gateways, state) => match (state.reach, gateways.availability()) {
                (Reach::Down, _) => Availability::Down,
                (Reach::Up, Availability::Up) => Availability::Up,
                // Without a gateway it is worth waiting for one, where nothing better is left.
                (Reach::Up | Reach::Suspect, _) => Availability::Suspect,
            },
            Server::Unreachable => Availability::Unreachable,
        }
    }

    /// How much of `port` a node can serve now, as the weight of its endpoints that take requests, if that is known.
    pub fn capacity(&self, node: NodeIndex, port: u16, now: u64) -> Option<u32> {
        match self.server(node) {
            Server::Local(local) => local.endpoints(port).map(|endpoints| endpoints.ready_weight(now)),
            Server::Peer(_, facts) => facts.ready(now),
            Server::Via(_, state) => state.ready,
            Server::Unreachable => None,
        }
    }

    /// The port of a number, or the first.
    pub fn port(&self, number: Option<u16>) -> Option<&Port> {
        match number {
            None => self.ports.first(),
            Some(number) => self.ports.iter().find(|p| p.number == number),
        }
    }
}

impl LocalService {
    /// A port with its endpoints.
    pub fn port(&self, number: u16) -> Option<&(Port, Endpoints)> {
        self.ports.iter().find(|(port, _)| port.number == number)
    }

    /// The endpoints of a port.
    pub fn endpoints(&self, port: u16) -> Option<&Endpoints> {
        self.port(port).map(|(_, endpoints)| endpoints)
    }

    /// The counters of what `peer` asks; `None` for a cluster that no link knows.
    pub fn inbound(&self, peer: &str) -> Option<&RequestCounters> {
        self.inbound.iter().find(|(name, _)| name.as_str() == peer).map(|(_, counters)| counters)
    }

    /// The best that a port has to offer now.
    fn standing(&self, port: u16, now: u64) -> Standing {
        self.endpoints(port).map_or(Standing::Out, |endpoints| endpoints.standing(now))
    }
}

/// Builds views; keeps what must outlive them.
#[derive(Debug)]
pub struct ViewBuilder {
    cluster: ClusterName,
    region: String,
    rings: Rings,
    budgets: HashMap<(ServiceName, Option<ClusterName>), Arc<Budgets>>,
}

impl ViewBuilder {
    /// For a gateway of `cluster` in `region`.
    pub fn new(cluster: ClusterName, region: String) -> Self {
        Self { cluster, region, rings: Rings::default(), budgets: HashMap::new() }
    }

    /// The view of `catalog` at `now`; endpoints that stay keep what `previous` knows of them.
    pub fn build(
        &mut self,
        catalog: Arc<Catalog>,
        peers: &Peers,
        metrics: &Metrics,
        previous: &View,
        now: u64,
    ) -> View {
        let resolved = union::resolve(&catalog);
        let linked = || peers.iter().map(|peer| peer.name.clone());
        let mut view = View { conditions: resolved.conditions, ..View::default() };
        for (name, service) in &catalog.declared.services {
            let placed = resolved.union.get(name);
            let placement = placed.and_then(|p| self.placement(p).ok());
            let seed = placed.map_or(0, |p| p.contract.seed);
            let rule = self.rule(service, placed.map(|p| p.balance), seed, &mut view.conditions);
            let ports = ports(service, &rule, previous, now);
            let local = local(service, ports, placement, linked(), metrics);
            let (namespace, name) = ((*name.namespace).into(), (*name.name).into());
            view.local.entry(namespace).or_default().insert(name, Arc::new(local));
        }
        let way = |placed: &Placed, cluster: &ClusterName| {
            peers.get(cluster).map_or(Server::Unreachable, |peer| {
                let facts = peer.facts.of(&placed.name);
                Server::Peer(peer, facts)
            })
        };
        for (name, placed) in &resolved.union {
            if let Some(service) = self.service(placed, None, |c| way(placed, c), metrics, &mut view) {
                view.union.insert(name.host_prefix().into(), Arc::new(service));
            }
        }
        for ((name, cluster), placed) in &resolved.pinned {
            let service = self.service(placed, Some(cluster), |c| way(placed, c), metrics, &mut view);
            if let Some(service) = service {
                let of_cluster = view.pinned.entry(cluster.as_str().into()).or_default();
                of_cluster.insert(name.host_prefix().into(), Arc::new(service));
            }
        }
        let live = |(name, cluster): &(ServiceName, Option<ClusterName>)| match cluster {
            None => resolved.union.contains_key(name),
            Some(cluster) => resolved.pinned.contains_key(&(name.clone(), cluster.clone())),
        };
        self.budgets.retain(|key, _| live(key));
        metrics.forget_unused();
        view.catalog = Some(catalog);
        view
    }

    fn placement(&mut self, placed: &Placed) -> Result<Placement, RingError> {
        let known: &[Member] = &placed.members;
        Placement::new(&placed.contract, known, &self.cluster, &self.region, &mut self.rings)
    }

    /// What a name means here; `way` leads to clusters whose endpoints are not known here.
    fn service(
        &mut self,
        placed: &Placed,
        pinned: Option<&ClusterName>,
        way: impl Fn(&ClusterName) -> Server,
        metrics: &Metrics,
        view: &mut View,
    ) -> Option<Service> {
        let placement = match self.placement(placed) {
            Ok(placement) => placement,
            Err(error) => {
                view.conditions.push(Condition {
                    object: format!("MeshService {}", placed.name),
                    kind: "Programmed",
                    status: false,
                    reason: "NoRing",
                    message: format!("its members make no ring: {error}; requests for it find no such name"),
                });
                return None;
            }
        };
        let label = placed.name.to_string();
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
        let servers = placement.members().iter().map(server).collect();
        let counters = placement.members().iter();
        let counters =
            counters.map(|m| metrics.requests(Direction::Outbound, &label, m.cluster.as_str())).collect();
        let budgets = self.budgets.entry((placed.name.clone(), pinned.cloned())).or_default().clone();
        Some(Service {
            name: placed.name.clone(),
            ports: placed.ports.clone(),
            placement,
            hash: placed.contract.hash.clone(),
            contract_from: placed.contract_from.clone(),
            pinned: pinned.is_some(),
            retry: placed.retry.clone(),
            timeout: placed.timeout.clone(),
            budgets,
            counters,
            unanswered: metrics.requests(Direction::Outbound, &label, ""),
            durations: metrics.durations(Direction::Outbound, &label),
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
            Algorithm::Ring => match self.rings.inner(&service.endpoints, seed) {
                Ok(ring) => Some(ring),
                Err(error) => {
                    conditions.push(Condition {
                        object: format!("MeshService {}", service.name),
                        kind: "Programmed",
                        status: false,
                        reason: "NoRing",
                        message: format!("its endpoints make no ring: {error}; keys are not looked at"),
                    });
                    None
                }
            },
        };
        Rule { algorithm, ring, checked: service.health_check.is_some() }
    }
}

/// The ports of a service with their endpoints.
fn ports(service: &Declared, rule: &Rule, previous: &View, now: u64) -> Vec<(Port, Endpoints)> {
    let before = previous.local(&service.name.namespace, &service.name.name);
    let endpoints = |port: &Port| {
        let specs = service.endpoints.iter().filter_map(|endpoint| {
            let number = *endpoint.ports.get(&port.name)?;
            Some(EndpointSpec {
                id: endpoint.id.clone(),
                address: HostPort { host: endpoint.host.clone(), port: number },
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
    placement: Option<Placement>,
    linked: impl Iterator<Item = ClusterName>,
    metrics: &Metrics,
) -> LocalService {
    let label = service.name.to_string();
    let inbound = linked.map(|name| {
        let counters = metrics.requests(Direction::Inbound, &label, name.as_str());
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
    }
}
