//! `/v1/registry`: what this gateway holds of its own cluster and of others, as `ringway registry dump` shows it.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use registry::model::{
    ClusterName, Contract, Grant, Import, Link, PeerImports, Policy, Port, Protocol, Service,
};
use registry::store::{Entry, Store, keys};
use registry::tasks::recorder;
use serde::{Deserialize, Serialize};

use super::status::mode;
use super::{Admin, found, problem};

/// Everything held, of one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Dump {
    /// Our cluster.
    pub(crate) cluster: String,
    /// Grows with every change of what is held.
    pub(crate) revision: u64,
    /// What the manifests declare.
    pub(crate) declared: Vec<Object>,
    /// What peers may use, as they are told it.
    pub(crate) exports: Exports,
    /// What is mirrored, by peer.
    pub(crate) imports: Vec<Imports>,
    /// What does not hold.
    pub(crate) conditions: Vec<Condition>,
    /// What the registry in the state directory holds, by key.
    #[serde(default)]
    pub(crate) stored: Vec<Stored>,
}

/// A key of the registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) key: String,
    /// The registry's revision of its last change.
    pub(crate) modified: u64,
    pub(crate) bytes: usize,
    /// What its value says; none: this version does not know it.
    pub(crate) says: Option<String>,
}

/// A declared object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Object {
    pub(crate) kind: String,
    /// `namespace/name`, or a cluster's name.
    pub(crate) name: String,
    /// What it says, in a line.
    pub(crate) says: String,
}

/// What this cluster exports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exports {
    /// Which history, hexadecimal.
    pub(crate) epoch: String,
    /// How far in it.
    pub(crate) revision: u64,
    pub(crate) services: Vec<Exported>,
}

/// An exported service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exported {
    /// `namespace/name`.
    pub(crate) name: String,
    /// Cluster names, or `*`.
    pub(crate) to: Vec<String>,
    /// Linked clusters among them.
    pub(crate) reaches: Vec<String>,
}

/// What is mirrored of one peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Imports {
    pub(crate) peer: String,
    /// Which history of the peer's, hexadecimal.
    pub(crate) epoch: String,
    /// The peer's revision up to which this is complete.
    pub(crate) revision: u64,
    /// Since the last word of the peer; none: it never said one.
    pub(crate) age_seconds: Option<u64>,
    pub(crate) services: Vec<Record>,
}

/// An imported service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// `namespace/name`.
    pub(crate) name: String,
    /// Whether it joins the union name; else it is reached by its pinned name only.
    pub(crate) union: bool,
    /// As `name number protocol`.
    pub(crate) ports: Vec<String>,
    pub(crate) region: String,
    /// The peer's revision at which this was written.
    pub(crate) revision: u64,
    /// Its placement contract in a line, if the peer declares one.
    pub(crate) contract: Option<String>,
}

/// A condition that does not hold, or holds and should not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Condition {
    pub(crate) object: String,
    pub(crate) kind: String,
    pub(crate) status: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Answers `/v1/registry`.
pub(super) async fn dump(State(admin): State<Admin>) -> Response {
    match admin.registry.range(keys::ROOT).await {
        Ok(range) => found(move || collect(&admin, &range.entries)).await,
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// All that is known, and what is stored of it.
fn collect(admin: &Admin, entries: &[Entry]) -> Dump {
    let knowledge = &admin.knowledge;
    let catalog = knowledge.catalog();
    let (declared, position) = (&catalog.declared, knowledge.exported_position());
    let links = declared.links.values().map(|link| Object {
        kind: "Link".into(),
        name: link.cluster.to_string(),
        says: of_link(link),
    });
    let services = declared.services.values().map(|service| Object {
        kind: "MeshService".into(),
        name: service.name.to_string(),
        says: of_service(service),
    });
    let policies = declared.policies.values().map(|policy| Object {
        kind: "TrafficPolicy".into(),
        name: policy.service.to_string(),
        says: of_policy(policy),
    });
    let exported = declared.services.values().filter(|service| service.export != Grant::Nobody);
    let reaches = |grant: &Grant| {
        let reached = declared.links.keys().filter(|cluster| grant.allows(cluster));
        reached.map(ToString::to_string).collect()
    };
    let exports = exported.map(|service| Exported {
        name: service.name.to_string(),
        to: names(&service.export),
        reaches: reaches(&service.export),
    });
    let exports = Exports {
        epoch: format!("{:016x}", position.epoch),
        revision: position.revision,
        services: exports.collect(),
    };
    // With signs of life, which the catalog of the last change does not have.
    let peers: BTreeMap<&ClusterName, _> = declared
        .links
        .iter()
        .filter_map(|(name, link)| Some((name, (link, knowledge.imports(name)?))))
        .collect();
    let view = admin.shared.view.load_full();
    let shared = &admin.shared;
    let conditions = crate::control::sync::conditions(shared, &view, shared.clock.micros());
    let conditions = conditions.into_iter().map(|condition| Condition {
        object: condition.object,
        kind: condition.kind.into(),
        status: condition.status,
        reason: condition.reason.into(),
        message: condition.message,
    });
    let conditions = conditions.collect();
    let now = admin.shared.clock.unix_ms();
    Dump {
        cluster: catalog.cluster.to_string(),
        revision: catalog.revision,
        declared: links.chain(services).chain(policies).collect(),
        exports,
        imports: peers.into_iter().map(|(peer, (link, held))| imports(peer, link, &held, now)).collect(),
        conditions,
        stored: entries.iter().map(stored).collect(),
    }
}

fn stored(entry: &Entry) -> Stored {
    Stored {
        key: entry.key.clone(),
        modified: entry.modified,
        bytes: entry.value.len(),
        says: recorder::describe(&entry.key, &entry.value),
    }
}

fn imports(peer: &ClusterName, link: &Link, held: &PeerImports, now_unix_ms: u64) -> Imports {
    let record = |import: &Import| Record {
        name: import.name.to_string(),
        union: link.import_rule(&import.name).is_some_and(|rule| rule.union),
        ports: import.ports.iter().map(port).collect(),
        region: import.region.to_string(),
        revision: import.revision,
        contract: import.contract.as_deref().map(contract),
    };
    Imports {
        peer: peer.to_string(),
        epoch: format!("{:016x}", held.epoch),
        revision: held.revision,
        age_seconds: (held.synced_unix_ms > 0)
            .then(|| now_unix_ms.saturating_sub(held.synced_unix_ms) / 1000),
        services: held.services.values().map(|import| record(import)).collect(),
    }
}

fn names(grant: &Grant) -> Vec<String> {
    match grant {
        Grant::Nobody => Vec::new(),
        Grant::Everyone => vec!["*".into()],
        Grant::Clusters(clusters) => clusters.iter().map(ToString::to_string).collect(),
    }
}

fn port(port: &Port) -> String {
    let protocol = match port.protocol {
        Protocol::Http => "http",
        Protocol::Grpc => "grpc",
    };
    format!("{} {} {protocol}", port.name, port.number)
}

fn of_link(link: &Link) -> String {
    let addresses: Vec<_> = link.addresses.iter().map(ToString::to_string).collect();
    let addresses = if addresses.is_empty() { "accept only".into() } else { addresses.join(", ") };
    let rules: Vec<_> = link
        .import
        .iter()
        .map(|rule| {
            let namespace = rule.namespace.as_deref().unwrap_or("every namespace");
            if rule.union {
                format!("{namespace} into the union")
            } else {
                format!("{namespace} by pinned names")
            }
        })
        .collect();
    let rules = if rules.is_empty() { "nothing".into() } else { rules.join(", ") };
    format!("{addresses}; trust domain {}; imports {rules}", link.trust_domain)
}

fn of_service(service: &Service) -> String {
    let ports: Vec<_> = service.ports.iter().map(port).collect();
    let to = names(&service.export);
    let to = if to.is_empty() { "nobody".into() } else { to.join(", ") };
    let checked = if service.health_check.is_some() { ", checked" } else { "" };
    format!("ports {}; endpoints: {}{checked}; exported to {to}", ports.join(", "), service.endpoints.len())
}

fn of_policy(policy: &Policy) -> String {
    let placement = policy.placement.as_ref().map_or_else(|| "no placement".into(), contract);
    let timeout = &policy.timeout;
    format!(
        "{placement}; {} attempts; head {:?}, idle {:?}",
        policy.retry.attempts, timeout.head, timeout.idle
    )
}

/// A contract in a line.
fn contract(contract: &Contract) -> String {
    let members = match &contract.members {
        None => "whoever serves".into(),
        Some(members) => {
            let members: Vec<_> = members.iter().map(|m| format!("{}*{}", m.cluster, m.weight)).collect();
            members.join(" ")
        }
    };
    format!(
        "{}, generation {}, members {members}, seed {}",
        mode(contract.mode),
        contract.generation,
        contract.seed
    )
}
