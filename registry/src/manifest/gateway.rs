//! `kind: Gateway`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_saphyr::Location;

use super::raw::{Directory, Field, GatewaySpec, List, Listen as RawListen};
use super::scope::Scope;
use super::units;
use super::{http_rules, registry};
use crate::model::{Gateway, Listen};

/// Most addresses that a gateway advertises: each is sent in every HELLO.
const ADVERTISE_MAX: usize = 16;
/// Most names of an admin port: every request is compared with each.
const ADMIN_HOSTS_MAX: usize = 16;

/// Reads a Gateway; relative paths count from `folder`.
pub(super) fn read(
    id: &str,
    spec: &Field<GatewaySpec>,
    at: Location,
    folder: &Path,
    scope: &mut Scope<'_, '_>,
) -> Option<Gateway> {
    let spec = scope.present(spec, "spec", at, "spec: { cluster: west, ... }")?;
    let (at, spec) = (spec.referenced, &spec.value);
    let cluster = scope.required(&spec.cluster, "spec.cluster", at, "cluster: west", units::cluster);
    let region = scope.required(&spec.region, "spec.region", at, "region: us-west", units::zone);
    let trust_domain = scope.required(
        &spec.trust_domain,
        "spec.trustDomain",
        at,
        "trustDomain: acme.example",
        units::trust_domain,
    );
    let identity = directory(&spec.identity, "identity", "pki/west", at, folder, scope);
    let state = directory(&spec.state, "state", "state/west", at, folder, scope);
    let registry = registry::read(&spec.registry, folder, scope);
    let listen = listen(&spec.listen, scope);
    let http = http_rules::read(&spec.http, scope);
    let advertise: Option<Vec<_>> = scope
        .list(&spec.advertise, "spec.advertise", ADVERTISE_MAX)
        .map(|list| list.iter().filter_map(|a| scope.read(a, "spec.advertise", units::host_port)).collect());
    let domain = scope.optional(&spec.domain, "spec.domain", units::domain);
    Some(Gateway {
        id: id.to_owned(),
        cluster: cluster?,
        region: region?,
        trust_domain: trust_domain?,
        identity_dir: identity?,
        state_dir: state?,
        registry: registry?,
        listen: listen?,
        http: http?,
        advertise: advertise?,
        domain: domain?.unwrap_or_else(|| "mesh".into()),
    })
}

/// Such as `identity`: a directory of which the process must know.
pub(super) fn directory(
    field: &Field<Directory>,
    name: &str,
    example: &str,
    parent: Location,
    folder: &Path,
    scope: &mut Scope<'_, '_>,
) -> Option<PathBuf> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let example = format!("{last}: {{ directory: {example} }}");
    let field = scope.present(field, &format!("spec.{name}"), parent, &example)?;
    let name = format!("spec.{name}.directory");
    let path = scope.present(&field.value.directory, &name, field.referenced, &example)?;
    if path.value.is_empty() || path.value.contains('\0') {
        scope.error(path.referenced, format!("{name} is no path"), format!("such as `{example}`"));
        return None;
    }
    Some(folder.join(&path.value))
}

/// The sockets, with their defaults.
fn listen(field: &Field<RawListen>, scope: &mut Scope<'_, '_>) -> Option<Listen> {
    let mut listen = Listen {
        tunnel: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 7443)),
        http: SocketAddr::from((Ipv4Addr::LOCALHOST, 7480)),
        admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 7490)),
        admin_hosts: Vec::new(),
    };
    let Some(raw) = field else { return Some(listen) };
    let tunnel = scope.optional(&raw.value.tunnel, "spec.listen.tunnel", units::socket);
    let http = scope.optional(&raw.value.http, "spec.listen.http", units::socket);
    let admin = scope.optional(&raw.value.admin, "spec.listen.admin", units::socket);
    listen.admin_hosts = admin_hosts(&raw.value.admin_hosts, scope)?;
    listen.tunnel = tunnel?.unwrap_or(listen.tunnel);
    listen.http = http?.unwrap_or(listen.http);
    listen.admin = admin?.unwrap_or(listen.admin);
    // The tunnel's port is reserved for TCP, too: a carrier on it must not depend on what else is configured.
    let sockets = [("tunnel", listen.tunnel), ("http", listen.http), ("admin", listen.admin)];
    apart(&sockets, raw.referenced, scope)?;
    Some(listen)
}

/// `spec.listen.adminHosts`: names under which the admin port may be asked.
pub(super) fn admin_hosts(list: &List<String>, scope: &mut Scope<'_, '_>) -> Option<Vec<String>> {
    let field = "spec.listen.adminHosts";
    let names = scope.list(list, field, ADMIN_HOSTS_MAX)?;
    let read: Vec<_> = names.iter().filter_map(|name| scope.read(name, field, units::dns_name)).collect();
    (read.len() == names.len()).then_some(read)
}

/// Refuses two sockets that want the same port; none if there are such.
pub(super) fn apart(sockets: &[(&str, SocketAddr)], at: Location, scope: &mut Scope<'_, '_>) -> Option<()> {
    for (n, (name, socket)) in sockets.iter().enumerate() {
        for (other, taken) in &sockets[..n] {
            let overlap =
                socket.ip() == taken.ip() || socket.ip().is_unspecified() || taken.ip().is_unspecified();
            if socket.port() == taken.port() && socket.port() != 0 && overlap {
                let message = format!("spec.listen: `{name}` and `{other}` both want port {}", socket.port());
                scope.error(at, message, "give each its own port");
                return None;
            }
        }
    }
    Some(())
}
