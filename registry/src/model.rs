//! What exists, in types that cannot be wrong later: only [`crate::manifest`] and [`crate::pure::mirror`] make them.
//!
//! Names are validated where they enter; everything here is immutable and cheap to clone.

mod backend;
mod catalog;
mod condition;
mod hosts;
mod http_rules;
mod listener;
mod object;
mod policy;
mod port_numbers;
pub mod record;
mod sidecar;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::limits::NAME_BYTES_MAX;
use proto::text::clean;

pub use backend::{EtcdOptions, EtcdUser};
pub use catalog::{Catalog, Declared, Import, PeerImports, Position};
pub use condition::{Condition, ConditionKind, Reason, Subject};
pub use hosts::{HostRule, Hosts, is_host};
pub use http_rules::{Forwarded, HttpRules};
pub use listener::{Lead, ListenAddress, ListenProtocol, Listener};
pub use object::{Kind, Object, ObjectName, Stored, VALUE_BYTES_MAX};
pub use policy::{
    Algorithm, Contract, HashKey, Member, Mode, OnOwnerUnavailable, Policy, Retry, RetryOn, Tier, Timeout,
};
pub use port_numbers::PortNumbers;
pub use sidecar::{GatewayAddress, Sidecar};

/// The longest duration that a manifest may give: a request that may take longer has no deadline worth the name.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// After this long without a word from the peer its records go, unless the link says otherwise.
pub const EXPIRE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The name of one cluster: an RFC 1123 label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

/// A service's name without its cluster: `namespace/name`, both RFC 1123 labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The namespace, `default` where a manifest gives none.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no RFC 1123 label (1 to 63 of a-z, 0-9 and '-', a letter or digit at both ends)")]
pub struct BadLabel(String);

impl BadLabel {
    /// Quotes `text`, which may be anything.
    fn new(text: &str) -> Self {
        Self(clean(text, NAME_BYTES_MAX))
    }
}

/// Whether `s` is an RFC 1123 label (RFC 1123, section 2.1; lower case only, as Kubernetes has it).
pub fn is_label(s: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    matches!(bytes.len(), 1..=63)
        && bytes.iter().all(|&b| edge(b) || b == b'-')
        && edge(bytes[0])
        && edge(bytes[bytes.len() - 1])
}

impl ClusterName {
    /// # Errors
    /// When `s` is no RFC 1123 label.
    pub fn new(s: &str) -> Result<Self, BadLabel> {
        if is_label(s) { Ok(Self(s.into())) } else { Err(BadLabel::new(s)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ServiceName {
    /// # Errors
    /// When either part is no RFC 1123 label.
    pub fn new(namespace: &str, name: &str) -> Result<Self, BadLabel> {
        for part in [namespace, name] {
            if !is_label(part) {
                return Err(BadLabel::new(part));
            }
        }
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }

    /// `name.namespace`, as it stands in mesh host names.
    pub fn host_prefix(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A host name or address with a port, resolved when it is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// DNS name or IP address (IPv6 without brackets); of an endpoint also the absolute path of a Unix socket, and then the
    /// port says nothing.
    pub host: Arc<str>,
    /// Port, never 0.
    pub port: u16,
}

impl HostPort {
    /// The path of the Unix socket that it stands for.
    pub fn unix(&self) -> Option<&Path> {
        self.host.starts_with('/').then(|| Path::new(&*self.host))
    }

    /// What stands in the field `Host` of a request to it: behind a Unix socket there is no name.
    pub fn authority(&self) -> String {
        match self.unix() {
            None => self.to_string(),
            Some(_) => "localhost".into(),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unix().is_some() {
            f.write_str(&self.host)
        } else if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One gateway process (`kind: Gateway`); only ever read from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// `metadata.name`: unique within the cluster, part of the certificate's identity.
    pub id: String,
    /// The cluster it serves.
    pub cluster: ClusterName,
    /// The cluster's region: the ring's zone where no contract names one.
    pub region: String,
    /// SPIFFE trust domain of this cluster.
    pub trust_domain: String,
    /// Holds `tls.crt`, `tls.key` and `bundles/<cluster>.pem`.
    pub identity_dir: PathBuf,
    /// Holds the cluster's UID, the epoch and the last catalog.
    pub state_dir: PathBuf,
    /// Where the registry is kept.
    pub registry: Backend,
    /// Where it listens.
    pub listen: Listen,
    /// What holds for requests at `listen.http`.
    pub http: Arc<HttpRules>,
    /// Addresses that peers may dial; sent in HELLO.
    pub advertise: Vec<HostPort>,
    /// The mesh's DNS domain, `mesh` by default.
    pub domain: String,
}

/// Where a registry is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In the state directory, for one gateway.
    Embedded,
    /// In etcd, for every gateway of the cluster.
    Etcd(EtcdOptions),
}

/// The sockets of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// UDP (and later TCP) for tunnels.
    pub tunnel: std::net::SocketAddr,
    /// Plain HTTP from callers without a sidecar.
    pub http: std::net::SocketAddr,
    /// Health, metrics and status.
    pub admin: std::net::SocketAddr,
    /// Host names under which `admin` may be asked, beside those that no web page can own.
    pub admin_hosts: Vec<String>,
}

/// The declared relation to one peer (`kind: Link`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The peer's cluster name.
    pub cluster: ClusterName,
    /// Where to dial; empty: accept only.
    pub addresses: Vec<HostPort>,
    /// The peer's trust domain; our own unless given.
    pub trust_domain: String,
    /// What of the peer's exports is taken in, first match wins; empty: nothing.
    pub import: Vec<ImportRule>,
    /// After so long without a word from the peer what is mirrored of it goes.
    pub expire_after: Duration,
    /// What the peer's gateways may see and change of what this cluster declares; empty: nothing.
    pub allow_apply: Vec<ApplyRule>,
    /// How what may be in flight to it is decided.
    pub congestion: Congestion,
    /// Most bits per second to it, on each tunnel; none: as many as the path takes.
    pub max_rate: Option<u64>,
}

/// How it is decided what may be in flight on a tunnel's path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// By what the path delivers and by its queue, and not by loss alone.
    #[default]
    Ringway,
    /// By loss (RFC 9438).
    Cubic,
    /// By loss (RFC 9002, section 7).
    NewReno,
    /// By what the path delivers, as the first version of BBR does.
    Bbr,
}

/// One line of `Link.spec.allow.apply`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyRule {
    /// Objects of this namespace; none: of every namespace.
    pub namespace: Option<String>,
    /// Of these kinds.
    pub kinds: BTreeSet<Kind>,
}

impl ApplyRule {
    /// Whether it grants changes of `object`.
    pub fn allows(&self, object: &ObjectName) -> bool {
        self.kinds.contains(&object.kind())
            && self.namespace.as_deref().is_none_or(|namespace| namespace == object.namespace())
    }
}

/// One line of `Link.spec.import`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRule {
    /// Only services of this namespace; none: of every namespace.
    pub namespace: Option<String>,
    /// Whether the service joins the union name, or is reachable by its pinned name only.
    pub union: bool,
    /// Whether the placement that the peer declares of it counts here.
    pub placement: Placement,
}

/// What becomes of the placement contracts that a peer declares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// They count as our own do.
    #[default]
    Accept,
    /// They do not, nor does it matter whether others leave the peer out.
    Ignore,
}

impl Link {
    /// The rule that takes `service` in, if any does.
    pub fn import_rule(&self, service: &ServiceName) -> Option<&ImportRule> {
        self.import.iter().find(|r| r.namespace.as_deref().is_none_or(|ns| ns == &*service.namespace))
    }
}

/// A service declared in this cluster (`kind: MeshService`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its ports, at least one; the first is the default.
    pub ports: Arc<[Port]>,
    /// Its instances, unique by id.
    pub endpoints: Vec<Endpoint>,
    /// How instances are checked; none: what requests tell of them is all.
    pub health_check: Option<HealthCheck>,
    /// Who of the peers may call it.
    pub export: Grant,
    /// Where workloads may register endpoints over the network, beside at their own address.
    pub registration: Hosts,
}

/// A port of a service, as callers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, unique in the service.
    pub name: Arc<str>,
    /// Its number in the authority, unique in the service.
    pub number: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether its endpoints are told who calls, in a PROXY header of version 2 before the first byte. Of our own services;
    /// a peer does not tell.
    pub proxy_header: bool,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP; endpoints are spoken to in HTTP/1.1.
    Http,
    /// gRPC, or whatever else is HTTP/2: endpoints are spoken to in HTTP/2, by prior knowledge.
    Grpc,
    /// Whatever runs on TCP: bytes, as they come.
    Tcp,
    /// TLS, which is passed on as it is: what it holds is between its two ends.
    Tls,
    /// Whatever runs on UDP: datagrams, as they come.
    Udp,
    /// Thrift: each call by itself.
    Thrift,
    /// Mux of Finagle, by which Thrift comes too: each call by itself.
    Mux,
}

impl Protocol {
    /// Those there are, with the words of manifests.
    pub const WORDS: [(&str, Self); 7] = [
        ("http", Self::Http),
        ("grpc", Self::Grpc),
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
        ("udp", Self::Udp),
        ("thrift", Self::Thrift),
        ("mux", Self::Mux),
    ];

    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Thrift => "thrift",
            Self::Mux => "mux",
        }
    }

    /// Whether it is carried request by request of HTTP; else connection by connection, flow by flow or call by call.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Grpc)
    }

    /// Whether each of its calls is carried by itself.
    pub fn has_calls(self) -> bool {
        matches!(self, Self::Thrift | Self::Mux)
    }

    /// Whether what is to be carried as `wanted` is, or as what comes closest to it: connections, flows, or calls.
    pub fn is_carried_as(self, wanted: Self) -> bool {
        match wanted {
            Self::Udp | Self::Thrift | Self::Mux => self == wanted,
            _ => !self.is_http() && self != Self::Udp,
        }
    }
}

/// One instance of a service. There may be a hundred thousand, so what is known of one elsewhere shares its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Given, else `host:port` of its first port.
    pub id: Arc<str>,
    /// DNS name or address, or the absolute path of a Unix socket.
    pub host: Arc<str>,
    /// Port numbers by the service's port names: one for each of them.
    pub ports: PortNumbers,
    /// In hundredths, 100 is one.
    pub weight: u32,
    /// Zone within the cluster, empty if none.
    pub zone: Arc<str>,
    /// Requests it can hold at once, if declared.
    pub capacity: Option<u32>,
}

/// How the instances of a service are checked, each on each of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From the start of one check to the start of the next.
    pub interval: Duration,
    /// How long a check may take; at most `interval`.
    pub timeout: Duration,
    /// Checks in a row that must pass before an instance takes requests.
    pub rise: u32,
    /// Checks in a row that must fail before it takes none.
    pub fall: u32,
    /// Whether instances are asked all the same when the checks of all of them fail.
    pub fail_open: bool,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `GET path` with HTTP/1.1; on ports that do not speak it, as [`Self::Tcp`].
    Http {
        /// Path and query, in origin form.
        path: String,
        /// The one status that passes; none: every one from 200 to 399.
        expected_status: Option<u16>,
    },
    /// Whether a connection is accepted.
    Tcp,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            fail_open: false,
        }
    }
}

/// Which peers may use a service. Checked at every inbound request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Not exported.
    Nobody,
    /// Exported to every linked cluster.
    Everyone,
    /// Exported to these clusters.
    Clusters(BTreeSet<ClusterName>),
}

impl Grant {
    /// Whether `peer` may use the service.
    pub fn allows(&self, peer: &ClusterName) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everyone => true,
            Self::Clusters(set) => set.contains(peer),
        }
    }
}

/// The id of an endpoint that was given none.
pub fn default_id(host: &str, first_port: u16) -> String {
    HostPort { host: host.into(), port: first_port }.to_string()
}
