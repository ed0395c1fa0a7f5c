//! `kind: Listener`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::http_rules::{self, Http};
use super::raw::{Field, List, Number};
use super::registration::network;
use super::scope::{Scope, Target};
use super::units::{self, Wrong, number};
use crate::model::{Hosts, Lead, ListenAddress, ListenProtocol, Listener, ServiceName};

/// Most names that one listener tells apart.
const NAMES_MAX: usize = 4_096;
/// Most networks, and most gateways, of one listener.
const LIST_MAX: usize = 64;
/// Longest path of a Unix socket: `sun_path` of Linux, less its last zero byte.
const SOCKET_PATH_BYTES_MAX: usize = 107;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ListenerSpec {
    address: Field<String>,
    protocol: Field<String>,
    service: Field<String>,
    cluster: Field<String>,
    port: Field<Number>,
    names: Field<BTreeMap<String, Spanned<Named>>>,
    http: Field<Http>,
    proxy_header: Field<ProxyHeader>,
    gateways: List<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    service: Field<String>,
    cluster: Field<String>,
    port: Field<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProxyHeader {
    from: List<String>,
}

/// Reads the Listener `name` of `namespace`; relative paths count from `folder`, where there is one.
pub(super) fn read(
    namespace: &str,
    name: &str,
    spec: &Field<ListenerSpec>,
    at: Location,
    folder: Option<&Path>,
    scope: &mut Scope<'_, '_>,
) -> Option<Listener> {
    const EXAMPLE: &str = "spec: { address: 127.0.0.1:5432, protocol: tcp, service: db }";
    let spec = scope.present(spec, "spec", at, EXAMPLE)?;
    let (at, spec) = (spec.referenced, &spec.value);
    let listen = |text: &str| listen_address(text, folder);
    let address = scope.required(&spec.address, "spec.address", at, "address: 127.0.0.1:5432", listen);
    let protocols = units::word(&ListenProtocol::WORDS, &[]);
    let protocol = scope.required(&spec.protocol, "spec.protocol", at, "protocol: tcp", protocols);
    let to = match (&spec.service, &spec.cluster, &spec.port) {
        (None, None, None) => Some(None),
        (service, cluster, port) => lead(namespace, "spec", at, service, cluster, port, scope).map(Some),
    };
    let names = names(namespace, &spec.names, scope);
    let http = http_rules::read(&spec.http, scope);
    let from = proxy_header_from(&spec.proxy_header, scope);
    let gateways = gateways(&spec.gateways, scope);
    let (address, protocol, to, names) = (address?, protocol?, to?, names?);
    fits(protocol, &address, to.as_ref(), &names, at, spec, scope)?;
    Some(Listener {
        namespace: namespace.into(),
        name: name.into(),
        address,
        protocol,
        to,
        names,
        http: http?,
        proxy_header_from: from?,
        gateways: gateways?,
    })
}

/// What each protocol leads by.
fn fits(
    protocol: ListenProtocol,
    address: &ListenAddress,
    to: Option<&Lead>,
    names: &BTreeMap<Arc<str>, Lead>,
    at: Location,
    spec: &ListenerSpec,
    scope: &mut Scope<'_, '_>,
) -> Option<()> {
    let named = spec.names.as_ref().map_or(at, |names| names.referenced);
    match protocol {
        ListenProtocol::Udp if matches!(address, ListenAddress::Unix(_)) => {
            scope.error(at, "spec.address: there is no UDP on Unix sockets", "write an address and a port");
            None
        }
        ListenProtocol::Udp if spec.proxy_header.is_some() => {
            let hint = "leave it out: datagrams have no beginning that it could stand at";
            scope.error(at, "spec.proxyHeader: there is none in udp", hint);
            None
        }
        ListenProtocol::Tcp | ListenProtocol::Udp | ListenProtocol::Thrift | ListenProtocol::Mux
            if to.is_none() =>
        {
            let hint = "add `service: db`: bytes do not say where they are to go";
            scope.error(at, "spec.service is missing", hint);
            None
        }
        ListenProtocol::Tcp
        | ListenProtocol::Udp
        | ListenProtocol::Thrift
        | ListenProtocol::Mux
        | ListenProtocol::Http
            if !names.is_empty() =>
        {
            let message = format!("spec.names: there are none in {}", protocol.as_str());
            scope.error(named, message, "leave `names` out, or write `protocol: tls` or `detect`");
            None
        }
        ListenProtocol::Tcp
        | ListenProtocol::Tls
        | ListenProtocol::Udp
        | ListenProtocol::Thrift
        | ListenProtocol::Mux
            if spec.http.is_some() =>
        {
            let message = format!("spec.http: there are no requests in {}", protocol.as_str());
            scope.error(at, message, "leave `http` out, or write `protocol: http` or `detect`");
            None
        }
        ListenProtocol::Http if to.is_some() => {
            let hint = "leave `service`, `cluster` and `port` out: each request names its host";
            scope.error(at, "spec.service: a listener for http leads nowhere by itself", hint);
            None
        }
        _ => Some(()),
    }
}

fn lead(
    namespace: &str,
    field: &str,
    at: Location,
    service: &Field<String>,
    cluster: &Field<String>,
    port: &Field<Number>,
    scope: &mut Scope<'_, '_>,
) -> Option<Lead> {
    let service_name = format!("{field}.service");
    let named = scope.required(service, &service_name, at, "service: db", |name: &str| {
        let name = units::label(name)?;
        ServiceName::new(namespace, &name).map_err(|e| Wrong { message: e.to_string(), hint: None })
    });
    let place = service.as_ref().map_or(at, |s| s.referenced);
    if let Some(service) = &named {
        scope.refers(place, Target::Service(service.clone(), "listener"));
    }
    let cluster_name = format!("{field}.cluster");
    let pinned = scope.optional(cluster, &cluster_name, units::cluster);
    let port = scope.optional(port, &format!("{field}.port"), number::<u16>(1..=65_535));
    Some(Lead { service: named?, cluster: pinned?, port: port? })
}

/// Where names of TLS lead.
fn names(
    namespace: &str,
    field: &Field<BTreeMap<String, Spanned<Named>>>,
    scope: &mut Scope<'_, '_>,
) -> Option<BTreeMap<Arc<str>, Lead>> {
    const NAME: &str = "spec.names";
    let Some(given) = field else { return Some(BTreeMap::new()) };
    if given.value.len() > NAMES_MAX {
        let message = format!("{NAME} has {} entries", given.value.len());
        scope.error(given.referenced, message, format!("at most {NAMES_MAX} are allowed"));
        return None;
    }
    let mut names = BTreeMap::new();
    for (name, entry) in &given.value {
        let (at, raw) = (entry.referenced, &entry.value);
        let (wild, bare) = name.strip_prefix("*.").map_or(("", &**name), |bare| ("*.", bare));
        let host = match units::dns_name(bare) {
            Ok(host) => Some(format!("{wild}{host}")),
            Err(wrong) => {
                let hint = wrong.hint.unwrap_or_default();
                scope.error(at, format!("{NAME}: {}", wrong.message), hint);
                None
            }
        };
        let lead = lead(namespace, NAME, at, &raw.service, &raw.cluster, &raw.port, scope);
        let (Some(host), Some(lead)) = (host, lead) else { continue };
        if names.insert(host.clone().into(), lead).is_some() {
            scope.error(
                at,
                format!("{NAME}: `{host}` stands here twice"),
                "case makes no difference: remove one",
            );
        }
    }
    (names.len() == given.value.len()).then_some(names)
}

fn proxy_header_from(field: &Field<ProxyHeader>, scope: &mut Scope<'_, '_>) -> Option<Hosts> {
    const NAME: &str = "spec.proxyHeader.from";
    let Some(header) = field else { return Some(Hosts::default()) };
    scope.present(&header.value.from, NAME, header.referenced, "from: [10.0.0.0/24]")?;
    let list = scope.list(&header.value.from, NAME, LIST_MAX)?;
    let rules: Vec<_> = list.iter().filter_map(|entry| scope.read(entry, NAME, network)).collect();
    (rules.len() == list.len()).then_some(Hosts(rules))
}

fn gateways(list: &List<String>, scope: &mut Scope<'_, '_>) -> Option<BTreeSet<Arc<str>>> {
    const NAME: &str = "spec.gateways";
    let list = scope.list(list, NAME, LIST_MAX)?;
    let ids: Vec<_> = list.iter().filter_map(|entry| scope.read(entry, NAME, units::label)).collect();
    (ids.len() == list.len()).then(|| ids.into_iter().map(Into::into).collect())
}

/// `address:port`, or `unix:` and a path.
fn listen_address(text: &str, folder: Option<&Path>) -> Result<ListenAddress, Wrong> {
    let Some(path) = text.strip_prefix("unix:") else {
        return units::socket(text).map(ListenAddress::Ip);
    };
    let path = match folder {
        Some(folder) => folder.join(path),
        None => PathBuf::from(path),
    };
    if folder.is_none() && !path.is_absolute() {
        let message = format!("`{text}` is no absolute path");
        return Err(Wrong::new(message, "what is applied stands in no folder: write the whole path"));
    }
    socket_path(path).map(ListenAddress::Unix)
}

/// A path that the system takes as the address of a socket.
pub(super) fn socket_path(path: PathBuf) -> Result<PathBuf, Wrong> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() > SOCKET_PATH_BYTES_MAX {
        let message = format!("`{}` is no path of a socket", path.display());
        return Err(Wrong::new(message, format!("the system allows {SOCKET_PATH_BYTES_MAX} bytes")));
    }
    Ok(path)
}
