//! What every request looks at: catalog, rings and endpoints of one moment, immutable and swapped whole.

mod build;
#[cfg(test)]
mod tests;

pub use build::ViewBuilder;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use hashring::NodeIndex;
use registry::base::shared_map::SharedMap;
use registry::base::time::Tick;
use registry::model::{
    Catalog, ClusterName, Condition, Grant, HashKey, HealthCheck, Port, Retry, ServiceName, Timeout,
};
use registry::pure::lookup::{Reach, State};

use crate::peers::PeerCluster;
use crate::telemetry::metrics::{ConnectionCounters, Durations, RequestCounters};
use policy::balance::{Endpoints, Readiness};
use policy::facts::Facts;
use policy::placement::{Availability, Placement};
use policy::retry::Budget;
use policy::route::Target;

/// One moment. Shares with the one before what did not change since.
#[derive(Debug, Default)]
pub struct View {
    /// By `name.namespace`.
    union: SharedMap<Arc<str>, Arc<Service>>,
    /// By cluster, then by `name.namespace`.
    pinned: HashMap<Box<str>, SharedMap<Arc<str>, Arc<Service>>>,
    /// What is served here, by namespace, then by name.
    local: HashMap<Arc<str>, SharedMap<Arc<str>, Arc<LocalService>>>,
    /// What does not hold of each service.
    complaints: SharedMap<ServiceName, Arc<[Condition]>>,
    /// What does not hold.
    pub conditions: Vec<Condition>,
    /// The catalog that it shows.
    pub catalog: Option<Arc<Catalog>>,
    /// The linked clusters that it leads to.
    peers: Vec<Arc<PeerCluster>>,
    /// What each of them asks of no service that is known.
    unnamed: Arc<HashMap<ClusterName, RequestCounters>>,
}

/// A name that callers can use.
#[derive(Debug)]
pub struct Service {
    /// What it names.
    pub name: ServiceName,
    /// Its ports, the first is the default.
    pub ports: Arc<[Port]>,
    /// Where its requests go.
    pub placement: Arc<Placement>,
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
    /// Its connections that are carried as such.
    pub connections: ConnectionCounters,
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

/// The budgets of a service: they look back, so a new view must not forget them. They take room with the first request.
#[derive(Debug, Default)]
pub struct Budgets(OnceLock<Box<[Budget; 2]>>);

impl Budgets {
    /// For retries.
    pub fn retries(&self) -> &Budget {
        &self.0.get_or_init(Box::default)[0]
    }

    /// For hedges.
    pub fn hedges(&self) -> &Budget {
        &self.0.get_or_init(Box::default)[1]
    }
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
    pub placement: Option<Arc<Placement>>,
    /// What peers ask, by peer.
    inbound: HashMap<ClusterName, RequestCounters>,
    /// How long heads of answers to peers took.
    pub durations: Durations,
    /// Its connections that are carried as such.
    pub connections: ConnectionCounters,
}

impl LocalService {
    /// Whether an endpoint of it has not been checked yet as often as it must be.
    pub fn is_waiting_for_checks(&self) -> bool {
        self.ports.iter().any(|(_, endpoints)| endpoints.iter().any(|endpoint| endpoint.is_waiting()))
    }
}

impl View {
    /// The service of a name.
    pub fn service(&self, target: &Target<'_>) -> Option<&Arc<Service>> {
        match target.cluster() {
            None => self.union.get(target.prefix()),
            Some(cluster) => self.pinned.get(cluster)?.get(target.prefix()),
        }
    }

    /// The service of `name.namespace`, pinned or not.
    fn named(&self, prefix: &str, pinned: Option<&ClusterName>) -> Option<&Arc<Service>> {
        match pinned {
            None => self.union.get(prefix),
            Some(cluster) => self.pinned.get(cluster.as_str())?.get(prefix),
        }
    }

    /// A service that is served here.
    pub fn local(&self, namespace: &str, name: &str) -> Option<&Arc<LocalService>> {
        self.local.get(namespace)?.get(name)
    }

    /// The counters of what a linked cluster asks of no service that is known.
    pub fn unnamed(&self, peer: &ClusterName) -> Option<&RequestCounters> {
        self.unnamed.get(peer)
    }

    /// Everything that is served here.
    pub fn locals(&self) -> impl Iterator<Item = &Arc<LocalService>> {
        self.local.values().flat_map(SharedMap::values)
    }

    /// The union names, sorted.
    pub fn services(&self) -> Vec<&Arc<Service>> {
        let mut services: Vec<_> = self.union.values().collect();
        // The map's order is that of `name.namespace`.
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
    pub fn availability(&self, node: NodeIndex, port: u16, now: Tick) -> Availability {
        match self.server(node) {
            Server::Local(local) => match local.readiness(port, now) {
                Readiness::Ready => Availability::Up,
                Readiness::Degraded => Availability::Suspect,
                Readiness::None => Availability::Down,
            },
            Server::Peer(peer, facts) => match (peer.availability(), facts.readiness(now)) {
                // It would most likely refuse, a round trip later.
                (Availability::Up | Availability::Suspect, Some(Readiness::None)) => Availability::Unready,
                (Availability::Up, Some(Readiness::Degraded)) => Availability::Suspect,
                (availability, _) => availability,
            },
            Server::Via(gateways, state) => match (state.reach, gateways.availability()) {
                (Reach::Down, _) => Availability::Down,
                // So a gateway tells that it is unready.
                (Reach::Suspect, _) if state.ready == Some(0) => Availability::Unready,
                (Reach::Up, Availability::Up) => Availability::Up,
                // Without a gateway it is worth waiting for one, where nothing better is left.
                (Reach::Up | Reach::Suspect, _) => Availability::Suspect,
            },
            Server::Unreachable => Availability::Unreachable,
        }
    }

    /// How much of `port` a node can serve now, as the weight of its endpoints that take requests, if that is known.
    pub fn capacity(&self, node: NodeIndex, port: u16, now: Tick) -> Option<u32> {
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
    pub fn inbound(&self, peer: &ClusterName) -> Option<&RequestCounters> {
        self.inbound.get(peer)
    }

    /// How well the endpoints of a port are.
    fn readiness(&self, port: u16, now: Tick) -> Readiness {
        self.endpoints(port).map_or(Readiness::None, |endpoints| endpoints.readiness(now))
    }
}
