//! Chains of Envoy, with mutual TLS 1.3 and HTTP/2 or HTTP/3 between the proxies.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use e2e::process::Process;
use serde_json::{Value, json};
use wan::Namespace;

use crate::chain::{Chain, Ends, KEY_HEADER, KEYS, THREADS, free_address, start};
use crate::identity::Identity;

const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// Flow control that holds up nothing here.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 24 << 20;
/// Addresses of the far proxy between which the ring chooses.
const RING_HOSTS: usize = 4;

/// What is spoken on one side of a proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wire {
    /// HTTP/1.1: that is no proxy.
    Plain,
    Http2,
    Http3,
}

/// A proxy: where it listens, and what it sends requests to.
#[derive(Debug)]
struct Proxy<'a> {
    role: &'static str,
    listen: Vec<SocketAddr>,
    to: Vec<SocketAddr>,
    /// What the callers speak, and the servers.
    wire: (Wire, Wire),
    keyed: bool,
    inside: Option<&'a Namespace>,
}

/// Two proxies with HTTP/2 between them.
pub(crate) fn two(program: &Path, identity: &Identity, ends: &Ends<'_>) -> (Chain, Vec<Process>) {
    pair("envoy_h2", Wire::Http2, program, identity, ends)
}

/// Two proxies with HTTP/3 between them.
pub(crate) fn two_http3(program: &Path, identity: &Identity, ends: &Ends<'_>) -> (Chain, Vec<Process>) {
    pair("envoy_h3", Wire::Http3, program, identity, ends)
}

fn pair(
    name: &'static str,
    between: Wire,
    program: &Path,
    identity: &Identity,
    ends: &Ends<'_>,
) -> (Chain, Vec<Process>) {
    let &Ends { near, far, backend, inside: [west, east] } = ends;
    let proxy = |role, listen, to, wire, inside| Proxy {
        role,
        listen: vec![listen],
        to: vec![to],
        wire,
        keyed: false,
        inside,
    };
    let proxies = [
        proxy("east", far, backend, (between, Wire::Plain), east),
        proxy("west", near, far, (Wire::Plain, between), west),
    ];
    launch(name, program, identity, near, &proxies)
}

/// Two proxies, of which the near one places by a ring of the key.
pub(crate) fn ring_hash(program: &Path, identity: &Identity, backend: SocketAddr) -> (Chain, Vec<Process>) {
    let near = free_address();
    let far: Vec<_> = (0..RING_HOSTS).map(|_| free_address()).collect();
    let proxy = |role, listen, to, wire, keyed| Proxy { role, listen, to, wire, keyed, inside: None };
    let proxies = [
        proxy("east", far.clone(), vec![backend], (Wire::Http2, Wire::Plain), false),
        proxy("west", vec![near], far, (Wire::Plain, Wire::Http2), true),
    ];
    launch("envoy_ring_hash", program, identity, near, &proxies)
}

/// Four proxies: beside the caller, two gateways, beside the backend.
pub(crate) fn four(program: &Path, identity: &Identity, backend: SocketAddr) -> (Chain, Vec<Process>) {
    let [near, west, east, far] = std::array::from_fn(|_| free_address());
    let proxy = |role, listen, to, wire| Proxy {
        role,
        listen: vec![listen],
        to: vec![to],
        wire,
        keyed: false,
        inside: None,
    };
    let proxies = [
        proxy("east-sidecar", far, backend, (Wire::Http2, Wire::Plain)),
        proxy("east", east, far, (Wire::Http2, Wire::Http2)),
        proxy("west", west, east, (Wire::Http2, Wire::Http2)),
        proxy("west-sidecar", near, west, (Wire::Plain, Wire::Http2)),
    ];
    launch("envoy_four", program, identity, near, &proxies)
}

fn launch(
    name: &'static str,
    program: &Path,
    identity: &Identity,
    address: SocketAddr,
    proxies: &[Proxy<'_>],
) -> (Chain, Vec<Process>) {
    let run = |proxy: &Proxy<'_>| {
        let file = identity.dir.join(format!("{name}-{}.json", proxy.role));
        std::fs::write(&file, proxy.configuration(identity).to_string()).expect("a file in our own folder");
        let mut command = Command::new(program);
        command.arg("-c").arg(file).args(["--concurrency", &THREADS.to_string()]);
        command.args(["--disable-hot-restart", "--log-level", "error"]);
        start(proxy.inside, &identity.dir, name, proxy.role, command)
    };
    let processes: Vec<_> = proxies.iter().map(run).collect();
    let keys = if proxies.iter().any(|p| p.keyed) { KEYS } else { 0 };
    let pids = processes.iter().map(Process::pid).collect();
    (Chain { name, address, host: "cart.shop.mesh", keys, pids }, processes)
}

impl Proxy<'_> {
    fn configuration(&self, identity: &Identity) -> Value {
        let listeners: Vec<_> = self.listen.iter().map(|at| self.listener(*at, identity)).collect();
        json!({ "static_resources": { "listeners": listeners, "clusters": [self.cluster(identity)] } })
    }

    fn listener(&self, at: SocketAddr, identity: &Identity) -> Value {
        let mut route = json!({ "cluster": "next", "timeout": "0s" });
        if self.keyed {
            route["hash_policy"] = json!([{ "header": { "header_name": KEY_HEADER } }]);
        }
        let mut manager = json!({
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "in",
            "codec_type": match self.wire.0 {
                Wire::Plain => "AUTO",
                Wire::Http2 => "HTTP2",
                Wire::Http3 => "HTTP3",
            },
            "route_config": { "virtual_hosts": [{
                "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": route }]
            }] },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") }
            }]
        });
        match self.wire.0 {
            Wire::Http3 => manager["http3_protocol_options"] = json!({}),
            _ => manager["http2_protocol_options"] = http2(),
        }
        let mut chain = json!({ "filters": [
            { "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }
        ] });
        if self.wire.0 != Wire::Plain {
            chain["transport_socket"] = context(identity, "Downstream", self.wire.0);
        }
        let mut listener =
            json!({ "name": at.to_string(), "address": address(at), "filter_chains": [chain] });
        if self.wire.0 == Wire::Http3 {
            listener["address"]["socket_address"]["protocol"] = "UDP".into();
            listener["udp_listener_config"] =
                json!({ "quic_options": {}, "downstream_socket_config": { "prefer_gro": true } });
        }
        listener
    }

    fn cluster(&self, identity: &Identity) -> Value {
        let endpoints: Vec<_> =
            self.to.iter().map(|at| json!({ "endpoint": { "address": address(*at) } })).collect();
        let protocol = match self.wire.1 {
            Wire::Plain => json!({ "http_protocol_options": {} }),
            Wire::Http2 => json!({ "http2_protocol_options": http2() }),
            Wire::Http3 => json!({ "http3_protocol_options": {} }),
        };
        let options = format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions");
        let most = 100_000;
        let mut cluster = json!({
            "name": "next",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": { "cluster_name": "next", "endpoints": [{ "lb_endpoints": endpoints }] },
            "circuit_breakers": { "thresholds": [
                { "max_connections": most, "max_pending_requests": most, "max_requests": most }
            ] },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": options, "explicit_http_config": protocol
                }
            }
        });
        if self.wire.1 != Wire::Plain {
            cluster["transport_socket"] = context(identity, "Upstream", self.wire.1);
        }
        if self.keyed {
            cluster["lb_policy"] = "RING_HASH".into();
        }
        cluster
    }
}

fn http2() -> Value {
    json!({
        "initial_stream_window_size": STREAM_WINDOW,
        "initial_connection_window_size": CONNECTION_WINDOW,
        "max_concurrent_streams": 4096
    })
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } })
}

/// The TLS context of either side; `direction` is Envoy's own word for it.
fn context(identity: &Identity, direction: &str, wire: Wire) -> Value {
    let (kind, name) = &identity.name;
    let mut context = json!({
        "common_tls_context": {
            "alpn_protocols": [if wire == Wire::Http3 { "h3" } else { "h2" }],
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"
            },
            "tls_certificates": [{
                "certificate_chain": { "filename": identity.certificate }, "private_key": { "filename": identity.key }
            }],
            "validation_context": {
                "trusted_ca": { "filename": identity.authority },
                "match_typed_subject_alt_names": [{ "san_type": kind, "matcher": { "exact": name } }]
            }
        }
    });
    if direction == "Downstream" {
        context["require_client_certificate"] = true.into();
    }
    if wire == Wire::Http3 {
        if direction == "Upstream" {
            context["sni"] = name.clone().into();
        }
        let field = format!("{}_tls_context", direction.to_lowercase());
        let kind = format!("{TYPES}.transport_sockets.quic.v3.Quic{direction}Transport");
        let quic = json!({ "@type": kind, (field): context });
        return json!({ "name": "envoy.transport_sockets.quic", "typed_config": quic });
    }
    context["@type"] = format!("{TYPES}.transport_sockets.tls.v3.{direction}TlsContext").into();
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
}
