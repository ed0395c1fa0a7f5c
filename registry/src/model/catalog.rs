//! What is known at one moment: declared here, mirrored from peers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ClusterName, Contract, Link, Listener, Object, ObjectName, Policy, Port, Service, ServiceName};
use crate::base::shared_map::SharedMap;

/// What this cluster declares: every manifest but the Gateway's, at one revision. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Links by peer.
    pub links: BTreeMap<ClusterName, Link>,
    /// Listeners by name.
    pub listeners: BTreeMap<ObjectName, Arc<Listener>>,
    /// Services by name.
    pub services: SharedMap<ServiceName, Arc<Service>>,
    /// Policies by service.
    pub policies: SharedMap<ServiceName, Arc<Policy>>,
}

/// A point in the history of one cluster's export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Which history: random, new whenever the exporter lost part of the old one. 0: nothing was ever heard.
    pub epoch: u64,
    /// How far in it; grows with every change.
    pub revision: u64,
}

/// A peer's export as mirrored here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Its name.
    pub name: ServiceName,
    /// Its ports.
    pub ports: Arc<[Port]>,
    /// The region of the serving cluster.
    pub region: Arc<str>,
    /// The peer's placement contract, if its policy declares one.
    pub contract: Option<Box<Contract>>,
    /// The exporter's revision at which this was written.
    pub revision: u64,
}

impl Import {
    /// Whether both say the same, wherever they stand in a history.
    pub fn same_content(&self, other: &Self) -> bool {
        let Self { name, ports, region, contract, revision: _ } = self;
        (name, ports, region, contract) == (&other.name, &other.ports, &other.region, &other.contract)
    }
}

/// All that is mirrored of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerImports {
    /// The peer's epoch, 0 before the first sync.
    pub epoch: u64,
    /// The peer's revision up to which this is complete.
    pub revision: u64,
    /// When the last word of the peer's sync came, Unix milliseconds; 0: never.
    pub synced_unix_ms: u64,
    /// A snapshot began and has not ended, so that what is not here may only not have come: when all of it was known
    /// last, Unix milliseconds (0: never). None: this is all.
    pub partial_since_ms: Option<u64>,
    /// The peer has said nothing for so long that its contracts count no more. Follows from the time, and is not kept.
    pub contracts_lapsed: bool,
    /// The records, shared with every catalog that holds them.
    pub services: SharedMap<ServiceName, Arc<Import>>,
}

/// An immutable picture of services and imports at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// Grows with every change.
    pub revision: u64,
    /// Our cluster.
    pub cluster: ClusterName,
    /// Our region.
    pub region: String,
    /// What we declare.
    pub declared: Declared,
    /// What is mirrored here.
    pub imports: BTreeMap<ClusterName, Arc<PeerImports>>,
}

impl Declared {
    /// Everything that it holds, one by one.
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        let links = self.links.values().cloned().map(Object::Link);
        let listeners = self.listeners.values().cloned().map(Object::Listener);
        let services = self.services.values().cloned().map(Object::Service);
        links.chain(listeners).chain(services).chain(self.policies.values().cloned().map(Object::Policy))
    }
}
