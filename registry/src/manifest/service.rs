//! `kind: MeshService`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_saphyr::{Location, Spanned};

use super::health;
use super::listener::socket_path;
use super::raw::{self, Field, ServiceSpec};
use super::registration;
use super::scope::{Scope, Target};
use super::suggest;
use super::units::{self, Wrong, number};
use crate::model::{Endpoint, Grant, HostPort, Port, PortNumbers, Protocol, Service, ServiceName};

/// Most ports of one service.
const PORTS_MAX: usize = 64;

/// Most static endpoints of one service; more belong in a discovery source.
const ENDPOINTS_MAX: usize = 10_000;

/// Most clusters named in one grant.
const GRANT_MAX: usize = 1_024;

/// Largest weight of an endpoint in hundredths: a hundred times the usual one.
pub(super) const WEIGHT_MAX: i128 = 10_000;

/// Most requests that an endpoint may declare to hold at once.
pub(super) const CAPACITY_MAX: i128 = 1_000_000;

/// Reads a MeshService; `name` is none where it is wrong.
pub(super) fn read(
    name: Option<ServiceName>,
    spec: &Field<ServiceSpec>,
    at: Location,
    scope: &mut Scope<'_, '_>,
) -> Option<Service> {
    let spec = scope.present(spec, "spec", at, "spec: { ports: [...], endpoints: [...] }")?;
    let (at, spec) = (spec.referenced, &spec.value);
    let ports = ports(spec, at, scope);
    let endpoints = endpoints(spec, ports.as_deref(), scope);
    let health_check = health::read(&spec.health_check, scope);
    let export = export(&spec.export, scope);
    let registration = registration::read(&spec.registration, scope);
    Some(Service {
        name: name?,
        ports: ports?,
        endpoints: endpoints?,
        health_check: health_check?,
        export: export?,
        registration: registration?,
    })
}

/// The ports: at least one, names and numbers unique.
fn ports(spec: &ServiceSpec, parent: Location, scope: &mut Scope<'_, '_>) -> Option<Arc<[Port]>> {
    const EXAMPLE: &str = "ports: [{ name: web, port: 80, protocol: http }]";
    let field = scope.present(&spec.ports, "spec.ports", parent, EXAMPLE)?;
    let list = scope.list(&spec.ports, "spec.ports", PORTS_MAX)?;
    if list.is_empty() {
        scope.error(
            field.referenced,
            "spec.ports: a service has at least one port",
            format!("write `{EXAMPLE}`"),
        );
        return None;
    }
    let mut ports: Vec<Port> = Vec::new();
    for entry in list {
        let (at, raw) = (entry.referenced, &entry.value);
        let name = scope.required(&raw.name, "spec.ports.name", at, "name: web", units::label);
        let port = scope.required(&raw.port, "spec.ports.port", at, "port: 80", number::<u16>(1..=65_535));
        let protocols = units::word(&Protocol::WORDS, &[]);
        let protocol = scope.required(&raw.protocol, "spec.ports.protocol", at, "protocol: http", protocols);
        let proxy_header = proxy_header(raw, protocol, scope);
        let (Some(name), Some(number), Some(protocol), Some(proxy_header)) =
            (name, port, protocol, proxy_header)
        else {
            continue;
        };
        if ports.iter().any(|p| *p.name == *name) {
            let message = format!("spec.ports: two ports are named `{name}`");
            scope.error(at, message, "give each port its own name");
        } else if ports.iter().any(|p| p.number == number) {
            let message = format!("spec.ports: two ports have the number {number}");
            scope.error(at, message, "callers choose a port by its number: give each its own");
        } else {
            ports.push(Port { name: name.into(), number, protocol, proxy_header });
        }
    }
    (ports.len() == list.len()).then(|| ports.into())
}

/// Whether endpoints are told who calls, before the first byte: only where a connection is a caller's own.
fn proxy_header(raw: &raw::Port, protocol: Option<Protocol>, scope: &mut Scope<'_, '_>) -> Option<bool> {
    const NAME: &str = "spec.ports.proxyHeader";
    let versions = units::word(&[("v2", true)], &[]);
    let given = scope.optional(&raw.proxy_header, NAME, versions)?.unwrap_or(false);
    if let Some(field) = raw
        .proxy_header
        .as_ref()
        .filter(|_| protocol.is_some_and(|protocol| !protocol.is_carried_as(Protocol::Tcp)))
    {
        let hint = "leave it out: only a connection that is one caller's own has a beginning";
        scope.error(field.referenced, format!("{NAME}: only ports of tcp and tls have it"), hint);
        return None;
    }
    Some(given)
}

/// The endpoints, ids unique. `ports` are the service's, if those could be read.
fn endpoints(spec: &ServiceSpec, ports: Option<&[Port]>, scope: &mut Scope<'_, '_>) -> Option<Vec<Endpoint>> {
    let list = scope.list(&spec.endpoints, "spec.endpoints", ENDPOINTS_MAX)?;
    let mut ids = BTreeSet::new();
    let mut endpoints = Vec::with_capacity(list.len());
    for entry in list {
        if scope.findings.gives_up() {
            return None;
        }
        let Some(endpoint) = endpoint(entry, ports, scope) else { continue };
        if ids.insert(endpoint.id.clone()) {
            endpoints.push(endpoint);
        } else {
            let message = format!("spec.endpoints: two endpoints have the id `{}`", endpoint.id);
            scope.error(entry.referenced, message, "give each endpoint its own id");
        }
    }
    (endpoints.len() == list.len()).then_some(endpoints)
}

fn endpoint(
    entry: &Spanned<raw::Endpoint>,
    ports: Option<&[Port]>,
    scope: &mut Scope<'_, '_>,
) -> Option<Endpoint> {
    let (at, raw) = (entry.referenced, &entry.value);
    let host = scope.required(&raw.host, "spec.endpoints.host", at, "host: 127.0.0.1", endpoint_host);
    let id = scope.optional(&raw.id, "spec.endpoints.id", units::endpoint_id);
    let weight = scope.optional(&raw.weight, "spec.endpoints.weight", number::<u32>(1..=WEIGHT_MAX));
    let zone = scope.optional(&raw.zone, "spec.endpoints.zone", units::zone);
    let capacity = scope.optional(&raw.capacity, "spec.endpoints.capacity", number::<u32>(1..=CAPACITY_MAX));
    let numbers = ports.and_then(|ports| endpoint_ports(&raw.ports, ports, at, scope));
    let (host, numbers) = (Arc::<str>::from(host?), numbers?);
    let first = ports.and_then(|p| p.first()).and_then(|p| numbers.get(&p.name))?;
    let id = id?.unwrap_or_else(|| HostPort { host: host.clone(), port: first }.to_string());
    Some(Endpoint {
        id: id.into(),
        host,
        ports: numbers,
        weight: weight?.unwrap_or(100),
        zone: zone?.unwrap_or_default().into(),
        capacity: capacity?,
    })
}

/// A DNS name, an address, or the absolute path of a Unix socket.
fn endpoint_host(text: &str) -> Result<String, Wrong> {
    match text.strip_prefix("unix:").unwrap_or(text) {
        path if path.starts_with('/') => socket_path(path.into()).map(|_| path.to_owned()),
        _ => units::host(text),
    }
}

/// An endpoint's port numbers: one for each port of the service. A service with a single port may leave them out
/// where the endpoint listens on the service's own number.
fn endpoint_ports(
    field: &Field<BTreeMap<String, Spanned<raw::Number>>>,
    ports: &[Port],
    parent: Location,
    scope: &mut Scope<'_, '_>,
) -> Option<PortNumbers> {
    const NAME: &str = "spec.endpoints.ports";
    let names: Vec<&str> = ports.iter().map(|p| &*p.name).collect();
    let example = format!("ports: {{ {}: 9001 }}", names.join(": 9001, "));
    let given = match (field, ports) {
        (None, [only]) => return Some([(only.name.clone(), only.number)].into_iter().collect()),
        (field, _) => scope.present(field, NAME, parent, &example)?,
    };
    let mut numbers = Vec::new();
    for (name, value) in &given.value {
        if scope.findings.gives_up() {
            return None;
        }
        if let Some(port) = ports.iter().find(|port| *port.name == **name) {
            if let Some(n) = scope.read(value, &format!("{NAME}.{name}"), number::<u16>(1..=65_535)) {
                numbers.push((port.name.clone(), n));
            }
        } else {
            let hint = suggest::hint(name, &names, "the service's ports are");
            scope.error(value.referenced, format!("{NAME}: the service has no port `{name}`"), hint);
        }
    }
    // Where a name is unknown, it is most likely the missing one.
    let known = given.value.keys().all(|name| names.contains(&name.as_str()));
    for name in names.iter().filter(|n| known && !given.value.contains_key(**n)) {
        let message = format!("{NAME}: the number for the service's port `{name}` is missing");
        scope.error(given.referenced, message, format!("write `{example}`"));
    }
    (known && numbers.len() == names.len()).then(|| numbers.into_iter().collect())
}

/// The grant: nobody unless given.
fn export(field: &Field<raw::Export>, scope: &mut Scope<'_, '_>) -> Option<Grant> {
    const NAME: &str = "spec.export.to";
    let Some(export) = field else { return Some(Grant::Nobody) };
    let to = scope.present(&export.value.to, NAME, export.referenced, "to: [\"*\"]")?;
    let list = scope.list(&export.value.to, NAME, GRANT_MAX)?;
    let mut clusters = BTreeSet::new();
    let mut everyone = false;
    let mut whole = true;
    for entry in list {
        if entry.value == "*" {
            everyone = true;
        } else if let Some(cluster) = scope.read(entry, NAME, units::cluster) {
            scope.refers(entry.referenced, Target::Cluster(cluster.to_string(), NAME));
            clusters.insert(cluster);
        } else {
            whole = false;
        }
    }
    if everyone && list.len() > 1 {
        let hint = "keep `\"*\"`, or the names";
        scope.warning(
            to.referenced,
            format!("{NAME}: `*` grants to every cluster, the other names change nothing"),
            hint,
        );
    }
    let grant = match (everyone, clusters.is_empty()) {
        (true, _) => Grant::Everyone,
        (false, true) => Grant::Nobody,
        (false, false) => Grant::Clusters(clusters),
    };
    whole.then_some(grant)
}
