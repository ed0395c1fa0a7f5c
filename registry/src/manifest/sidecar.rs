//! `kind: Sidecar`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::gateway::{admin_hosts, apart, directory};
use super::http_rules::{self, Http};
use super::listener::socket_path;
use super::raw::{Directory, Field, List};
use super::register::{self, Registration};
use super::scope::Scope;
use super::units;
use crate::model::{GatewayAddress, Sidecar};

/// Most gateways of one cluster that a sidecar holds tunnels to.
const GATEWAYS_MAX: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SidecarSpec {
    cluster: Field<String>,
    trust_domain: Field<String>,
    identity: Field<Directory>,
    gateways: List<Address>,
    listen: Field<Listen>,
    http: Field<Http>,
    passthrough: Option<bool>,
    domain: Field<String>,
    register: List<Registration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    unix: Field<String>,
    address: Field<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Listen {
    proxy: Field<String>,
    admin: Field<String>,
    admin_hosts: List<String>,
}

/// Reads a Sidecar; relative paths count from `folder`.
pub(super) fn read(
    id: &str,
    spec: &Field<SidecarSpec>,
    at: Location,
    folder: &Path,
    scope: &mut Scope<'_, '_>,
) -> Option<Sidecar> {
    let spec = scope.present(spec, "spec", at, "spec: { cluster: west, ... }")?;
    let (at, spec) = (spec.referenced, &spec.value);
    let cluster = scope.required(&spec.cluster, "spec.cluster", at, "cluster: west", units::cluster);
    let trust_domain = scope.required(
        &spec.trust_domain,
        "spec.trustDomain",
        at,
        "trustDomain: acme.example",
        units::trust_domain,
    );
    let identity = directory(&spec.identity, "identity", "pki/west-shop-cart", at, folder, scope);
    let gateways = gateways(&spec.gateways, at, folder, scope);
    let listen = listen(&spec.listen, scope);
    let http = http_rules::read(&spec.http, scope);
    let domain = scope.optional(&spec.domain, "spec.domain", units::domain);
    let register = register::read(&spec.register, scope);
    let (proxy, admin, admin_hosts) = listen?;
    Some(Sidecar {
        id: id.to_owned(),
        cluster: cluster?,
        trust_domain: trust_domain?,
        identity_dir: identity?,
        gateways: gateways?,
        proxy,
        http: http?,
        admin,
        admin_hosts,
        passthrough: spec.passthrough.unwrap_or(false),
        domain: domain?.unwrap_or_else(|| "mesh".into()),
        register: register?,
    })
}

fn gateways(
    list: &List<Address>,
    parent: Location,
    folder: &Path,
    scope: &mut Scope<'_, '_>,
) -> Option<Vec<GatewayAddress>> {
    let example = "gateways: [{ unix: state/west/tunnel.sock }]";
    scope.present(list, "spec.gateways", parent, example)?;
    let entries = scope.list(list, "spec.gateways", GATEWAYS_MAX)?;
    let mut gateways = Vec::with_capacity(entries.len());
    let mut whole = true;
    for entry in entries {
        match address(entry, folder, scope) {
            Some(known) if gateways.contains(&known) => {
                scope.error(
                    entry.referenced,
                    format!("spec.gateways: {known} stands here twice"),
                    "remove one",
                );
                whole = false;
            }
            Some(address) => gateways.push(address),
            None => whole = false,
        }
    }
    if entries.is_empty() {
        scope.error(parent, "spec.gateways is empty", format!("name at least one: `{example}`"));
        return None;
    }
    whole.then_some(gateways)
}

fn address(entry: &Spanned<Address>, folder: &Path, scope: &mut Scope<'_, '_>) -> Option<GatewayAddress> {
    match (&entry.value.unix, &entry.value.address) {
        (Some(path), None) => {
            let socket = |text: &str| socket_path(folder.join(text));
            scope.read(path, "spec.gateways.unix", socket).map(GatewayAddress::Unix)
        }
        (None, Some(address)) => {
            scope.read(address, "spec.gateways.address", units::host_port).map(GatewayAddress::Tcp)
        }
        _ => {
            let hint = "write `{ unix: state/west/tunnel.sock }` or `{ address: gw.west.example:7443 }`";
            scope.error(entry.referenced, "spec.gateways: one of `unix` and `address` belongs here", hint);
            None
        }
    }
}

/// The sockets, with their defaults: for the workload, for operators; and under which names those may ask.
fn listen(field: &Field<Listen>, scope: &mut Scope<'_, '_>) -> Option<(SocketAddr, SocketAddr, Vec<String>)> {
    let default = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (proxy, admin) = (default(7470), default(7471));
    let Some(raw) = field else { return Some((proxy, admin, Vec::new())) };
    let given_proxy = scope.optional(&raw.value.proxy, "spec.listen.proxy", units::socket);
    let given_admin = scope.optional(&raw.value.admin, "spec.listen.admin", units::socket);
    let hosts = admin_hosts(&raw.value.admin_hosts, scope)?;
    let (proxy, admin) = (given_proxy?.unwrap_or(proxy), given_admin?.unwrap_or(admin));
    apart(&[("proxy", proxy), ("admin", admin)], raw.referenced, scope)?;
    Some((proxy, admin, hosts))
}
