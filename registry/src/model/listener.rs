//! Where callers are listened to beside a process's own ports (`kind: Listener`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::{ClusterName, Hosts, HttpRules, Kind, ObjectName, ServiceName};

/// One listener, and where what it accepts leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: ListenAddress,
    /// What callers speak to it.
    pub protocol: ListenProtocol,
    /// Where connections lead that name nothing themselves; none: they are refused.
    pub to: Option<Lead>,
    /// Where TLS leads by the name that it is for (SNI), lower case; `*.` before one stands for all names under it.
    pub names: BTreeMap<Arc<str>, Lead>,
    /// What holds for its requests.
    pub http: Arc<HttpRules>,
    /// Addresses whose connections begin with a PROXY header.
    pub proxy_header_from: Hosts,
    /// The gateways that have it, by their ids; empty: all of the cluster.
    pub gateways: BTreeSet<Arc<str>>,
}

/// Where a socket is bound.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// The file of a Unix socket.
    Unix(PathBuf),
}

/// What callers speak to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenProtocol {
    /// HTTP: each request names its host.
    Http,
    /// Whatever runs on TCP.
    Tcp,
    /// TLS, led by the name that it is for, and never decrypted.
    Tls,
    /// What the first bytes show: HTTP, TLS, or anything else.
    Detect,
    /// Whatever runs on UDP.
    Udp,
    /// Thrift: each call is placed by itself.
    Thrift,
    /// Mux: each call is placed by itself.
    Mux,
}

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// The service.
    pub service: ServiceName,
    /// The one cluster that shall serve it; none: the union.
    pub cluster: Option<ClusterName>,
    /// Its port, as callers see it; none: the first.
    pub port: Option<u16>,
}

impl ListenProtocol {
    /// Those there are, with the words of manifests.
    pub const WORDS: [(&str, Self); 7] = [
        ("http", Self::Http),
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
        ("detect", Self::Detect),
        ("udp", Self::Udp),
        ("thrift", Self::Thrift),
        ("mux", Self::Mux),
    ];

    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Detect => "detect",
            Self::Udp => "udp",
            Self::Thrift => "thrift",
            Self::Mux => "mux",
        }
    }
}

impl Listener {
    /// What it is called.
    pub fn object(&self) -> ObjectName {
        ObjectName::new(Kind::Listener, &self.namespace, &self.name)
    }

    /// Whether the gateway of this id has it.
    pub fn is_of(&self, gateway: &str) -> bool {
        self.gateways.is_empty() || self.gateways.contains(gateway)
    }

    /// Where TLS for `name`, in lower case, leads: by the name itself, else by the nearest `*.` above it.
    pub fn named(&self, name: &str) -> Option<&Lead> {
        let parents = name.match_indices('.').map(|(dot, _)| &name[dot..]);
        self.names.get(name).or_else(|| {
            let mut wild = parents.filter_map(|parent| self.names.get(&*format!("*{parent}")));
            wild.next()
        })
    }

    /// All that it leads to.
    pub fn leads(&self) -> impl Iterator<Item = &Lead> {
        self.to.iter().chain(self.names.values())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Lead {
    /// The authority that it stands for in the mesh's `domain`.
    pub fn authority(&self, domain: &str) -> String {
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        match &self.cluster {
            None => format!("{}.{domain}{port}", self.service.host_prefix()),
            Some(cluster) => format!("{}.{cluster}.{domain}{port}", self.service.host_prefix()),
        }
    }
}

/// `name.namespace[.cluster][:port]`, as host names of the mesh have it.
impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.service.host_prefix())?;
        if let Some(cluster) = &self.cluster {
            write!(f, ".{cluster}")?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}
