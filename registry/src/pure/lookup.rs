//! What a gateway tells the sidecars of its own cluster about a name, to and from [`proto::lookup::Meaning`].
//!
//! Unlike a peer, a sidecar is told addresses: it balances over the endpoints of its own cluster itself. Reading is as
//! strict as that of [`crate::model::record`]; a meaning that cannot be read leaves the name as it was.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::{limits, lookup};

use crate::model::record::{
    BadRecord, all_differ, at_most, decode_contract, decode_members, decode_ports, encode_contract,
    encode_members, encode_port, text,
};
use crate::model::{
    Algorithm, ClusterName, Contract, Endpoint, Member, Retry, RetryOn, ServiceName, Timeout,
};
use crate::pure::union::{Placed, Server};

/// Most methods of one policy that are told.
const METHODS_MAX: usize = 64;
/// Largest weight of an endpoint, in hundredths, as manifests have it.
const ENDPOINT_WEIGHT_MAX: u32 = 10_000;

/// What a name means to a sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Meaning {
    /// The region of the sidecar's cluster.
    pub region: String,
    /// Which clusters serve it, and by whose rule. Of what is tried again it holds what a sidecar may try: requests that
    /// were not processed. The rest was tried by the gateway.
    pub placed: Placed,
    /// How the clusters that serve it are, as the gateway sees them.
    pub states: BTreeMap<ClusterName, State>,
    /// The endpoints in the sidecar's cluster; none: what goes to this cluster goes through the gateway, too.
    pub local: Option<LocalEndpoints>,
}

/// How a cluster is that serves a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether requests can go there.
    pub reach: Reach,
    /// The weight of its endpoints that take requests, in hundredths; none: unknown.
    pub ready: Option<u32>,
}

/// Whether requests can go to a cluster, as the gateway sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// They can.
    Up,
    /// Only where nothing better is left.
    Suspect,
    /// They cannot.
    Down,
}

/// The endpoints of a service in the sidecar's own cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoints {
    /// Whether they are checked.
    pub checked: bool,
    /// Each, and for each port of the service (in their order) whether it fails its checks or has yet to pass them.
    pub endpoints: Vec<(Endpoint, Vec<bool>)>,
}

impl LocalEndpoints {
    /// Whether each endpoint fails its checks on the port at `place`, by id.
    pub fn failing(&self, place: usize) -> impl Iterator<Item = (&str, bool)> {
        let at = move |failing: &[bool]| failing.get(place).copied().unwrap_or_default();
        self.endpoints.iter().map(move |(endpoint, failing)| (&*endpoint.id, at(failing)))
    }
}

/// The message that says what a name means.
pub fn encode(meaning: &Meaning) -> lookup::Meaning {
    let placed = &meaning.placed;
    let server = |(cluster, server): (&ClusterName, &Server)| {
        let state = meaning.states.get(cluster);
        let reach = match state.map_or(Reach::Up, |state| state.reach) {
            Reach::Up => lookup::Reach::Up,
            Reach::Suspect => lookup::Reach::Suspect,
            Reach::Down => lookup::Reach::Down,
        };
        lookup::Server {
            cluster: cluster.to_string(),
            region: server.region.clone(),
            reach: reach.into(),
            ready: state.and_then(|state| state.ready),
        }
    };
    let balance = match placed.balance {
        Algorithm::P2cEwma => lookup::Algorithm::P2cEwma,
        Algorithm::RoundRobin => lookup::Algorithm::RoundRobin,
        Algorithm::Ring => lookup::Algorithm::Ring,
    };
    let endpoints = |local: &LocalEndpoints| lookup::Endpoints {
        checked: local.checked,
        endpoints: local.endpoints.iter().map(|(e, failing)| encode_endpoint(e, failing, placed)).collect(),
    };
    lookup::Meaning {
        namespace: placed.name.namespace.to_string(),
        name: placed.name.name.to_string(),
        region: meaning.region.clone(),
        ports: placed.ports.iter().map(encode_port).collect(),
        contract: (placed.contract.generation > 0).then(|| encode_contract(&placed.contract)),
        contract_from: placed.contract_from.as_ref().map_or_else(String::new, ToString::to_string),
        members: Some(encode_members(&placed.members)),
        servers: placed.servers.iter().map(server).collect(),
        retry: Some(encode_retry(&placed.retry)),
        timeout: Some(encode_timeout(&placed.timeout)),
        balance: balance.into(),
        endpoints: meaning.local.as_ref().map(endpoints),
    }
}

fn encode_endpoint(endpoint: &Endpoint, failing: &[bool], placed: &Placed) -> lookup::Endpoint {
    let port = |(place, port): (usize, &crate::model::Port)| lookup::EndpointPort {
        // Manifests give every endpoint a number for each port of its service.
        number: endpoint.ports.get(&port.name).unwrap_or_default().into(),
        failing: failing.get(place).copied().unwrap_or_default(),
    };
    lookup::Endpoint {
        id: endpoint.id.to_string(),
        host: endpoint.host.to_string(),
        ports: placed.ports.iter().enumerate().map(port).collect(),
        weight: endpoint.weight,
        zone: endpoint.zone.to_string(),
        capacity: endpoint.capacity,
    }
}

fn encode_retry(retry: &Retry) -> lookup::Retry {
    lookup::Retry {
        attempts: retry.attempts.into(),
        budget_percent: retry.budget_percent.into(),
        min_per_second: retry.min_per_second,
        on_connect: retry.on.connect,
        on_refused: retry.on.refused,
        on_unavailable: retry.on.unavailable,
        methods: retry.methods.clone(),
    }
}

fn encode_timeout(timeout: &Timeout) -> lookup::Timeout {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    lookup::Timeout {
        connect_ms: ms(timeout.connect),
        head_ms: ms(timeout.head),
        idle_ms: timeout.idle.map_or(0, ms),
        total_ms: timeout.total.map_or(0, ms),
    }
}

/// What `meaning` says, every name and number checked.
///
/// # Errors
/// [`BadRecord`]: it is wrong, or says something that this version does not understand.
pub fn decode(meaning: &lookup::Meaning) -> Result<Meaning, BadRecord> {
    let ports = decode_ports(&meaning.ports)?;
    if ports.len() != meaning.ports.len() {
        return Err(BadRecord::Unknown("ports"));
    }
    let contract_from = match &*meaning.contract_from {
        "" => None,
        cluster => Some(ClusterName::new(cluster)?),
    };
    at_most(meaning.servers.len(), limits::CONTRACT_MEMBERS_MAX, "servers")?;
    let (mut servers, mut states) = (BTreeMap::new(), BTreeMap::new());
    for server in &meaning.servers {
        let cluster = ClusterName::new(&server.cluster)?;
        let reach = match server.reach() {
            lookup::Reach::Up => Reach::Up,
            lookup::Reach::Suspect => Reach::Suspect,
            lookup::Reach::Down => Reach::Down,
            lookup::Reach::Unspecified => return Err(BadRecord::Unknown("reach of a server")),
        };
        states.insert(cluster.clone(), State { reach, ready: server.ready });
        servers.insert(cluster, Server { region: text(&server.region, "a server's region")? });
    }
    let members = meaning.members.as_ref().ok_or(BadRecord::NoMembers)?;
    let members: Vec<Member> = decode_members(members)?;
    let placed = Placed {
        name: ServiceName::new(&meaning.namespace, &meaning.name)?,
        servers,
        contract: meaning
            .contract
            .as_ref()
            .map(decode_contract)
            .transpose()?
            .unwrap_or_else(Contract::default),
        contract_from,
        members,
        retry: decode_retry(&meaning.retry.clone().unwrap_or_default())?,
        timeout: decode_timeout(&meaning.timeout.unwrap_or_default()),
        balance: match meaning.balance() {
            lookup::Algorithm::P2cEwma => Algorithm::P2cEwma,
            lookup::Algorithm::RoundRobin => Algorithm::RoundRobin,
            lookup::Algorithm::Ring => Algorithm::Ring,
            lookup::Algorithm::Unspecified => return Err(BadRecord::Unknown("algorithm")),
        },
        ports,
    };
    Ok(Meaning {
        region: text(&meaning.region, "the region")?,
        states,
        local: meaning.endpoints.as_ref().map(|local| decode_endpoints(local, &placed)).transpose()?,
        placed,
    })
}

fn decode_endpoints(local: &lookup::Endpoints, placed: &Placed) -> Result<LocalEndpoints, BadRecord> {
    at_most(local.endpoints.len(), limits::LOOKUP_ENDPOINTS_MAX, "endpoints")?;
    let endpoints =
        local.endpoints.iter().map(|e| decode_endpoint(e, placed)).collect::<Result<Vec<_>, _>>()?;
    all_differ(endpoints.iter().map(|(endpoint, _)| &endpoint.id), "endpoints")?;
    Ok(LocalEndpoints { checked: local.checked, endpoints })
}

fn decode_endpoint(endpoint: &lookup::Endpoint, placed: &Placed) -> Result<(Endpoint, Vec<bool>), BadRecord> {
    if endpoint.ports.len() != placed.ports.len() {
        return Err(BadRecord::Unknown("ports of an endpoint"));
    }
    if endpoint.weight > ENDPOINT_WEIGHT_MAX {
        return Err(BadRecord::Weight(endpoint.weight));
    }
    let number = |told: &lookup::EndpointPort| {
        let number = u16::try_from(told.number).ok().filter(|&number| number != 0);
        number.ok_or(BadRecord::PortNumber(told.number))
    };
    let ports = placed.ports.iter().zip(&endpoint.ports);
    let ports = ports.map(|(port, told)| Ok((port.name.clone(), number(told)?)));
    let zone = match &*endpoint.zone {
        "" => Arc::default(),
        zone => text(zone, "an endpoint's zone")?.into(),
    };
    let endpoint_of = Endpoint {
        id: text(&endpoint.id, "an endpoint's id")?.into(),
        host: text(&endpoint.host, "an endpoint's host")?.into(),
        ports: ports.collect::<Result<_, BadRecord>>()?,
        weight: endpoint.weight,
        zone,
        capacity: endpoint.capacity,
    };
    Ok((endpoint_of, endpoint.ports.iter().map(|port| port.failing).collect()))
}

fn decode_retry(retry: &lookup::Retry) -> Result<Retry, BadRecord> {
    at_most(retry.methods.len(), METHODS_MAX, "methods")?;
    let small = |n: u32| u8::try_from(n).unwrap_or(u8::MAX);
    Ok(Retry {
        // As many as manifests allow.
        attempts: small(retry.attempts).clamp(1, 10),
        budget_percent: small(retry.budget_percent).min(100),
        min_per_second: retry.min_per_second,
        on: RetryOn {
            connect: retry.on_connect,
            refused: retry.on_refused,
            unavailable: retry.on_unavailable,
            reset: false,
            statuses: Vec::new(),
        },
        methods: retry.methods.iter().map(|m| text(m, "a method")).collect::<Result<_, _>>()?,
    })
}

fn decode_timeout(timeout: &lookup::Timeout) -> Timeout {
    let given = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
    let default = Timeout::default();
    Timeout {
        connect: given(timeout.connect_ms).unwrap_or(default.connect),
        head: given(timeout.head_ms).unwrap_or(default.head),
        idle: given(timeout.idle_ms),
        total: given(timeout.total_ms),
    }
}
