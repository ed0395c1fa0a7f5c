//! `/v1/registry`: what this gateway holds of its own cluster and of others, as `ringway registry dump` shows it.

use std::collections::BTreeMap;

use admin_api::registry::{Dump, Exported, Exports, Imports, Object, Record, Stored};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use registry::model::{ClusterName, Contract, Grant, Import, Link, PeerImports, Policy, Port, Service};
use registry::store::{Entry, Store, keys};
use registry::tasks::recorder;

use super::status::mode;
use super::{Admin, found, problem};

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
    let conditions = crate::control::sync::conditions(shared, &view, shared.clock.now());
    let conditions = conditions.iter().map(super::status::condition).collect();
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
    format!("{} {} {}", port.name, port.number, port.protocol.as_str())
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
        policy.retry.attempts,
        timeout.head,
        timeout.idle()
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
