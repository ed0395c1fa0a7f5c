//! Chains of Envoy, with mutual TLS 1.3 and HTTP/2 between the proxies.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::mesh::{Mesh, TRUST_DOMAIN};
use e2e::process::Process;
use serde_json::{Value, json};

use crate::chain::{Chain, KEY_HEADER, KEYS, THREADS, free_address, start};

const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// Flow control that holds up nothing here.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 24 << 20;
/// Addresses of the far proxy between which the ring chooses.
const RING_HOSTS: usize = 4;

/// What every proxy of the peers shows, from the same authority as our gateways'.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Where the peers' files are.
    pub(crate) dir: PathBuf,
    /// The authority's certificate.
    pub(crate) authority: PathBuf,
    /// Certificate and key in one file.
    pub(crate) both: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    uri: String,
}

impl Identity {
    /// Issues it.
    pub(crate) fn issue(mesh: &Mesh) -> std::io::Result<Self> {
        let dir = mesh.dir().join("peers");
        mesh.issue("ca", "peer", &[], &dir);
        let (certificate, key, both) = (dir.join("tls.crt"), dir.join("tls.key"), dir.join("both.pem"));
        std::fs::write(&both, [std::fs::read(&certificate)?, std::fs::read(&key)?].concat())?;
        let uri = format!("spiffe://{TRUST_DOMAIN}/cluster/peer/gateway/gw-1");
        Ok(Self { dir, authority: mesh.dir().join("ca/ca.crt"), both, certificate, key, uri })
    }

    /// The TLS context of either side; `direction` is Envoy's own word for it.
    fn context(&self, direction: &str) -> Value {
        let mut context = json!({
            "@type": format!("{TYPES}.transport_sockets.tls.v3.{direction}TlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"
                },
                "tls_certificates": [{
                    "certificate_chain": { "filename": self.certificate }, "private_key": { "filename": self.key }
                }],
                "validation_context": {
                    "trusted_ca": { "filename": self.authority },
                    "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": self.uri } }]
                }
            }
        });
        if direction == "Downstream" {
            context["require_client_certificate"] = true.into();
        }
        json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
    }
}

/// A proxy: where it listens, and what it sends requests to.
#[derive(Debug)]
struct Proxy {
    role: &'static str,
    listen: Vec<SocketAddr>,
    to: Vec<SocketAddr>,
    /// Whether the callers are proxies, and whether the servers are.
    secure: (bool, bool),
    keyed: bool,
}

/// Two proxies.
pub(crate) fn two(program: &Path, identity: &Identity, backend: SocketAddr) -> (Chain, Vec<Process>) {
    let (near, far) = (free_address(), free_address());
    let proxies = [
        Proxy { role: "east", listen: vec![far], to: vec![backend], secure: (true, false), keyed: false },
        Proxy { role: "west", listen: vec![near], to: vec![far], secure: (false, true), keyed: false },
    ];
    launch("envoy_h2", program, identity, near, &proxies)
}

/// Two proxies, of which the near one places by a ring of the key.
pub(crate) fn ring_hash(program: &Path, identity: &Identity, backend: SocketAddr) -> (Chain, Vec<Process>) {
    let near = free_address();
    let far: Vec<_> = (0..RING_HOSTS).map(|_| free_address()).collect();
    let proxies = [
        Proxy { role: "east", listen: far.clone(), to: vec![backend], secure: (true, false), keyed: false },
        Proxy { role: "west", listen: vec![near], to: far, secure: (false, true), keyed: true },
    ];
    launch("envoy_ring_hash", program, identity, near, &proxies)
}

/// Four proxies: beside the caller, two gateways, beside the backend.
pub(crate) fn four(program: &Path, identity: &Identity, backend: SocketAddr) -> (Chain, Vec<Process>) {
    let [near, west, east, far] = std::array::from_fn(|_| free_address());
    let proxy =
        |role, listen, to, secure| Proxy { role, listen: vec![listen], to: vec![to], secure, keyed: false };
    let proxies = [
        proxy("east-sidecar", far, backend, (true, false)),
        proxy("east", east, far, (true, true)),
        proxy("west", west, east, (true, true)),
        proxy("west-sidecar", near, west, (false, true)),
    ];
    launch("envoy_four", program, identity, near, &proxies)
}

fn launch(
    name: &'static str,
    program: &Path,
    identity: &Identity,
    address: SocketAddr,
    proxies: &[Proxy],
) -> (Chain, Vec<Process>) {
    let run = |proxy: &Proxy| {
        let file = identity.dir.join(format!("{name}-{}.json", proxy.role));
        std::fs::write(&file, proxy.configuration(identity).to_string()).expect("a file in our own folder");
        let mut command = Command::new(program);
        command.arg("-c").arg(file).args(["--concurrency", &THREADS.to_string()]);
        command.args(["--disable-hot-restart", "--log-level", "error"]);
        start(&identity.dir, name, proxy.role, command)
    };
    let processes: Vec<_> = proxies.iter().map(run).collect();
    let keys = if proxies.iter().any(|p| p.keyed) { KEYS } else { 0 };
    let pids = processes.iter().map(Process::pid).collect();
    (Chain { name, address, host: "cart.shop.mesh", keys, pids }, processes)
}

impl Proxy {
    fn configuration(&self, identity: &Identity) -> Value {
        let listeners: Vec<_> = self.listen.iter().map(|at| self.listener(*at, identity)).collect();
        json!({ "static_resources": { "listeners": listeners, "clusters": [self.cluster(identity)] } })
    }

    fn listener(&self, at: SocketAddr, identity: &Identity) -> Value {
        let mut route = json!({ "cluster": "next", "timeout": "0s" });
        if self.keyed {
            route["hash_policy"] = json!([{ "header": { "header_name": KEY_HEADER } }]);
        }
        let manager = json!({
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "in",
            "codec_type": if self.secure.0 { "HTTP2" } else { "AUTO" },
            "http2_protocol_options": http2(),
            "route_config": { "virtual_hosts": [{
                "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": route }]
            }] },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") }
            }]
        });
        let mut chain = json!({ "filters": [
            { "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }
        ] });
        if self.secure.0 {
            chain["transport_socket"] = identity.context("Downstream");
        }
        json!({ "name": at.to_string(), "address": address(at), "filter_chains": [chain] })
    }

    fn cluster(&self, identity: &Identity) -> Value {
        let endpoints: Vec<_> =
            self.to.iter().map(|at| json!({ "endpoint": { "address": address(*at) } })).collect();
        let protocol = match self.secure.1 {
            true => json!({ "http2_protocol_options": http2() }),
            false => json!({ "http_protocol_options": {} }),
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
        if self.secure.1 {
            cluster["transport_socket"] = identity.context("Upstream");
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
